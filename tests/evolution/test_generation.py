"""The genetic algorithm as a user of evosax meets it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from evosax.algorithms.population_based.base import PopulationBasedAlgorithm

from dsl_jax.config import LayerSchedule, SearchConfig
from dsl_jax.evolution.generation import Params, RepresentationGA
from dsl_jax.evolution.layer import evolve_layer
from dsl_jax.evolution.task import LayerTask
from dsl_jax.keys import philox_key

KEY = philox_key(jax.random.key(0))
SHAPE = (3, 3, 2)


def make(parents=4, explorers=6, refiners=10, **options):
    return RepresentationGA(parents, explorers, refiners, jnp.zeros(SHAPE), **options)


def population(number, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(number, *SHAPE)), jnp.float32)


def test_it_is_an_evosax_algorithm_that_reaches_an_optimum():
    algorithm = make(parents=5, explorers=20, refiners=40)
    assert isinstance(algorithm, PopulationBasedAlgorithm)
    goal = population(1, seed=9)[0]
    goal = (goal - goal.mean()) / goal.std()

    def distance(h):
        return jnp.mean(jnp.square(h - goal[None]), axis=(1, 2, 3))

    params = algorithm.default_params.replace(mutation_strength=0.2, exploration_boost=2.0)
    start = population(30)
    state = algorithm.init(KEY, start, distance(start), params)
    first = float(state.best_fitness)
    for generation in range(60):
        key = jax.random.fold_in(KEY, generation)
        children, state = algorithm.ask(key, state, params)
        state, metrics = algorithm.tell(key, children, distance(children), state, params)
    assert float(state.best_fitness) < 0.05 < first
    assert metrics["best_fitness"] == state.best_fitness == state.fitness[0]
    assert algorithm.get_best_solution(state).shape == SHAPE
    assert int(state.generation_counter) == 60


def test_parents_survive_unchanged_and_the_best_are_kept():
    algorithm = make()
    start, fitness = population(20), jnp.arange(20.0)[::-1]
    state = algorithm.init(KEY, start, fitness, algorithm.default_params)
    np.testing.assert_array_equal(algorithm.get_population(state), start[:-5:-1])
    children, state = algorithm.ask(KEY, state, algorithm.default_params)
    assert children.shape == (16, *SHAPE)  # the parents are not among them
    scores = jnp.full(16, 9.0).at[7].set(1.5)
    state, _ = algorithm.tell(KEY, children, scores, state, algorithm.default_params)
    np.testing.assert_array_equal(state.fitness, [0, 1, 1.5, 2])
    kept = algorithm.get_population(state)
    np.testing.assert_array_equal(kept[0], start[-1])
    np.testing.assert_array_equal(kept[2], children[7])


def test_a_nan_never_becomes_a_parent():
    algorithm = make()
    fitness = jnp.arange(8.0).at[jnp.array([0, 3])].set(jnp.nan)
    state = algorithm.init(KEY, population(8), fitness, algorithm.default_params)
    np.testing.assert_array_equal(state.fitness, [1, 2, 4, 5])
    children, state = algorithm.ask(KEY, state, algorithm.default_params)
    nan = jnp.full(16, jnp.nan)
    state, _ = algorithm.tell(KEY, children, nan, state, algorithm.default_params)
    np.testing.assert_array_equal(state.fitness, [1, 2, 4, 5])


def test_infinity_is_better_than_nan_and_numbers_that_run_out_are_repeated():
    algorithm = make(parents=3)
    fitness = jnp.array([jnp.nan, jnp.nan, 1.0, jnp.inf, jnp.nan])
    state = algorithm.init(KEY, population(5), fitness, algorithm.default_params)
    np.testing.assert_array_equal(state.fitness, [1, jnp.inf, 1])
    assert np.isfinite(np.asarray(state.population)).all()


def test_refiners_descend_from_explorers_too():
    # One parent and a strength without noise: explorers are it, normalised. With a huge boost
    # explorers go far, and refiners, which have no noise of their own, can only follow them.
    algorithm = make(parents=1, explorers=5, refiners=200)
    start = population(1)
    state = algorithm.init(KEY, start, jnp.zeros(1), algorithm.default_params)
    params = algorithm.default_params.replace(mutation_strength=1e-6, exploration_boost=3e6)
    children, _ = algorithm.ask(KEY, state, params)
    explorers, refiners = np.split(np.asarray(children), [5])
    parent = np.asarray((start[0] - start.mean()) / start.std())
    far = np.abs(refiners - parent).max(axis=(1, 2, 3)) > 0.5
    assert 0.8 < float(far.mean()) <= 1  # all but both-from-the-parent, 1 in 36
    unlike = np.abs(refiners[:, None] - explorers[None]).max(axis=(2, 3, 4)).min(axis=1)
    assert (unlike < 1e-2).mean() > 0.05  # the same explorer twice, about 5 in 36


def test_strengths_are_data_and_do_not_compile_again():
    algorithm = make()
    traced = []

    @jax.jit
    def ask(state, params):
        traced.append(1)
        return algorithm.ask(KEY, state, params)[0]

    state = algorithm.init(KEY, population(8), jnp.zeros(8), algorithm.default_params)
    default = algorithm.default_params
    weak = ask(state, default.replace(mutation_strength=jnp.float32(0.01)))
    strong = ask(state, default.replace(mutation_strength=jnp.float32(1.0)))
    assert len(traced) == 1
    assert not jnp.allclose(weak, strong, atol=0.1)


@pytest.mark.parametrize("sizes", [(0, 1, 1), (1, 0, 0), (1, -1, 2)])
def test_wrong_sizes_are_refused(sizes):
    with pytest.raises(ValueError, match=r"must be at least|needs a child"):
        make(*sizes)


def test_a_population_smaller_than_the_parents_is_refused():
    algorithm = make()
    with pytest.raises(ValueError, match="population of 3: 4 parents"):
        algorithm.init(KEY, population(3), jnp.zeros(3), algorithm.default_params)


@pytest.mark.parametrize(
    ("explorers", "refiners", "options"),
    [
        (6, 10, {}),
        (0, 10, {}),
        (6, 0, {}),
        (6, 10, {"stop_probability": 0.9}),
        (6, 10, {"fitness_noise": 0.5}),
    ],
)
def test_a_layer_evolves_as_generations_asked_for_one_by_one(explorers, refiners, options):
    """Though it draws the pairs of parents for all of them at once."""
    layer = LayerSchedule(4, 0.3, 2.0, 1)
    config = SearchConfig((layer,), 4, num_explorers=explorers, num_refiners=refiners, **options)
    start = population(20)

    def fitness(h, number=0):
        return h[:, 0, 0, 0] - h[:, 1, 1, 1] - 2.85 + number * h[:, 2, 2, 0]

    noisy = config.fitness_noise > 0
    renewed = (lambda number: lambda h: fitness(h, number)) if noisy else None
    task = LayerTask(fitness, layer, config, "conv", renewed=renewed)
    parents, trace = evolve_layer(KEY, start, task)

    algorithm = make(4, explorers, refiners, **task.mutation)
    params = Params(0.3, 2.0)
    state = algorithm.init(KEY, start, -fitness(start), params)
    best, stopped = [-state.fitness[0]], 0
    for number in range(1, 5):
        if config.stop_probability < 1 and best[-1] >= np.log(config.stop_probability):
            best.append(best[-1])
            stopped += 1
            continue
        key = jax.random.fold_in(KEY, number)
        children, state = algorithm.ask(key, state, params)
        if noisy:  # its parents are evaluated again
            state = state.replace(fitness=-fitness(state.population.reshape(4, *SHAPE), number))
        costs = -fitness(children, number * noisy)
        state, _ = algorithm.tell(key, children, costs, state, params)
        best.append(-state.fitness[0])
    np.testing.assert_allclose(trace, best, atol=1e-5)
    np.testing.assert_allclose(parents.reshape(4, -1), state.population, atol=1e-5)
    assert noisy or best[-1] > best[0]  # with noise each generation has a fitness of its own
    assert 0 < stopped < 4 if config.stop_probability < 1 else not stopped
