"""Fitness: how good a candidate is (paper 3.1). Letters: n candidates, C classes."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dsl_jax.config import PAPERS_FITNESS
from dsl_jax.names import find

Stages = Sequence[Callable[[jax.Array], jax.Array]]
Fitness = Callable[[jax.Array, jax.Array], jax.Array]


class Population(NamedTuple):
    """Candidates [n, ...] of one image and layer, and their fitness [n]."""

    candidates: jax.Array
    fitness: jax.Array


def log_probability(logits: jax.Array, label: jax.Array) -> jax.Array:
    """The paper's fitness: the label's log-probability, [n, C] and a scalar -> [n] (3.1)."""
    return jax.nn.log_softmax(logits.astype(jnp.float32))[:, label]


def resolve(name: str) -> Fitness:
    """The function that `SearchConfig.fitness` names.

    Raises:
      ValueError: there is none of this name.
    """
    if name == PAPERS_FITNESS:
        return log_probability
    if ":" not in name:
        raise ValueError(
            f"fitness {name!r} is unknown: choose {PAPERS_FITNESS}, or 'module:function' for one "
            "of your own"
        )
    return find("fitness", name)


def as_cost(fitness: jax.Array) -> jax.Array:
    """Fitness as evosax has it, which minimises; and back again. The sign turns here alone."""
    return -fitness


def evaluate_candidates(
    stages: Stages, label: jax.Array, candidates: jax.Array, fitness: Fitness = log_probability
) -> jax.Array:
    """Fitness after the remaining stages (paper 3.1).

    Args:
      stages: the stages after the candidates' layer; none for logits.
      label: integer scalar.
      candidates: [n, ...].
      fitness: (logits [n, C], label) -> [n].

    Returns:
      [n] float32, higher is better.

    Raises:
      ValueError: the fitness is not one floating number a candidate.
    """
    for stage in stages:
        candidates = stage(candidates)
    values: Any = fitness(candidates, label)
    if values.shape != candidates.shape[:1] or not jnp.issubdtype(values.dtype, jnp.floating):
        raise ValueError(
            f"fitness returns {values.dtype}{list(values.shape)} for logits "
            f"{list(candidates.shape)}: need one floating number a candidate"
        )
    return values
