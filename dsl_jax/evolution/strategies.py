"""Any evosax algorithm in the place of the paper's: `SearchConfig.strategy`.

An algorithm moves in the space of mutations. A vector u of it stands for the candidate

    standardize(start + strength * boost * sigma * smoothed(u))

where `start` is the best candidate that the layer begins with, sigma its spread, and smoothed(u)
the noise that white numbers u give (`noise.noise_basis`): u = 0 is the start, and standard
normal u are the paper's mutations of it. So every algorithm has the same scale to work on, and no
more dimensions than smooth noise has. Letters: n candidates of a generation, k kept.
"""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dsl_jax.config import PAPERS_STRATEGY, SearchConfig
from dsl_jax.evolution.fitness import Population, as_cost, best_first
from dsl_jax.evolution.noise import noise_basis
from dsl_jax.evolution.operators import spread, standardize
from dsl_jax.evolution.task import LayerTask
from dsl_jax.keys import FIRST_DRAW
from dsl_jax.names import find

# With evosax's default steps of 0.001 these would hardly move in u.
SLOW = ("Open_ES", "PGPE", "ARS", "ASEBO", "GuidedES", "NoiseReuseES", "PersistentES")


def resolve(name: str) -> type | None:
    """The class that `SearchConfig.strategy` names; None: the paper's.

    Raises:
      ValueError: there is none of this name.
    """
    if name == PAPERS_STRATEGY:
        return None
    if ":" in name:
        return find("strategy", name)
    import evosax.algorithms as evosax

    if name in evosax.algorithms:
        return evosax.algorithms[name]
    raise ValueError(
        f"strategy {name!r} is unknown: choose {PAPERS_STRATEGY}, one of evosax's algorithms "
        f"({', '.join(sorted(evosax.algorithms))}), or 'module:Class' for one of your own"
    )


def check(algorithm: type | None, config: SearchConfig) -> None:
    """What can be known before expensive work; see `resolve`.

    Raises:
      ValueError: it cannot be made with so many candidates, or what is smoothed is the child,
        which a strategy does not make.
    """
    if algorithm is None:
        return
    if config.smoothing == "child":
        raise ValueError(
            f"strategy {config.strategy!r} smooths noise: set smoothing to 'noise' or "
            "'noise_rescaled'"
        )
    try:
        _make(algorithm, config, (8,))
    except (AssertionError, TypeError) as error:
        raise ValueError(
            f"strategy {config.strategy!r} cannot be made from {config.num_children} candidates a "
            f"generation and a solution alone ({error}): change their number, or choose another"
        ) from error


def _make(algorithm: type, config: SearchConfig, shape: tuple[int, ...]) -> Any:
    """The algorithm, for solutions of this shape."""
    with jax.ensure_compile_time_eval():  # evosax makes arrays; none may belong to a trace
        return algorithm(
            population_size=config.num_children,
            solution=np.zeros(shape, np.float32),
            **({"optimizer": optax.adam(0.1)} if _is_slow(algorithm) else {}),
        )


def _is_slow(algorithm: type) -> bool:
    """Whether it is one of `SLOW`, which may be named or given as the class."""
    return algorithm.__module__.startswith("evosax.") and algorithm.__name__ in SLOW


def evolve(key: jax.Array, population: Population, task: LayerTask) -> tuple[jax.Array, jax.Array]:
    """Evolves a layer by the task's strategy, with as many evaluations as the paper's.

    Args:
      key: a `jax.random` key.
      population: what the layer begins with.
      task: with a strategy, at least one generation, and nothing `renewed`.

    Returns:
      The best k candidates [k, ...] that were evaluated, best first, k = num_parents, and the
      best fitness of each generation [g + 1].
    """
    assert task.strategy is not None
    config = task.config
    archive = _best_of(population, config.num_parents)
    decode, shape = _mutations_of(archive.candidates[0], task)
    strategy = _make(task.strategy, config, shape)

    def generation_of(us, archive):
        """What the candidates cost, and the archive after them."""
        candidates = jax.vmap(decode)(us)
        new = Population(candidates, task.evaluate(candidates))
        return as_cost(_without_nan(new.fitness)), _archive_with(new, archive, config)

    with jax.ensure_compile_time_eval():
        from evosax.algorithms.population_based.base import PopulationBasedAlgorithm

        params = strategy.default_params
    # No generation's, however many there are: those are folded in as 1, 2, ...
    first_key, first = jax.random.fold_in(key, FIRST_DRAW), 1
    trace = [archive.fitness[:1]]
    with _as_evosax_computes():
        if isinstance(strategy, PopulationBasedAlgorithm):
            # Its first population: the start, and mutations of it; they are the first generation.
            draw_key, init_key = jax.random.split(first_key)
            us = jax.random.normal(draw_key, (config.num_children, *shape), jnp.float32)
            us = us.at[0].set(0)
            costs, archive = generation_of(us, archive)
            trace.append(archive.fitness[:1])
            state, first = strategy.init(init_key, us, costs, params), 2
        else:
            state = strategy.init(first_key, jnp.zeros(shape, jnp.float32), params)

    def generation(carry, number):
        state, archive = carry
        ask_key, tell_key = jax.random.split(jax.random.fold_in(key, number))
        with _as_evosax_computes():
            us, asked = strategy.ask(ask_key, state, params)
        us = us.astype(jnp.float32)
        costs, archive = generation_of(us, archive)
        with _as_evosax_computes():
            told, _ = strategy.tell(tell_key, us, costs, asked, params)
        # Where JAX may use float64, evosax's numbers become that in between.
        state = jax.tree.map(lambda new, old: jnp.asarray(new, jnp.result_type(old)), told, state)
        return (state, archive), archive.fitness[0]

    numbers = jnp.arange(first, task.layer.generations + 1)
    (_, archive), rest = jax.lax.scan(generation, (state, archive), numbers)
    return archive.candidates, jnp.concatenate([*trace, rest])


def _archive_with(new: Population, archive: Population, config: SearchConfig) -> Population:
    """The best of both, as many as the archive has; as it was where that was good enough."""
    kept = _best_of(jax.tree.map(_joined, archive, new), len(archive.fitness))
    if config.stop_probability == 1:
        return kept
    is_enough = archive.fitness[0] >= math.log(config.stop_probability)
    return jax.tree.map(lambda old, new: jnp.where(is_enough, old, new), archive, kept)


def _mutations_of(start: jax.Array, task: LayerTask):
    """The function from u to a candidate, and the shape of u."""
    layer, config, near = task.layer, task.config, task.near
    scale = layer.mutation_strength * layer.exploration_boost * spread(start)
    basis, shape = None, start.shape
    if layer.smoothing_passes and start.ndim > 1:
        rescale = config.smoothing == "noise_rescaled"
        spatial = tuple(start.shape[:-1])
        basis = noise_basis(spatial, layer.smoothing_passes, rescale, config.noise_truncation)
        shape = (basis.shape[1], start.shape[-1])

    def decode(u):
        noise = u if basis is None else (basis @ u).reshape(start.shape)
        mutated = standardize(start + scale * noise, task.kind)
        return mutated if near is None else near(mutated)

    return decode, shape


@contextlib.contextmanager
def _as_evosax_computes() -> Iterator[None]:
    """evosax adds axes and changes types unasked, which a strict user of JAX may have forbidden."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def _without_nan(fitness: jax.Array) -> jax.Array:
    """Fitness in which a failed candidate is the worst: evosax does not look for NaN."""
    return jnp.nan_to_num(fitness, nan=jnp.finfo(jnp.float32).min)


def _joined(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.concatenate([a, b])


def _best_of(population: Population, count: int) -> Population:
    """The best `count` of at least so many, best first."""
    order = best_first(as_cost(population.fitness), count)
    return jax.tree.map(lambda x: x[order], population)
