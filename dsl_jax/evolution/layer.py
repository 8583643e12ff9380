"""Evolution of one layer: its first candidates, its generations, and what is kept of them.

Letters: n candidates, k parents.
"""

import math
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

from dsl_jax.config import PAPERS_STRATEGY, SearchConfig
from dsl_jax.evolution import strategies
from dsl_jax.evolution.fitness import Population, as_cost, from_cost, ranked
from dsl_jax.evolution.operators import reproduce, standardize
from dsl_jax.evolution.pairing import Pairings, pairings_of_layers
from dsl_jax.evolution.rows import not_empty
from dsl_jax.evolution.task import Evaluate, LayerTask


def with_copies(key: jax.Array, best: jax.Array, task: LayerTask) -> jax.Array:
    """A layer's first candidates [n, ...]: what came in [1, ...], and mutated copies of it."""
    config = task.config
    count = config.population_size - 1
    copies = reproduce(key, best, count, task.layer.mutation_strength, **task.mutation)
    if config.stop_probability < 1:  # what comes in right with the margin is left alone
        is_enough = task.evaluate(best)[0] >= math.log(config.stop_probability)
        copies = jnp.where(is_enough, best, copies)
    return jnp.concatenate([best, copies])


def drawn_for_layers(keys: jax.Array, config: SearchConfig) -> Sequence[Pairings | None]:
    """What `evolve_layer` needs drawn for each layer, by their keys [layers]: the paper's algorithm
    pairs of parents, another nothing."""
    if config.strategy != PAPERS_STRATEGY:
        return [None] * len(config.layers)
    return pairings_of_layers(keys, config.layers, config)


def evolve_layer(
    key: jax.Array, candidates: jax.Array, task: LayerTask, drawn: Pairings | None = None
) -> tuple[jax.Array, jax.Array]:
    """Parents [k, ...] after the last generation, best first, and the best fitness of each.

    drawn: the layer's of `drawn_for_layers`; None: drawn here.
    """
    first = task.evaluate if task.renewed is None else task.renewed(jnp.int32(0))
    population = Population(candidates, first(candidates))
    if not task.layer.generations:
        best = jnp.argmax(ranked(population.fitness))
        return candidates[best][None], population.fitness[best][None]
    if task.strategy is None:
        if drawn is None:
            (drawn,) = pairings_of_layers(key[None], (task.layer,), task.config)
        return _evolve_as_in_the_paper(drawn, population, task)
    # evosax computes in float32
    population = population._replace(candidates=candidates.astype(jnp.float32))
    parents, trace = strategies.evolve(key, population, task)
    return parents.astype(candidates.dtype), trace


def target_of(parents: jax.Array, task: LayerTask) -> jax.Array:
    """What is kept of a layer's last parents [k, ...], best first: the best, or their mean."""
    parents = parents.astype(jnp.float32)
    if task.config.target == "parent_mean" and task.layer.generations:
        return standardize(jnp.mean(parents, axis=0), task.kind)
    return parents[0]


def _evolve_as_in_the_paper(
    drawn: Pairings, population: Population, task: LayerTask
) -> tuple[jax.Array, jax.Array]:
    """`evolve_layer` by `RepresentationGA`, for at least one generation."""
    config, layer = task.config, task.layer
    with jax.ensure_compile_time_eval():  # evosax makes arrays; none may belong to this trace
        from dsl_jax.evolution.generation import Params, RepresentationGA

        algorithm = RepresentationGA(
            config.num_parents,
            config.num_explorers,
            config.num_refiners,
            jnp.zeros(population.candidates.shape[1:], population.candidates.dtype),
            **task.mutation,
        )
    params = Params(layer.mutation_strength, layer.exploration_boost)
    first = algorithm.survivors((population.candidates,), as_cost(population.fitness))

    def renew(carry, number, pairings):
        parents, costs = carry
        evaluate = task.evaluate
        if task.renewed is not None:
            evaluate = task.renewed(number)
            costs = as_cost(evaluate(parents))
        children = algorithm.offspring(pairings, parents, params)
        costs = jnp.concatenate([costs, as_cost(_evaluate(evaluate, children))])
        return algorithm.survivors((parents, *children), costs)

    def generation(carry, step):
        if config.stop_probability < 1:  # a search of one image alone, as on a CPU, skips the rest
            is_enough = from_cost(carry[1][0]) >= math.log(config.stop_probability)
            new = jax.lax.cond(is_enough, lambda old, *_: old, renew, carry, *step)
        else:
            new = renew(carry, *step)
        return new, new[1][0]

    numbers = jnp.arange(1, layer.generations + 1)
    (parents, _), rest = jax.lax.scan(generation, first, (numbers, drawn))
    return parents, from_cost(jnp.concatenate([first[1][:1], rest]))


def _evaluate(evaluate: Evaluate, groups: Sequence[jax.Array]) -> jax.Array:
    """Fitness [sum of m_i] of groups of candidates [m_i, ...]."""
    groups = not_empty(groups)
    if len(groups) == 1:
        return evaluate(groups[0])
    return jax.lax.platform_dependent(
        groups,
        cuda=partial(_evaluate_together, evaluate),
        default=partial(_evaluate_apart, evaluate),
    )


def _evaluate_apart(evaluate: Evaluate, groups: Sequence[jax.Array]) -> jax.Array:
    return jnp.concatenate([evaluate(group) for group in groups])


def _evaluate_together(evaluate: Evaluate, groups: Sequence[jax.Array]) -> jax.Array:
    """The same for an NVIDIA GPU: half the kernels. The first one reads from the groups where it is
    not a library's, as a convolution is."""
    return evaluate(jnp.concatenate(groups))
