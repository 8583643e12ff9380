"""Layers that cannot change are refused before anything is searched."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from toy_search import CONFIG, KEY, STAGES, data

from dsl_jax.config import LayerSchedule, SearchConfig
from dsl_jax.evolution.dead import check_layers_change
from dsl_jax.evolution.images import search
from dsl_jax.evolution.operators import reproduce
from dsl_jax.targets.fill import search_to_store

SHAPES = ((4, 4, 3), (7,), (5,))


def with_layer(number, **changes):
    layers = list(CONFIG.layers)
    layers[number] = dataclasses.replace(layers[number], **changes)
    return dataclasses.replace(CONFIG, layers=tuple(layers))


@pytest.mark.parametrize("shape", [(1, 1, 8), (1, 6), (1,)])
def test_what_has_one_position_is_never_mutated_and_refused(shape):
    parents = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    kind = "vector" if len(shape) == 1 else "conv"
    children = reproduce(KEY, parents, 6, 5.0, kind=kind)
    np.testing.assert_array_equal(children, children[:1].repeat(6, axis=0))
    with pytest.raises(ValueError, match=r"stage 1 returns \[1.*or set generations=0 in layers\[1"):
        check_layers_change((SHAPES[0], shape, SHAPES[2]), CONFIG)
    check_layers_change((SHAPES[0], shape, SHAPES[2]), with_layer(1, generations=0))


def test_two_positions_are_enough_and_one_logit_is_not():
    for shape in ((2, 1, 8), (1, 2, 8), (2, 6), (2,)):
        check_layers_change((SHAPES[0], shape, SHAPES[2]), CONFIG)
    with pytest.raises(ValueError, match=r"stage 2 returns .* one logit, of which the fitness"):
        check_layers_change((*SHAPES[:2], (1,)), CONFIG)


@pytest.mark.parametrize("strategy", ["representation_ga", "SNES"])
def test_a_schedule_without_noise_is_refused(strategy):
    config = dataclasses.replace(with_layer(1, mutation_strength=0.0), strategy=strategy)
    with pytest.raises(ValueError, match=r"stage 1 .* no noise: mutation_strength is 0.0"):
        check_layers_change(SHAPES, config)
    # The paper's algorithm still has refiners, which take no boost.
    config = dataclasses.replace(with_layer(0, exploration_boost=0.0), strategy=strategy)
    if strategy == "representation_ga":
        check_layers_change(SHAPES, config)
        config = dataclasses.replace(config, num_refiners=0)
    with pytest.raises(ValueError, match=r"stage 0 .* exploration_boost 0.0. Set them higher"):
        check_layers_change(SHAPES, config)


def test_smoothing_that_leaves_nothing_of_the_noise_is_refused():
    many = with_layer(0, smoothing_passes=60)
    with pytest.raises(ValueError, match=r"60 smoothing_passes leave \de-\d\d of its strength"):
        check_layers_change(SHAPES, many)
    check_layers_change(SHAPES, dataclasses.replace(many, smoothing="noise_rescaled"))
    check_layers_change(SHAPES, SearchConfig((LayerSchedule(1, 0.3, 5.0, 5), *CONFIG.layers[1:])))


def test_search_and_store_refuse_before_they_begin(tmp_path):
    images, labels = data(3)

    def pooled(images):
        return images.mean(axis=(1, 2), keepdims=True)

    stages = (pooled, lambda h: STAGES[1](jnp.tile(h, (1, 4, 4, 1))), STAGES[2])
    with pytest.raises(ValueError, match=r"stage 0 returns \[1, 1, 3\] an image, one position"):
        search(KEY, stages, images, labels, CONFIG)
    path = tmp_path / "store"
    with pytest.raises(ValueError, match=r"stage 0 returns \[1, 1, 3\] an image, one position"):
        search_to_store(path, KEY, stages, images, labels, CONFIG)
    assert not path.exists() or not any(path.iterdir())
