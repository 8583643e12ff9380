"""A toy search of nine images into a store, for the tests of stores."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from dsl_jax.config import LayerSchedule, SearchConfig
from dsl_jax.targets.fill import search_to_store

NUM_IMAGES, CHUNK = 9, 2  # five chunks, the last one with one image
CONFIG = SearchConfig(
    layers=(LayerSchedule(2, 0.3), LayerSchedule(0, 0.2), LayerSchedule(0, 0.1)),
    num_parents=2,
    num_explorers=2,
    num_refiners=2,
)
RANDOM = np.random.default_rng(0)
WEIGHTS = tuple(
    RANDOM.normal(size=shape).astype(np.float32) for shape in ((16, 12), (12, 6), (6, 3))
)
IMAGES = RANDOM.normal(size=(NUM_IMAGES, 4, 4, 1)).astype(np.float32)
LABELS = np.arange(NUM_IMAGES) % 3
IDS = np.array([0, 3, 4, 7, 11, 12, 40, 41, 2**32 - 1])


def block(weights, images):
    return jnp.tanh(images.reshape(len(images), -1) @ weights).reshape(-1, 2, 2, 3)


def dense(weights, hidden):
    return jnp.tanh(hidden.reshape(len(hidden), -1) @ weights)


def head(weights, hidden):
    return hidden @ weights


def stages_of(*weights):
    return tuple(map(jax.tree_util.Partial, (block, dense, head), weights))


STAGES = stages_of(*WEIGHTS)
SHAPES = [(2, 2, 3), (6,), (3,)]


def run(path, **changes):
    arguments = {
        "key": jax.random.key(0),
        "stages": STAGES,
        "images": IMAGES,
        "labels": LABELS,
        "config": CONFIG,
        "dataset": "toy",
        "ids": IDS,
        "chunk_size": CHUNK,
    }
    return search_to_store(path, **{**arguments, **changes})


def files(folder):
    """Name -> bytes of everything in a store; a killed process may leave its locks behind."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in Path(folder).rglob("*")
        if path.is_file() and not path.name.endswith(".__lock")
    }


def equal(a, b):
    return jax.tree.all(jax.tree.map(lambda x, y: np.array_equal(x, y), a, b))
