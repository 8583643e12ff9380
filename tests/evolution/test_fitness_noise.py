"""Candidates judged with noise about them: `SearchConfig.fitness_noise`."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_search import CONFIG, KEY, STAGES, data

from dsl_jax.config import SearchConfig
from dsl_jax.evolution import image
from dsl_jax.evolution.images import search
from dsl_jax.evolution.layer import evolve_layer
from dsl_jax.evolution.task import LayerTask
from dsl_jax.keys import philox_key

STRENGTH = 0.7
NOISY = dataclasses.replace(CONFIG, fitness_noise=STRENGTH, noisy_evaluations=8)


def fitness_nearby(targets, layer, labels):
    """Mean log-probability of what lies about targets [N, ...], by white noise of NumPy's."""
    generator, means = np.random.default_rng(0), []
    targets = np.asarray(targets, np.float64)
    axes = tuple(range(1, targets.ndim))
    mean, deviation = (f(targets, axes, keepdims=True) for f in (np.mean, np.std))
    for _ in range(64):
        h = (targets - mean) / deviation + STRENGTH * generator.normal(size=targets.shape)
        h = (h - h.mean(axes, keepdims=True)) / h.std(axes, keepdims=True)
        h = jnp.asarray(mean + deviation * h, jnp.float32)
        for stage in STAGES[layer + 1 :]:
            h = stage(h)
        log_probabilities = jax.nn.log_softmax(h)
        means.append(np.asarray(log_probabilities)[np.arange(len(labels)), labels])
    return float(np.mean(means))


@pytest.mark.slow
def test_what_is_found_bears_noise_better():
    images, labels = data(8)
    layers = tuple(dataclasses.replace(layer, smoothing_passes=0) for layer in CONFIG.layers)
    plain, noisy = (
        search(KEY, STAGES, images, labels, dataclasses.replace(config, layers=layers))
        for config in (CONFIG, NOISY)
    )
    for layer, margin in enumerate((0.5, 0.01)):
        found = [r.representations[layer] for r in (plain, noisy)]
        as_they_are, bearing = (fitness_nearby(h, layer, labels) for h in found)
        assert bearing > as_they_are + margin


def test_parents_are_judged_again_but_logits_as_they_are():
    images, labels = data(8)
    found = search(KEY, STAGES, images, labels, NOISY)
    *blocks, logits = (np.diff(trace, axis=1) for trace in found.fitness)
    assert all((block < 0).any() for block in blocks)  # a fitness that was kept would only rise
    assert (logits >= 0).all()


def test_noise_is_as_strong_as_a_candidate_varies():
    """What comes from a stage of one's own has any mean and scale, which the noise leaves alone."""
    candidates = jax.random.normal(jax.random.key(1), (5, 8, 8, 3)) * 3.0 + 2.0
    seen = []

    def evaluate(moved):
        seen.append(moved)
        return moved.mean(axis=(1, 2, 3))

    with jax.disable_jit():
        image._under_noise(
            philox_key(KEY), evaluate, NOISY.layers[0], NOISY, candidates.shape[1:], jnp.uint32(1)
        )(candidates)
    assert len(seen) == NOISY.noisy_evaluations
    axes = (1, 2, 3)
    for moved in seen:
        np.testing.assert_allclose(moved.mean(axes), candidates.mean(axes), rtol=1e-3)
        np.testing.assert_allclose(moved.std(axes), candidates.std(axes), rtol=1e-3)
        cosines = [
            np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(moved, candidates, strict=True)
        ]
        np.testing.assert_allclose(cosines, 1 / np.hypot(1, STRENGTH), atol=0.15)


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


def test_the_first_candidates_are_judged_with_noise_too():
    """Or the best of them would be chosen by another fitness than all that come after."""
    candidates = jax.random.normal(KEY, (5, 3))
    layer = dataclasses.replace(NOISY.layers[0], generations=0)
    task = LayerTask(
        lambda h: h[:, 0],
        layer,
        NOISY,
        "vector",
        renewed=lambda number: lambda h: h[:, 1] + number,
    )
    best, trace = evolve_layer(philox_key(KEY), candidates, task)
    np.testing.assert_array_equal(best[0], candidates[candidates[:, 1].argmax()])
    np.testing.assert_array_equal(trace, candidates[:, 1].max()[None])
