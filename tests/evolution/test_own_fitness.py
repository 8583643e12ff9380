"""A search for a fitness of one's own."""

import dataclasses

import jax
import numpy as np
import own_fitness
import pytest
from toy_search import CONFIG, KEY, STAGES, assert_same, data

from dsl_jax.evolution.image import search_image
from dsl_jax.evolution.images import search
from dsl_jax.targets.fill import search_to_store


@pytest.mark.slow
def test_a_fitness_of_ones_own_takes_the_place_of_the_log_probability(tmp_path):
    images, labels = data(4)
    config = dataclasses.replace(CONFIG, fitness=own_fitness.towards_class_0)
    assert config.fitness == "own_fitness:towards_class_0"
    ours = search(KEY, STAGES, images, labels, config)
    assert_same(ours, search(KEY, STAGES, images, np.zeros_like(labels), CONFIG))
    one = search_image(KEY, STAGES, images[2], labels[2], config)
    assert_same(one, search_image(KEY, STAGES, images[2], 0 * labels[2], CONFIG))
    store = search_to_store(tmp_path / "store", KEY, STAGES, images, labels, config, chunk_size=4)
    assert_same(store.read().representations[-1], ours.representations[-1])


def test_a_wrong_fitness_is_named():
    images, labels = data(4)
    for name, message in (
        ("own_fitness:no_reduction", r"fitness returns float32\[\d+, 5\] for logits"),
        ("own_fitness:one_for_all", r"fitness returns float32\[\] for logits"),
        ("own_fitness:right_or_wrong", r"fitness returns bool\[\d+\] for logits"),
        ("own_fitness:no_such", "fitness 'own_fitness:no_such' cannot be imported"),
        ("likelihood", "fitness 'likelihood' is unknown: choose log_probability"),
        ("math:pi", "fitness 'math:pi' is 3.14.*: it must be a function"),
    ):
        with pytest.raises(ValueError, match=message):
            search(KEY, STAGES, images, labels, dataclasses.replace(CONFIG, fitness=name))
    with pytest.raises(ValueError, match=r"stop_probability is 0.9: with a fitness of your own"):
        dataclasses.replace(CONFIG, fitness="own_fitness:one_for_all", stop_probability=0.9)
    with pytest.raises(ValueError, match=r"fitness is <function .*lambda.*not found by a name"):
        dataclasses.replace(CONFIG, fitness=lambda logits, label: logits[:, 0])


def test_a_fitness_with_a_python_if_is_told_what_is_traced():
    images, labels = data(2)
    config = dataclasses.replace(CONFIG, fitness=own_fitness.by_if)
    with pytest.raises(TypeError, match=r"label in Python .an if.*traced by JAX: use jnp.where"):
        search(KEY, STAGES, images, labels, config)


def test_a_fitness_that_is_defined_anew_is_the_one_that_is_used(monkeypatch):
    images, labels = data(2)
    config = dataclasses.replace(CONFIG, fitness="own_fitness:towards_class_0")
    before = search(KEY, STAGES, images, labels, config)

    def towards_class_1(logits, label):
        return jax.nn.log_softmax(logits)[:, 1]

    monkeypatch.setattr(own_fitness, "towards_class_0", towards_class_1)
    after = search(KEY, STAGES, images, labels, config)
    assert (np.asarray(before.representations[-1]).argmax(axis=1) == 0).all()
    assert (np.asarray(after.representations[-1]).argmax(axis=1) == 1).all()
