"""Presets for data of one's own: settings that suit them."""

import dataclasses
import json

import jax
import pytest
from some_images import some_arrays

from dsl_jax.config import PRESETS, from_dict, to_dict
from dsl_jax.data.dataset import Dataset
from dsl_jax.networks.convnet import representation_shapes
from dsl_jax.presets import get_preset, with_augmentation, with_compute_dtype


def own(side=16, channels=3, num=100):
    shape = (side, side + 1, channels)
    return Dataset.from_arrays("own", some_arrays(num, shape), some_arrays(20, shape))


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize(("side", "blocks"), [(5, 1), (8, 1), (9, 2), (16, 2), (17, 3), (32, 3)])
def test_there_are_as_many_blocks_as_the_images_bear(name, side, blocks):
    dataset = own(side)
    config = get_preset(name, dataset)
    assert len(config.widths) == blocks
    usual = get_preset(name, "cifar10")
    assert config.search.layers == (*usual.search.layers[:blocks], usual.search.layers[-1])
    assert len(config.later_cycles[0].search.layers) == blocks + 1
    dataclasses.replace(config, cycles=2)  # later cycles fit as well
    shapes = representation_shapes(dataset.image_shape, config.widths, dataset.num_classes)
    assert min(min(shape[:2]) for shape in shapes[:-1]) >= 2  # a single position cannot change


def test_laptop_searches_colour_images_with_twice_the_noise():
    grey, colour = (get_preset("laptop", name).search for name in ("fashion_mnist", "cifar100"))
    for ours, theirs in zip(colour.layers, grey.layers, strict=True):
        assert ours.mutation_strength == pytest.approx(2 * theirs.mutation_strength)


@pytest.mark.parametrize("name", PRESETS)
def test_data_are_taken_as_they_are_and_the_settings_are_kept_as_json(name):
    config = get_preset(name, own())
    assert (config.name, config.dataset) == (name, "own")
    assert config.num_train is None and config.validation_size is None
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize("channels", (1, 3))
@pytest.mark.parametrize("name", PRESETS)
def test_few_images_are_trained_on_for_as_many_steps_as_usual(name, channels):
    usual = get_preset(name, "mnist" if channels == 1 else "cifar10").learn
    images = {"smoke": 400, "laptop": {1: 7360, 3: 5520}, "paper": {1: 55_200, 3: 46_000}}[name]
    images = images if isinstance(images, int) else images[channels]
    dataset = own(channels=channels)
    learn = get_preset(name, dataset).learn
    steps = len(dataset.train.images) // learn.batch_size * learn.epochs
    assert steps == pytest.approx(images // usual.batch_size * usual.epochs, rel=0.02)
    assert learn.batch_size == min(usual.batch_size, 92 // 4)
    longer = learn.epochs / usual.epochs
    assert learn.stem_bias_epochs == pytest.approx(longer * usual.stem_bias_epochs, abs=0.5)
    assert learn.validate_every == max(1, round(longer))


def test_many_images_are_trained_on_for_the_usual_epochs_at_the_rate_of_own_data():
    config, usual = get_preset("smoke", own(num=2000)), get_preset("smoke", "cifar10")
    assert config.learn == dataclasses.replace(usual.learn, learning_rate=1.0)
    assert config.sgd == usual.sgd
    assert get_preset("laptop", own()).learn.learning_rate == 1.0


def test_images_of_ones_own_are_not_mirrored():
    config = with_augmentation(get_preset("smoke", own()))
    assert config.learn.augment and not config.learn.flip and not config.sgd.flip


@pytest.mark.parametrize(
    ("backend", "asked", "expected"),
    [
        ("cpu", "auto", "float32"),
        ("gpu", "auto", "bfloat16"),
        ("tpu", "auto", "bfloat16"),
        ("tpu", "float32", "float32"),
        ("cpu", "bfloat16", "bfloat16"),
    ],
)
def test_an_accelerator_searches_and_learns_targets_in_bfloat16(
    backend, asked, expected, monkeypatch
):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    config = with_compute_dtype(get_preset("smoke", "mnist"), asked)
    searches = (config.search, *(cycle.search for cycle in config.later_cycles))
    assert {part.compute_dtype for part in (*searches, config.learn)} == {expected}
    assert config.sgd.compute_dtype == "float32"
    with pytest.raises(ValueError, match="compute_dtype 'half' is unknown"):
        with_compute_dtype(config, "half")
