"""Candidates that stay near the image's natural representation: `SearchConfig.least_cosine`."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from toy_search import CONFIG, KEY, STAGES, data, image_stage, vector_stage

from dsl_jax.config import SearchConfig
from dsl_jax.evolution.images import search
from dsl_jax.evolution.operators import brought_near
from dsl_jax.networks.convnet import ConvNet
from dsl_jax.networks.frozen import frozen_stages


def cosines(a, b):
    """Of each row, centred; plain NumPy."""
    a, b = (np.asarray(x, np.float64).reshape(len(x), -1) for x in (a, b))
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    return (a * b).sum(axis=1) / np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))


def test_what_is_far_is_brought_to_the_nearest_place_and_what_is_near_is_left():
    generator = np.random.default_rng(0)
    natural, far = generator.normal(size=(2, 3, 3, 2)).astype(np.float32)
    near = (natural - natural.mean() + 0.1 * far).astype(np.float32)
    np.testing.assert_array_equal(brought_near(near, natural, 0.9), near)
    found = np.asarray(brought_near(far, natural, 0.9))
    assert cosines(found[None], natural[None]) == pytest.approx(0.9, abs=1e-4)
    assert (found.mean(), found.std()) == pytest.approx((0, 1), abs=1e-4)
    # No other tensor with this cosine has a larger one to the one that was far.
    others = jax.vmap(brought_near, (0, None, None))(
        generator.normal(size=(2000, *far.shape)).astype(np.float32), natural, 0.9
    )
    best = cosines(found[None], far[None])[0]
    assert (cosines(others, np.broadcast_to(far, others.shape)) < best).all()


@pytest.mark.parametrize("size", [2, 3, 18])
def test_small_ones_are_brought_near_as_well_also_from_the_other_side(size):
    natural, h = np.random.default_rng(2).normal(size=(2, 500, size)).astype(np.float32)
    natural /= natural.std(axis=1, keepdims=True)
    h[::2] = -natural[::2] + 1e-2 * h[::2]  # across from it
    found = jax.vmap(brought_near, (0, 0, None))(h, natural, 0.8)
    assert (cosines(found, natural) > 0.8 - 1e-3).all()
    assert np.abs(found).max() < 100


@pytest.mark.parametrize(
    ("strategy", "target"), [("representation_ga", "parent_mean"), ("SNES", "best")]
)
def test_targets_of_blocks_stay_as_near_as_asked_and_are_found_all_the_same(strategy, target):
    images, labels = data(6)
    config = dataclasses.replace(
        CONFIG, strategy=strategy, target=target, initial_noise=1.0, least_cosine=0.9
    )
    first = image_stage(images)
    found = search(KEY, STAGES, images, labels, config)
    for layer, natural in enumerate((first, vector_stage(first))):
        reached = cosines(found.representations[layer], natural)
        assert 0.9 - 1e-4 < reached.min() < 0.92  # as far as it may go
        trace = np.asarray(found.fitness[layer])
        assert (np.diff(trace, axis=1) >= 0).all()
        assert (trace[:, -1] > trace[:, 0]).all()


def test_statistics_are_measured_on_candidates_that_stay_near():
    images = np.random.default_rng(1).normal(size=(50, 20, 20, 1)).astype(np.float32)
    network = ConvNet((20, 20, 1), 4, (8, 8, 8), normalize_blocks=True, rngs=nnx.Rngs(0))
    network.whiten(images)
    config = SearchConfig(initial_noise=0.0)
    key = jax.random.key(0)
    clean = frozen_stages(network, images)
    free = frozen_stages(network, images, config, key=key)
    near = frozen_stages(network, images, dataclasses.replace(config, least_cosine=0.9999), key=key)

    def away(stages):
        """How far the scales of BatchNorm in blocks 1 and 2 are from those of clean images."""
        pairs = zip(jax.tree.leaves(stages[1:]), jax.tree.leaves(clean[1:]), strict=True)
        return max(float(jnp.abs(a / b - 1).max()) for a, b in pairs if a.ndim == 4)

    assert away(near) < 0.05 < away(free)


@pytest.mark.parametrize("value", [-0.1, 1.0, float("nan")])
def test_what_is_no_nearness_is_refused(value):
    with pytest.raises(ValueError, match=r"least_cosine is .*: it must be at least 0 and below 1"):
        SearchConfig(least_cosine=value)
