"""Configurations: presets, overrides by name, and the way through JSON."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from common.overrides import override

from dsl_jax.config import (
    PRESETS,
    LayerSchedule,
    LearnConfig,
    RunConfig,
    SamplerConfig,
    SearchConfig,
    SharedConfig,
    from_dict,
    to_dict,
)
from dsl_jax.data.catalogue import CATALOGUE
from dsl_jax.presets import get_preset, with_augmentation


@pytest.mark.parametrize("dataset", CATALOGUE)
@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json_and_pass_through_jit(name, dataset):
    config = get_preset(name, dataset)
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config
    assert jax.tree.leaves(config) == [] and hash(config) is not None


def test_whole_numbers_become_what_the_field_holds():
    """An integer leaf would be another program: every search compiled once more."""
    layer = LayerSchedule(20, 1, np.int64(5))
    assert [type(x) for x in jax.tree.leaves(layer)] == [float, float]
    assert type(layer.generations) is int


def test_only_strengths_and_boosts_are_traced_and_what_is_traced_is_not_checked():
    search = get_preset("paper", "cifar10").search
    assert jax.tree.leaves(search) == [0.3, 5.0, 0.2, 3.0, 0.1, 3.0, 0.1, 1.0]
    doubled = jax.tree.map(lambda x: 2 * x, search)
    assert doubled.layers[0] == LayerSchedule(300, 0.6, 10.0, 5)
    assert doubled.num_parents == 20 and jax.tree.map(lambda x: x / 2, doubled) == search
    assert jax.tree.map(lambda x: None, search).layers[0].mutation_strength is None
    arrays = jax.tree.map(np.float64, search)
    assert json.loads(json.dumps(to_dict(arrays))) == json.loads(json.dumps(to_dict(search)))


def test_the_paper_preset_has_the_papers_values():
    config = get_preset("paper", "cifar10")
    table = [dataclasses.astuple(layer) for layer in config.search.layers]
    assert table == [(300, 0.3, 5.0, 5), (100, 0.2, 3.0, 1), (100, 0.1, 3.0, 1), (10, 0.1, 1.0, 0)]
    sizes = (config.search.num_parents, config.search.num_explorers, config.search.num_refiners)
    assert sizes == (20, 100, 120) and config.search.population_size == 240
    assert (config.learn.epochs, config.learn.batch_size, config.learn.momentum) == (90, 2000, 0.85)
    assert config.learn.head_weight == 0.03 and config.learner_groups == 3
    assert config.learn.learning_rate == pytest.approx(4.0 * 2000 / (1024 * (1 + 1 / 0.15)), 0.03)
    assert config.widths == (256, 256, 256) and not config.normalize_blocks
    mnist = get_preset("paper", "mnist")
    assert {layer.mutation_strength for layer in mnist.search.layers} == {0.1}
    assert mnist.learn.epochs == 1000 and mnist.learner_groups == 2


def test_candidates_are_counted():
    # Layer 0: 240 to begin with and 300 x 220 children, and so on.
    expected = 4 * 240 + 220 * (300 + 100 + 100 + 10)
    assert SearchConfig().candidates_per_image == expected
    none = tuple(dataclasses.replace(layer, generations=0) for layer in SearchConfig().layers)
    assert SearchConfig(layers=none).candidates_per_image == 240


def test_any_field_can_be_set_by_name():
    config = override(
        get_preset("laptop", "mnist"),
        {
            "search.num_parents": "20",
            "search.layers[0].generations": "50",
            "search.layers[3].mutation_strength": "1",
            "learn.augment": "true",
            "widths": "(8, 8, 8)",
            "sgd_groups": "[1]",
            "chunk_size": "7",
            "num_train": "None",
            "search.smoothing": "child",
        },
    )
    assert config.search.num_parents == 20 and config.search.layers[0].generations == 50
    assert config.search.layers[3].mutation_strength == 1.0
    assert config.learn.augment and config.widths == (8, 8, 8) and config.sgd_groups == (1,)
    assert config.chunk_size == 7 and config.num_train is None
    assert config.search.smoothing == "child"
    assert override(config, {"sgd_groups": "3"}).sgd_groups == (3,)
    for text, value in (("0.8", 0.8), ("0", 0.0), ("None", None)):
        assert override(config, {"search.least_cosine": text}).search.least_cosine == value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("search.num_parent", "3", "did you mean num_parents"),
        ("serch.num_parents", "3", "did you mean search"),
        ("search.layers[9].generations", "3", "no element"),
        ("search.layers.generations", "3", "no field 'generations'"),
        ("search.num_parents", "many", "expected int"),
        ("search.num_parents", "2.5", "expected int"),
        ("learn.augment", "1", "expected bool"),
        ("search.smoothing", "blur", "'blur' is unknown"),
        ("search.num_parents", "-1", "num_parents is -1"),
        ("search.layers[0].generations", "-1", "generations is -1"),
        ("learn.learning_rate", "-0.5", "learning_rate is -0.5"),
        ("learn.momentum", "1.0", "momentum is 1.0: it must be below 1"),
        ("widths", "()", "must not be empty"),
        ("widths", "(8, 'a', 8)", "expected elements such as 32"),
        ("target_controls", "(1, 2)", "expected elements of the type str"),
        ("widths", "(8, 8)", "search.layers has 4 schedules: 2 widths need 3"),
        ("num_train", "0", "num_train is 0"),
        ("variants", "('all',)", "variant 'all' is unknown"),
    ],
)
def test_wrong_names_and_values_are_refused(path, value, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        override(get_preset("laptop", "mnist"), {path: value})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: get_preset("tiny", "mnist"), "'tiny' is unknown: choose one of smoke, laptop"),
        (lambda: get_preset("smoke", "nonsense"), "mnist, fashion_mnist, cifar10, cifar100"),
        (lambda: SearchConfig(layers=()), "layers is empty"),
        (lambda: SearchConfig(num_explorers=0, num_refiners=0), "num_children is 0"),
        (lambda: SearchConfig(noise_truncation=1.0), "must be below 1"),
        (lambda: LayerSchedule(1, float("nan")), "mutation_strength is nan"),
        (lambda: LearnConfig(batch_size=0), "batch_size is 0"),
        (lambda: LearnConfig(epochs=0), "epochs is 0"),
        (lambda: RunConfig("laptop", "mnist", sgd_groups=()), "sgd_groups is empty"),
        (lambda: RunConfig("laptop", "mnist", representation="raw"), "'raw' is unknown"),
    ],
)
def test_wrong_values_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_digits_are_never_mirrored():
    assert not with_augmentation(get_preset("laptop", "mnist")).learn.flip
    cifar = with_augmentation(get_preset("laptop", "cifar10"))
    assert cifar.learn.flip and cifar.learn.augment and cifar.sgd.flip


def test_fields_that_only_fit_together_are_set_together():
    config = get_preset("smoke", "digits")
    given = {"shared.fresh_images": "64", "shared.images_per_class": "128"}
    shared = override(config, given).shared
    assert (shared.fresh_images, shared.images_per_class) == (64, 128)
    with pytest.raises(ValueError, match="fresh_images is 64"):
        override(config, {"shared.fresh_images": "64"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variants": ("sgd", "sgd")}, r"variants are \('sgd', 'sgd'\): give each once"),
        ({"target_controls": ("permuted",) * 2}, "target_controls are .*: give each once"),
        (
            {"learn": LearnConfig(variant="skip_block_0")},
            "learn.variant is 'skip_block_0', which a run does not use: set --v",
        ),
        (
            {"sgd": LearnConfig(variant="skip_block_1")},
            "sgd.variant is 'skip_block_1': SGD learns from no targets",
        ),
    ],
)
def test_what_a_run_would_pass_over_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(get_preset("smoke", "digits"), **changes)


def test_a_cosine_that_leaves_nothing_to_search_is_refused():
    for wrong in ({"cosines": (0.2, 1.0, 0.2)}, {"choices": (0.5, -1.0)}):
        with pytest.raises(ValueError, match=r"cosine -?1.0 leaves nothing to search"):
            SharedConfig(**wrong)


def test_a_sampler_keeps_some_images_to_learn_from():
    with pytest.raises(ValueError, match=r"held_out is 1.0: it must be below 1"):
        SamplerConfig(held_out=1.0)
