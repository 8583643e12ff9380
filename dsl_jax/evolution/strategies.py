"""Any evosax algorithm in the place of the paper's: `SearchConfig.strategy`.

An algorithm moves in the space of mutations. A vector u of it stands for the candidate

    standardize(start + strength * boost * sigma * smoothed(u))

where `start` is the best candidate that the layer begins with, sigma its spread, and smoothed(u)
the noise that white numbers u give (`evolution.noise_basis`): u = 0 is the start, and standard
normal u are the paper's mutations of it. So every algorithm has the same scale to work on, and no
more dimensions than smooth noise has. Letters: n candidates of a generation, k kept.
"""

import importlib
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dsl_jax.config import LayerSchedule, SearchConfig
from dsl_jax.evolution.operators import noise_basis, spread, standardize

PAPERS = "representation_ga"
# With evosax's default steps of 0.001 these would hardly move in u.
SLOW = ("Open_ES", "PGPE", "ARS", "ASEBO", "GuidedES", "NoiseReuseES", "PersistentES")


def resolve(name: str) -> type:
    """The class that a strategy names: one of evosax's, or "module:Class" for one's own.

    Raises:
      ValueError: there is none of this name.
    """
    import evosax.algorithms as evosax

    module, _, attribute = name.partition(":")
    if not (module and attribute):
        if name in evosax.algorithms:
            return evosax.algorithms[name]
        raise ValueError(
            f"strategy {name!r} is unknown: choose {PAPERS}, one of evosax's algorithms "
            f"({', '.join(sorted(evosax.algorithms))}), or 'module:Class' for one of your own"
        )
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"strategy {name!r} cannot be imported: {error}") from error


def check(config: SearchConfig) -> None:
    """What can be known before expensive work.

    Raises:
      ValueError: there is no such strategy, it cannot be made with so many candidates, or what
        is smoothed is the child, which a strategy does not make.
    """
    if config.strategy == PAPERS:
        return
    if config.smoothing == "child":
        raise ValueError(
            f"strategy {config.strategy!r} smooths noise: set smoothing to 'noise' or "
            "'noise_rescaled'"
        )
    try:
        _make(config, (8,))
    except (AssertionError, TypeError) as error:
        raise ValueError(
            f"strategy {config.strategy!r} cannot be made with {config.num_children} candidates "
            f"a generation: {error}"
        ) from error


def _make(config: SearchConfig, shape: tuple[int, ...]) -> Any:
    """The algorithm, for solutions of this shape."""
    with jax.ensure_compile_time_eval():  # evosax makes arrays; none may belong to a trace
        return resolve(config.strategy)(
            population_size=config.num_children,
            solution=np.zeros(shape, np.float32),
            **({"optimizer": optax.adam(0.1)} if config.strategy in SLOW else {}),
        )


def evolve(
    key: jax.Array,
    population: jax.Array,
    fitness: jax.Array,
    evaluate: Callable[[jax.Array], jax.Array],
    layer: LayerSchedule,
    strength: jax.Array,
    boost: jax.Array,
    config: SearchConfig,
    kind: str,
) -> tuple[jax.Array, jax.Array]:
    """Evolves a layer by `config.strategy`, with as many evaluations as the paper's algorithm.

    Args:
      key: a `jax.random` key.
      population, fitness: [m, ...] and [m] (log-likelihood), what the layer begins with.
      evaluate: from candidates [n, ...] to their fitness [n].
      layer, strength, boost, config, kind: as `search` has them; at least one generation.

    Returns:
      The best k candidates [k, ...] that were evaluated, best first, k = num_parents, and the
      best fitness of each generation [g + 1].
    """
    archive, best = _keep_best(population, fitness, config.num_parents)
    trace, start = [best[:1]], archive[0]
    scale = strength * boost * spread(start)
    basis, shape = _basis(start.shape, layer, config)

    def decode(u):
        noise = u if basis is None else (basis @ u).reshape(start.shape)
        return standardize(start + scale * noise, kind)

    algorithm = _make(config, shape)

    def keep(archive, best, candidates, values):
        new = _keep_best(
            jnp.concatenate([archive, candidates]), jnp.concatenate([best, values]), len(best)
        )
        if config.stop_probability == 1:
            return new
        is_enough = best[0] >= math.log(config.stop_probability)
        return jax.tree.map(lambda old, new: jnp.where(is_enough, old, new), (archive, best), new)

    with jax.ensure_compile_time_eval():
        from evosax.algorithms.population_based.base import PopulationBasedAlgorithm

        params = algorithm.default_params
    # No generation's, however many there are: those are folded in as 1, 2, ...
    first_key = jax.random.fold_in(key, 2**32 - 1)
    first = 1
    if isinstance(algorithm, PopulationBasedAlgorithm):
        # Its first population: the start, and mutations of it; they are the first generation.
        keys = jax.random.split(first_key)
        us = jax.random.normal(keys[0], (config.num_children, *shape)).at[0].set(0)
        candidates = jax.vmap(decode)(us)
        values = evaluate(candidates)
        archive, best = keep(archive, best, candidates, values)
        trace.append(best[:1])
        with _as_evosax_broadcasts():
            state = algorithm.init(keys[1], us, _to_minimise(values), params)
        first = 2
    else:
        with _as_evosax_broadcasts():
            state = algorithm.init(first_key, jnp.zeros(shape), params)

    def generation(carry, number):
        state, archive, best = carry
        ask_key, tell_key = jax.random.split(jax.random.fold_in(key, number))
        with _as_evosax_broadcasts():
            us, state = algorithm.ask(ask_key, state, params)
        candidates = jax.vmap(decode)(us)
        values = evaluate(candidates)
        with _as_evosax_broadcasts():
            state, _ = algorithm.tell(tell_key, us, _to_minimise(values), state, params)
        archive, best = keep(archive, best, candidates, values)
        return (state, archive, best), best[0]

    numbers = jnp.arange(first, layer.generations + 1)
    (_, archive, best), rest = jax.lax.scan(generation, (state, archive, best), numbers)
    return archive, jnp.concatenate([*trace, rest])


def _basis(shape: tuple[int, ...], layer: LayerSchedule, config: SearchConfig):
    """What smooths u, [positions, m], or None; and the shape of u."""
    if not layer.smoothing_passes or len(shape) < 2:
        return None, shape
    rescale = config.smoothing == "noise_rescaled"
    spatial, passes = tuple(shape[:-1]), layer.smoothing_passes
    basis = noise_basis(spatial, passes, rescale, config.noise_truncation)
    return basis, (basis.shape[1], shape[-1])


def _as_evosax_broadcasts():
    """evosax adds axes by broadcasting, which a strict user of JAX may have forbidden."""
    return jax.numpy_rank_promotion("allow")


def _to_minimise(fitness: jax.Array) -> jax.Array:
    """Fitness as evosax has it, a failed candidate the worst."""
    return jnp.nan_to_num(-fitness, nan=jnp.finfo(jnp.float32).max)


def _keep_best(candidates: jax.Array, fitness: jax.Array, count: int):
    """The best `count` of candidates [m, ...] and their fitness, best first, m >= count."""
    best, order = jax.lax.top_k(jnp.nan_to_num(fitness, nan=-jnp.inf), count)
    return candidates[order], best
