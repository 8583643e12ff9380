"""Three classes of small striped images, and a small network for them."""

import jax
import numpy as np
from flax import nnx

from dsl_jax.data.dataset import Dataset
from dsl_jax.evolution.image import SearchResult
from dsl_jax.networks.convnet import ConvNet

GENERATOR = np.random.default_rng(0)


def stripes(number):
    """Three classes of 12x12 images: stripes of three directions, and noise."""
    labels = GENERATOR.integers(0, 3, number)
    rows, columns = np.mgrid[:12, :12]
    patterns = np.stack([rows % 3 == 0, columns % 3 == 0, (rows + columns) % 3 == 0])
    noise = GENERATOR.normal(0, 25, (number, 12, 12))
    images = np.clip(patterns[labels] * 150 + 50 + noise, 0, 255)
    return images.astype(np.uint8)[..., None], labels.astype(np.int32)


DATASET = Dataset.from_arrays("stripes", stripes(80), stripes(37), validation_size=16)
COUNT = len(DATASET.train.images)


def make(groups=1, seed=0):
    network = ConvNet((12, 12, 1), 3, (4, 4, 4), groups, rngs=nnx.Rngs(seed))
    network.whiten(DATASET.normalize(DATASET.train.images))
    return network


def targets():
    generator = np.random.default_rng(1)
    shapes = [(5, 5, 4), (2, 2, 4), (1, 1, 4)]
    hidden = [generator.normal(size=(COUNT, *shape)).astype(np.float32) for shape in shapes]
    logits = np.eye(3, dtype=np.float32)[DATASET.train.labels] * 4
    return SearchResult((*hidden, logits), ())


def leaves(network, *filters):
    return [np.asarray(x) for x in jax.tree.leaves(nnx.state(network, *filters))]
