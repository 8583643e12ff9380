"""Candidates judged with noise about them: `SearchConfig.fitness_noise`."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_search import CONFIG, KEY, STAGES, data

from dsl_jax.config import SearchConfig
from dsl_jax.evolution.images import search

STRENGTH = 0.7
NOISY = dataclasses.replace(CONFIG, fitness_noise=STRENGTH, noisy_evaluations=8)


def fitness_nearby(targets, layer, labels):
    """Mean log-probability of what lies about targets [N, ...], by white noise of NumPy's."""
    generator, means = np.random.default_rng(0), []
    for _ in range(64):
        h = np.asarray(targets) + STRENGTH * generator.normal(size=targets.shape)
        axes = tuple(range(1, h.ndim))
        h = (h - h.mean(axes, keepdims=True)) / h.std(axes, keepdims=True)
        h = jnp.asarray(h, jnp.float32)
        for stage in STAGES[layer + 1 :]:
            h = stage(h)
        log_probabilities = jax.nn.log_softmax(h)
        means.append(np.asarray(log_probabilities)[np.arange(len(labels)), labels])
    return float(np.mean(means))


@pytest.mark.slow
def test_what_is_found_bears_noise_better():
    images, labels = data(8)
    plain, noisy = (search(KEY, STAGES, images, labels, config) for config in (CONFIG, NOISY))
    for layer in range(len(STAGES) - 1):
        found = [r.representations[layer] for r in (plain, noisy)]
        as_they_are, bearing = (fitness_nearby(h, layer, labels) for h in found)
        assert bearing > as_they_are + 0.02


def test_parents_are_judged_again_but_logits_as_they_are():
    images, labels = data(8)
    found = search(KEY, STAGES, images, labels, NOISY)
    *blocks, logits = (np.diff(trace, axis=1) for trace in found.fitness)
    assert all((block < 0).any() for block in blocks)  # a fitness that was kept would only rise
    assert (logits >= 0).all()


def test_without_noise_nothing_changes():
    images, labels = data(3)
    more = dataclasses.replace(CONFIG, noisy_evaluations=8)
    for a, b in zip(
        *(jax.tree.leaves(search(KEY, STAGES, images, labels, c)) for c in (CONFIG, more)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"strategy": "SNES"}, "with another strategy"),
        ({"stop_probability": 0.9}, "a stop_probability below 1"),
        ({"noisy_evaluations": 0}, "noisy_evaluations is 0: it must be at least 1"),
        ({"fitness_noise": -1.0}, "fitness_noise is -1.0: it must be at least 0"),
    ],
)
def test_what_does_not_go_with_it_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        SearchConfig(**{"fitness_noise": 0.5, **fields})
