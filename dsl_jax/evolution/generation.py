"""`RepresentationGA`: the paper's genetic algorithm as an evosax population-based algorithm."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from evosax.algorithms.population_based import base
from flax import struct

from dsl_jax.evolution.fitness import best_first
from dsl_jax.evolution.noise import NOISE_TRUNCATION
from dsl_jax.evolution.operators import Near, breed
from dsl_jax.evolution.pairing import Pairing, Pairings, pairings
from dsl_jax.evolution.rows import not_empty, take_rows


@struct.dataclass
class State(base.State):
    """population [k, D] and fitness [k]: the parents, best first. Children are not kept."""


@struct.dataclass
class Params(base.Params):
    """Traced numbers, so that other strengths do not compile again.

    mutation_strength: alpha, scalar. exploration_boost: explorers mutate with alpha times this.
    """

    mutation_strength: jax.Array | float
    exploration_boost: jax.Array | float


class RepresentationGA(base.PopulationBasedAlgorithm):
    """Elitist genetic algorithm on representations (paper 3.1, A.2).

    A generation: the best `num_parents` survive unchanged and are not evaluated again; `ask`
    makes `num_explorers` children of them with strength alpha * boost, then `num_refiners` of
    parents and explorers with strength alpha; `tell` keeps the best. As everywhere in evosax
    fitness is MINIMISED here (`search` hands over `fitness.as_cost`). A candidate with a
    fitness of NaN never becomes a parent (unless all are), and ties go to the older candidate.

    Args:
      num_parents, num_explorers, num_refiners: k, C_exp, C_ref; at least 1, 0 and 0.
      solution: an example of an individual: one array of any rank, without a population axis.
      smoothing_passes, smoothing, kind, truncation, near: see `evolution.reproduce`.

    `population_size` is the number of children, num_explorers + num_refiners: what `ask` returns
    and `tell` takes. `init(key, population, fitness, params)` takes a population of any size from
    num_parents on.

    `offspring` of `pairings` is what `ask` does, `survivors` what `tell` does, for who needs no
    evosax: individuals keep their shape, and explorers and refiners are not joined, which an
    accelerator might do by copying them.

    Raises:
      ValueError: no parents, or no children.
    """

    def __init__(
        self,
        num_parents: int,
        num_explorers: int,
        num_refiners: int,
        solution: jax.Array,
        *,
        smoothing_passes: int = 0,
        smoothing: str = "noise",
        kind: str | None = None,
        truncation: float = NOISE_TRUNCATION,
        near: Near | None = None,
        **kwargs,
    ):
        if num_parents < 1 or min(num_explorers, num_refiners) < 0:
            raise ValueError(
                f"num_parents {num_parents} must be at least 1, num_explorers {num_explorers} "
                f"and num_refiners {num_refiners} at least 0"
            )
        if num_explorers + num_refiners < 1:
            raise ValueError("num_explorers + num_refiners is 0: a generation needs a child")
        super().__init__(num_explorers + num_refiners, solution, **kwargs)
        self.num_parents = num_parents
        self.num_explorers = num_explorers
        self.num_refiners = num_refiners
        self.smoothing_passes = smoothing_passes
        self.smoothing = smoothing
        self.kind = kind
        self.truncation = truncation
        self.near = near

    @property
    def _default_params(self) -> Params:
        """The paper's for a network's second block (paper A.2)."""
        return Params(mutation_strength=0.1, exploration_boost=3.0)

    def _init(self, key: jax.Array, params: Params) -> State:
        del key, params
        dtype = self.solution_flat.dtype
        return State(
            population=jnp.full((self.num_parents, self.num_dims), jnp.nan, dtype),
            fitness=jnp.full((self.num_parents,), jnp.inf, jnp.float32),
            best_solution=jnp.full((self.num_dims,), jnp.nan, dtype),
            best_fitness=jnp.full((), jnp.inf, jnp.float32),
            generation_counter=jnp.zeros((), jnp.int32),
        )

    def init(
        self, key: jax.Array, population: jax.Array, fitness: jax.Array, params: Params
    ) -> State:
        """Keeps the best `num_parents` of a population [n, ...] with fitness [n], n >= k.

        Raises:
          ValueError: the population has fewer than num_parents individuals.
        """
        size = jax.tree.leaves(population)[0].shape[0]
        if size < self.num_parents:
            raise ValueError(f"population of {size}: {self.num_parents} parents need as many")
        state = super().init(key, population, fitness, params)
        parents, costs = self.survivors((state.population,), state.fitness)
        return state.replace(population=parents, fitness=costs)

    def offspring(
        self, drawn: Pairings, parents: jax.Array, params: Params
    ) -> tuple[jax.Array, jax.Array]:
        """Explorers [C_exp, ...] and refiners [C_ref, ...] of `num_parents` parents [k, ...]."""
        of_explorers, of_refiners = drawn
        strength = params.mutation_strength * params.exploration_boost
        explorers = self._breed(of_explorers, (parents,), strength)
        pool = not_empty((parents, explorers))
        return explorers, self._breed(of_refiners, pool, params.mutation_strength)

    def survivors(
        self, groups: Sequence[jax.Array], costs: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """The best k individuals [k, ...] of groups [m_i, ...], and their costs [k], best first.

        costs: [sum of m_i], in the groups' order; of equals the first one is better.
        """
        order = best_first(costs, self.num_parents)
        best = costs[order]
        return take_rows(groups, order, jnp.isnan(best)), best

    def _ask(self, key: jax.Array, state: State, params: Params) -> tuple[jax.Array, State]:
        parents = jax.vmap(self._unravel_solution)(state.population)
        drawn = pairings(key, self.num_parents, self.num_explorers, self.num_refiners)
        children = jnp.concatenate(self.offspring(drawn, parents, params))
        return children.reshape(self.population_size, -1), state

    def _breed(
        self, pairing: Pairing, groups: Sequence[jax.Array], strength: jax.Array | float
    ) -> jax.Array:
        if not pairing.pairs.size:
            return groups[0][:0]
        return breed(
            pairing,
            groups,
            strength,
            self.smoothing_passes,
            smoothing=self.smoothing,
            kind=self.kind,
            truncation=self.truncation,
            near=self.near,
        )

    def _tell(
        self,
        key: jax.Array,
        population: jax.Array,
        fitness: jax.Array,
        state: State,
        params: Params,
    ) -> State:
        del key, params
        costs = jnp.concatenate([state.fitness, fitness])
        survivors, costs = self.survivors((state.population, population), costs)
        return state.replace(population=survivors, fitness=costs)
