"""Any evosax algorithm in representation space, and what else a search may do."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import own_strategy
import pytest
from drawn_keys import recording_key
from toy_search import CONFIG, KEY, STAGES, data

from dsl_jax.config import LayerSchedule, SearchConfig
from dsl_jax.evolution import strategies
from dsl_jax.evolution.fitness import Population
from dsl_jax.evolution.image import search_image
from dsl_jax.evolution.images import search
from dsl_jax.evolution.noise import noise_basis
from dsl_jax.evolution.operators import kind_of, normalize, standardize
from dsl_jax.evolution.task import LayerTask
from dsl_jax.keys import philox_key

STRATEGIES = ("SimpleGA", "DifferentialEvolution", "SNES", "Open_ES", "Sep_CMA_ES")
IMAGES, LABELS = data(5)


def with_strategy(name, **changes):
    return dataclasses.replace(CONFIG, strategy=name, **changes)


@pytest.mark.parametrize("name", ["SimpleGA", "SNES", "own_strategy:Walk"])
def test_fitness_rises_and_representations_are_as_the_papers(name):
    result = search(KEY, STAGES, IMAGES, LABELS, with_strategy(name))
    paper = search(KEY, STAGES, IMAGES, LABELS, CONFIG)
    for ours, theirs in zip(jax.tree.leaves(result), jax.tree.leaves(paper), strict=True):
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
    for trace in result.fitness:
        assert (np.diff(trace, axis=1) >= 0).all()
    assert (result.fitness[0][:, -1] > result.fitness[0][:, 0]).all()
    # The best is what its fitness says: nothing that was not evaluated is kept.
    h = result.representations[0]
    for stage in STAGES[1:]:
        h = stage(h)
    own = np.asarray(jax.nn.log_softmax(h))[np.arange(len(LABELS)), LABELS]
    np.testing.assert_allclose(own, result.fitness[0][:, -1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        result.representations[1], jax.vmap(normalize)(result.representations[1]), atol=1e-3
    )


def test_no_two_draws_have_the_same_key():
    key = recording_key(3, drawn := [])
    search(key, STAGES, IMAGES[:2], LABELS[:2], with_strategy("SNES", num_searches=2))
    jax.effects_barrier()
    generations = sum(layer.generations for layer in CONFIG.layers)
    assert len(set(drawn)) == len(drawn) >= 2 * 2 * generations


@pytest.mark.slow
@pytest.mark.parametrize("name", STRATEGIES)
def test_as_many_candidates_are_evaluated_as_by_the_papers_algorithm(name):
    evaluated = []

    def evaluate(candidates):
        evaluated.append(len(candidates))
        return -jnp.sum(jnp.square(candidates - 1), axis=(1, 2, 3))

    layer = LayerSchedule(3, 0.3, 2.0, 1)
    population = jax.random.normal(KEY, (7, 4, 4, 3))
    with jax.disable_jit():
        kept, trace = strategies.evolve(
            philox_key(KEY),
            Population(population, jnp.arange(7.0) - 100),
            LayerTask(evaluate, layer, with_strategy(name), "conv", strategies.resolve(name)),
        )
    assert sum(evaluated) == layer.generations * CONFIG.num_children
    assert kept.shape == (CONFIG.num_parents, 4, 4, 3) and trace.shape == (4,)
    assert float(trace[0]) == -94  # the best that the layer began with


def test_an_algorithm_begins_at_the_best_and_moves_in_smooth_mutations_of_it():
    asked = {}

    class Spy:
        def __init__(self, population_size, solution):
            asked["shape"] = solution.shape
            self.population_size, self.default_params = population_size, None

        def init(self, key, mean, params):
            np.testing.assert_array_equal(mean, 0)
            return None

        def ask(self, key, state, params):
            us = jnp.zeros((self.population_size, *asked["shape"]))
            return us.at[1, 2, 1].set(3.0), state

        def tell(self, key, population, fitness, state, params):
            return state, None

    population = jax.vmap(normalize)(jax.random.normal(KEY, (5, 6, 6, 3)))
    seen = []

    def evaluate(candidates):
        seen.append(candidates)
        return jnp.zeros(len(candidates))

    config = dataclasses.replace(CONFIG, smoothing="noise_rescaled")
    layer = LayerSchedule(1, 0.3, 2.0, 2)
    begun = Population(population, jnp.array([-3.0, -1.0, jnp.nan, -2.0, -5.0]))
    with jax.disable_jit():
        task = LayerTask(evaluate, layer, config, "conv", Spy)
        strategies.evolve(philox_key(KEY), begun, task)
    start = population[1]
    np.testing.assert_allclose(seen[0][0], start, atol=1e-5)
    basis = noise_basis((6, 6), 2, True, config.noise_truncation)
    assert asked["shape"] == (basis.shape[1], 3)
    noise = np.zeros((36, 3), np.float32)
    noise[:, 1] = 3 * basis[:, 2]
    sigma = np.std(np.asarray(start), axis=(0, 1))
    expected = standardize(start + 0.6 * sigma * noise.reshape(6, 6, 3), "conv")
    np.testing.assert_allclose(seen[0][1], expected, atol=1e-5)


def test_a_result_depends_on_key_and_id_alone_with_any_strategy():
    config = with_strategy("SNES")
    whole = search(KEY, STAGES, IMAGES, LABELS, config, chunk_size=2)
    order = np.array([3, 0])
    part = search(KEY, STAGES, IMAGES[order], LABELS[order], config, ids=order, chunk_size=2)
    for ours, theirs in zip(jax.tree.leaves(part), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(ours, np.asarray(theirs)[order])


def test_unknown_strategies_are_refused_before_anything_is_searched():
    with pytest.raises(ValueError, match=r"strategy 'cma' is unknown: choose .*Sep_CMA_ES"):
        search(KEY, STAGES, IMAGES, LABELS, with_strategy("cma"))
    with pytest.raises(ValueError, match="'SNES' smooths noise"):
        search(KEY, STAGES, IMAGES, LABELS, with_strategy("SNES", smoothing="child"))
    with pytest.raises(ValueError, match="cannot be made from 13 candidates"):
        search(KEY, STAGES, IMAGES, LABELS, with_strategy("Open_ES", num_refiners=7))
    for name in ("no_such_module:X", "own_strategy:Run"):
        with pytest.raises(ValueError, match=f"{name}' cannot be imported"):
            search(KEY, STAGES, IMAGES, LABELS, with_strategy(name))


def test_a_strategy_may_be_given_as_its_class():
    from evosax.algorithms.distribution_based.open_es import Open_ES

    assert with_strategy(own_strategy.Walk) == with_strategy("own_strategy:Walk")
    # An algorithm whose default steps are too small here, given so, has the larger ones as well.
    for ours, theirs in zip(
        jax.tree.leaves(search(KEY, STAGES, IMAGES, LABELS, with_strategy(Open_ES))),
        jax.tree.leaves(search(KEY, STAGES, IMAGES, LABELS, with_strategy("Open_ES"))),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)


# ---- other ways to a target


@pytest.mark.parametrize("strategy", ["representation_ga", "SNES"])
def test_a_layer_stops_changing_once_it_is_probable_enough(strategy):
    config = with_strategy(strategy, stop_probability=0.5)
    stopped = search(KEY, STAGES, IMAGES, LABELS, config)
    free = search(KEY, STAGES, IMAGES, LABELS, with_strategy(strategy))
    some = 0
    ours, theirs = np.asarray(stopped.fitness[0]), np.asarray(free.fitness[0])
    for mine, its in zip(ours, theirs, strict=True):
        reached = np.flatnonzero(its >= np.log(0.5))
        until = reached[0] if len(reached) else len(its) - 1
        np.testing.assert_array_equal(mine[: until + 1], its[: until + 1])
        np.testing.assert_array_equal(mine[until:], mine[until])
        some += until < len(its) - 1 and its[-1] > its[until]
    assert some  # else this test shows nothing
    with pytest.raises(ValueError, match="stop_probability is 0"):
        SearchConfig(stop_probability=0)


@pytest.mark.parametrize("strategy", ["representation_ga", "SNES"])
def test_what_comes_in_probable_enough_is_left_alone(strategy):
    config = with_strategy(strategy, stop_probability=1e-9, initial_noise=0.0, target="parent_mean")
    result = search(KEY, STAGES, IMAGES, LABELS, config)
    h = IMAGES
    for index, (stage, ours) in enumerate(zip(STAGES, result.representations, strict=True)):
        h = stage(h)
        kind = kind_of(h.shape[1:], last=index == len(STAGES) - 1)
        expected = jax.vmap(lambda one, kind=kind: standardize(one, kind))(h)
        np.testing.assert_allclose(ours, expected, atol=1e-5)
        assert (np.diff(result.fitness[index], axis=1) == 0).all()


@pytest.mark.slow
def test_several_searches_are_averaged_layer_by_layer():
    config = dataclasses.replace(CONFIG, num_searches=3)
    run = jax.jit(lambda key, config: search_image(key, STAGES, IMAGES[0], LABELS[0], config))
    ours = run(KEY, config)
    keys = jax.random.split(jax.random.fold_in(philox_key(KEY), len(STAGES) + 1), 3)
    single = [run(key, CONFIG) for key in keys]
    for layer, mean in enumerate(ours.representations):
        runs = np.stack([np.asarray(run.representations[layer], np.float64) for run in single])
        assert not np.allclose(runs[0], runs[1], atol=1e-2)
        expected = runs.mean(axis=0)
        expected -= expected.mean()
        if layer < len(STAGES) - 1:
            expected /= np.sqrt(np.mean(expected**2) + 1e-5)
        np.testing.assert_allclose(mean, expected, atol=1e-4)
        fitness = np.mean([run.fitness[layer] for run in single], axis=0)
        np.testing.assert_allclose(ours.fitness[layer], fitness, atol=1e-4)
    assert config.candidates_per_image == 3 * CONFIG.candidates_per_image


def test_where_numbers_run_out_the_best_is_taken_again_as_in_the_papers_algorithm():
    fitness = jnp.array([jnp.nan, -2.0, jnp.nan, -1.0, jnp.nan])
    kept = strategies._best_of(Population(jnp.arange(5.0), fitness), 4)
    np.testing.assert_array_equal(kept.candidates, [3, 1, 3, 3])
    np.testing.assert_array_equal(kept.fitness, [-1, -2, -1, -1])
