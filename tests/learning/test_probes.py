"""The linear probes, on data where the answer is known."""

import dataclasses

import numpy as np
import pytest
from flax import nnx

from dsl_jax.data.dataset import Dataset
from dsl_jax.learning.probes import linear_probe
from dsl_jax.networks.convnet import ConvNet


def bright_or_dark(number, seed):
    labels = np.arange(number) % 2
    noise = np.random.default_rng(seed).integers(0, 60, (number, 10, 10, 1))
    return (labels[:, None, None, None] * 120 + noise).astype(np.uint8), labels


DATASET = Dataset.from_arrays(
    "brightness", bright_or_dark(120, 0), bright_or_dark(40, 1), validation_size=20
)


def test_what_is_linear_in_the_pixels_is_found():
    probe = linear_probe(DATASET)
    assert probe.test_accuracy == probe.validation_accuracy == 1
    assert 0 < probe.test_loss < 0.2


def test_a_class_that_no_training_image_has_is_simply_never_predicted():
    images, labels = bright_or_dark(40, 3)
    test = Dataset.from_arrays(
        "three", bright_or_dark(120, 0), (images, np.where(labels == 0, 2, 1)), num_classes=3,
        validation_size=20,
    )  # fmt: skip
    probe = linear_probe(test)
    assert probe.test_accuracy == 0.5
    assert probe.test_loss > 10  # half the images have probability 1e-12


def test_chance_stays_chance():
    wrong = np.random.default_rng(2).permutation(DATASET.test.labels)
    shuffled = dataclasses.replace(DATASET, test=DATASET.test._replace(labels=wrong))
    probe = linear_probe(shuffled)
    assert 0.2 < probe.test_accuracy < 0.8
    assert probe.validation_accuracy == 1  # the choice does not look at the test images


def test_features_are_the_networks_last_representation():
    network = ConvNet((10, 10, 1), 2, (4, 4), rngs=nnx.Rngs(0))
    network.whiten(DATASET.normalize(DATASET.train.images))
    assert linear_probe(DATASET, network).test_accuracy > 0.9
    for path in ("conv_1", "conv_2"):  # a body that forgets everything leaves nothing to find
        kernel = getattr(network.blocks[1].groups[0], path).kernel
        kernel[...] = kernel[...] * 0
    assert linear_probe(DATASET, network).test_accuracy < 0.8


def test_the_penalty_is_chosen_on_validation_images_alone():
    generator = np.random.default_rng(3)
    images = generator.integers(0, 256, (100, 8, 8, 1), np.uint8)
    labels = (images[:, 0, 0, 0] + generator.normal(0, 60, 100) > 128).astype(np.int32)
    noisy = Dataset.from_arrays(
        "noisy", (images[:60], labels[:60]), (images[60:], labels[60:]), validation_size=20
    )
    other = dataclasses.replace(noisy, test=noisy.test._replace(labels=1 - noisy.test.labels))
    probe, of_others = linear_probe(noisy), linear_probe(other)
    assert probe.validation_accuracy == of_others.validation_accuracy
    assert probe.test_accuracy == pytest.approx(1 - of_others.test_accuracy)  # one and the same
