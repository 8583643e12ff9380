"""A small dataset and network, to learn on many numbers of devices."""

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from stripes import leaves

from dsl_jax.config import LearnConfig
from dsl_jax.data.dataset import Dataset
from dsl_jax.evolution.image import SearchResult

KEY = jax.random.key(0)
# 5 steps an epoch: 10 in all.
CONFIG = LearnConfig(
    epochs=2, batch_size=16, learning_rate=0.1, statistics_images=48, augment=True, flip=True
)


def make_dataset():
    """Three classes of noisy 9x9 images; 80 to train on, 21 for validation, 30 to test."""
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[:9, :9]
    patterns = np.stack([rows % 3 == 0, columns % 3 == 0, (rows + columns) % 3 == 0])

    def images(number):
        labels = generator.integers(0, 3, number)
        noisy = patterns[labels] * 150 + 50 + generator.normal(0, 25, (number, 9, 9))
        return np.clip(noisy, 0, 255).astype(np.uint8)[..., None], labels

    return Dataset.from_arrays("stripes", images(101), images(30), validation_size=21)


DATASET = make_dataset()


class Network(nnx.Module):
    """Small, to compile fast for many numbers of devices."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.conv = nnx.Conv(1, 4, (3, 3), strides=2, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(4, use_scale=False, use_fast_variance=False, rngs=rngs)
        self.linear = nnx.Linear(100, 3, use_bias=False, rngs=rngs)

    def representations(self, images):
        return (jax.nn.gelu(self.norm(self.conv(images))),)

    def head(self, last):
        return self.linear(last.reshape(len(last), -1))


def make_targets():
    generator = np.random.default_rng(1)
    hidden = generator.normal(size=(80, 5, 5, 4)).astype(np.float32)
    return SearchResult((hidden, 4 * np.eye(3, dtype=np.float32)[DATASET.train.labels]), ())


def mesh_of(number):
    return number and Mesh(np.array(jax.devices()[:number]), ("images",))


def assert_close(ours, theirs, tolerance=1e-5):
    for a, b in zip(leaves(ours), leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def assert_same(ours, theirs):
    assert_close(ours, theirs, 0)


def sharded(array, number):
    return jax.device_put(array, NamedSharding(mesh_of(number), PartitionSpec("images")))
