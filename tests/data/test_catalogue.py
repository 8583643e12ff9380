"""The catalogue against what tensorflow-datasets and the installed packages say themselves."""

import pytest

from dsl_jax.data import catalogue, sources
from dsl_jax.data.catalogue import CATALOGUE


@pytest.mark.parametrize("name", [name for name, facts in CATALOGUE.items() if facts.url])
def test_facts_are_those_of_tensorflow_datasets(name, tmp_path):
    import tensorflow_datasets as tfds

    info, facts = tfds.builder(name, data_dir=tmp_path).info, catalogue.facts(name)
    assert info.features["image"].shape == facts.image_shape
    assert info.features["label"].num_classes == facts.num_classes


@pytest.mark.parametrize("name", [name for name, facts in CATALOGUE.items() if not facts.url])
def test_facts_are_those_of_what_is_installed(name):
    (images, labels), (test_images, _) = sources.read_source(name)
    facts = catalogue.facts(name)
    assert images.shape == (facts.train_images, *facts.image_shape)
    assert test_images.shape == (facts.test_images, *facts.image_shape)
    assert set(labels) == set(range(facts.num_classes))
