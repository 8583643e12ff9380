"""A toy search on plain Python functions as stages."""

import jax
import jax.numpy as jnp
import numpy as np

from dsl_jax.config import LayerSchedule, SearchConfig

KEY = jax.random.key(7)
CONFIG = SearchConfig(
    layers=(
        LayerSchedule(8, 0.3, 3.0, 2),
        LayerSchedule(5, 0.2, 2.0, 0),
        LayerSchedule(4, 0.2, 1.0, 0),
    ),
    num_parents=4,
    num_explorers=6,
    num_refiners=8,
)


def image_stage(images):
    return jnp.tanh(images * 2 + 0.5 * jnp.roll(images, 1, axis=-1))


def vector_stage(h):
    mixing = jnp.sin(jnp.arange(48 * 7.0)).reshape(48, 7)
    return jnp.tanh(h.reshape(h.shape[0], -1) @ mixing)


def logits_stage(h):
    return h @ (2 * jnp.cos(jnp.arange(7 * 5.0)).reshape(7, 5))


STAGES = (image_stage, vector_stage, logits_stage)


def data(number):
    generator = np.random.default_rng(3)
    images = generator.normal(size=(number, 4, 4, 3)).astype(np.float32)
    return images, generator.integers(0, 5, number)


def assert_same(ours, theirs):
    """Two pytrees of arrays are the same, to the bit."""
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
