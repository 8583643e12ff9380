"""The plan: what it counts, and how it grows with what is planned."""

import dataclasses
import importlib

import pytest
from common import plan

from dsl_jax.config import SharedConfig
from dsl_jax.presets import get_preset
from dsl_jax.runs import steps


def test_the_plan_counts_what_the_paper_needs():
    cost = plan.make_plan(get_preset("paper", "cifar10"))
    assert cost.images == 46_000 and cost.validation_images == 4_000
    assert cost.candidates == 3 * 46_000 * 113_160
    # 72,448 numbers an image, 145 KB in 16 bits.
    assert cost.disk_bytes == pytest.approx(3 * 46_000 * 145e3, rel=0.03)
    assert cost.search_seconds > 0 and cost.learning_seconds > 0


def test_a_plan_grows_with_what_it_plans():
    config = get_preset("laptop", "mnist")
    small, large = (
        plan.make_plan(dataclasses.replace(config, num_train=n)) for n in (1000, 10_000)
    )
    assert large.candidates == 10 * small.candidates
    assert large.disk_bytes > 9 * small.disk_bytes
    text = plan.describe(large, config, "somewhere")
    assert "somewhere" in text and f"{large.candidates:,}" in text
    with_controls = dataclasses.replace(config, target_controls=("permuted", "natural"))
    assert "sgd, with the controls permuted, natural; about" in plan.describe(
        plan.make_plan(with_controls), with_controls, "somewhere"
    )
    noisy = dataclasses.replace(config.search, fitness_noise=0.5)  # each is evaluated four times
    _, longer = plan.search_cost(dataclasses.replace(config, search=noisy), 10_000)
    assert 2 < longer / large.search_seconds < 4


def test_every_cycle_adds_its_search_and_its_trainings(monkeypatch):
    monkeypatch.setattr(plan, "_machine_speed", lambda: (1.0, 1.0))  # the factors' own machine
    config = dataclasses.replace(get_preset("laptop", "mnist"), variants=("all_layers",))
    one, two, three = (plan.make_plan(dataclasses.replace(config, cycles=n)) for n in (1, 2, 3))
    per_image = config.later_cycles[0].search.candidates_per_image
    natural = steps.without_search(config.later_cycles[0].search).candidates_per_image
    assert two.candidates - one.candidates == one.images * (per_image + natural)
    assert three.candidates - two.candidates == two.candidates - one.candidates
    assert three.learning_seconds > two.learning_seconds > 3 * one.learning_seconds
    # A trained network has convolutions to compute, which the untrained one has not.
    assert two.search_seconds > 2 * one.search_seconds


def test_a_search_per_class_counts_every_class_cluster_and_cosine():
    config = dataclasses.replace(get_preset("laptop", "mnist"), searched="per_class")
    # 88 candidates to begin with in each of four layers, and 76 children in each of 50 generations.
    one = plan.make_plan(config)
    assert one.candidates == 10 * (4 * 88 + 50 * 76) and one.disk_bytes == 0
    assert "each on at most 32 images of its class" in plan.describe(one, config, "somewhere")
    four = SharedConfig(clusters=4, choices=(0.0, 0.2), images_per_class=40)
    config = dataclasses.replace(config, shared=four)
    assert plan.make_plan(config).candidates == 2 * 4 * one.candidates
    assert "each on at most 10 images of its class" in plan.describe(one, config, "somewhere")


def test_a_plan_refuses_the_sizes_that_loading_would():
    config = get_preset("smoke", "digits")
    with pytest.raises(ValueError, match="num_train is 1298: digits has 1297"):
        plan.make_plan(dataclasses.replace(config, num_train=1298))
    with pytest.raises(ValueError, match="validation_size is 440"):
        plan.make_plan(dataclasses.replace(config, validation_size=440))
    cost = plan.make_plan(dataclasses.replace(config, num_train=2, validation_size=None))
    assert (cost.images, cost.validation_images) == (1, 1)


def test_validation_images_that_are_searched_are_in_the_plan_and_a_shared_search_once():
    learnable, representations = map(importlib.import_module, ("learnable", "representations"))
    config = dataclasses.replace(get_preset("laptop", "cifar10"), num_seeds=1)
    config = dataclasses.replace(config, num_train=2500, validation_size=500)
    each = config.search.candidates_per_image
    (seed, _) = representations.define(config, representations.Settings()).points
    assert seed.candidates == (2000 + 500) * each
    options = ("not_normalized", "not_normalized_matching")
    one, same = learnable.define(config, learnable.Settings(options=options)).points
    assert one.candidates == (2000 + 500) * each and same.candidates == 500 * each
