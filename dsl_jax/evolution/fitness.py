"""Fitness: how good a candidate is (paper 3.1). Letters: n candidates, C classes."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dsl_jax.config import PAPERS_FITNESS
from dsl_jax.names import find

Stages = Sequence[Callable[[jax.Array], jax.Array]]
Fitness = Callable[[jax.Array, jax.Array], jax.Array]


class Population(NamedTuple):
    """Candidates [n, ...] of one image and layer, and their fitness [n]."""

    candidates: jax.Array
    fitness: jax.Array


def output_shapes(stages: Stages, image_shape: Sequence[int]) -> list[tuple[int, ...]]:
    """The shapes of one image's representations, without computing them.

    Raises:
      ValueError: a stage fails on what it is given; names it.
    """
    h = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    shapes = []
    for number, stage in enumerate(stages):
        try:
            h = jax.eval_shape(stage, h)
        except (TypeError, ValueError) as error:
            given = "images" if number == 0 else f"what stage {number - 1} returns,"
            raise ValueError(f"stage {number} fails on {given} {list(h.shape)}: {error}") from error
        shapes.append(h.shape[1:])
    return shapes


def num_logits(shapes: Sequence[tuple[int, ...]]) -> int:
    """How many classes `output_shapes` end with. Raises ValueError where the last is no vector."""
    if len(shapes[-1]) != 1:
        raise ValueError(
            f"the last stage returns {list(shapes[-1])} of an image: need logits [classes]"
        )
    return shapes[-1][0]


def log_probability(logits: jax.Array, label: jax.Array) -> jax.Array:
    """The paper's fitness: the label's log-probability, [n, C] and a scalar -> [n] (3.1)."""
    return jax.nn.log_softmax(logits.astype(jnp.float32))[:, label]


def unrelated(logits: jax.Array, label: jax.Array) -> jax.Array:
    """A control: numbers between 0 and 1 that say nothing of the label, [n, C] and a scalar -> [n].

    As good as random, but always the same of the same logits: a hash of their bits; NaN where they
    are not finite. A search by `fitness="dsl_jax.evolution.fitness:unrelated"` chooses blindly. It
    goes less far than one by log-probability: what is fit has no children that are fitter.
    """
    del label
    words = jax.lax.bitcast_convert_type(logits.astype(jnp.float32), jnp.uint32)
    mixed = jnp.zeros(words.shape[:1], jnp.uint32)
    for column in range(words.shape[1]):  # MurmurHash3's mixing
        mixed = (mixed ^ words[:, column]) * np.uint32(0x85EBCA6B)
        mixed = (mixed ^ (mixed >> 13)) * np.uint32(0xC2B2AE35)
        mixed = mixed ^ (mixed >> 16)
    value = (mixed >> 8).astype(jnp.float32) * np.float32(2**-24)
    return jnp.where(jnp.isfinite(logits).all(axis=1), value, jnp.nan)


def resolve(name: str) -> Fitness:
    """The function that `SearchConfig.fitness` names.

    Raises:
      ValueError: there is none of this name, or it is no function.
    """
    if name == PAPERS_FITNESS:
        return log_probability
    if ":" not in name:
        raise ValueError(
            f"fitness {name!r} is unknown: choose {PAPERS_FITNESS}, or 'module:function' for one "
            "of your own"
        )
    function = find("fitness", name)
    if not callable(function):
        raise ValueError(f"fitness {name!r} is {function!r}: it must be a function")
    return function


def ranked(fitness: jax.Array) -> jax.Array:
    """Fitness by which to choose the best: what is not a number is worse than all else."""
    return jnp.nan_to_num(fitness, nan=-jnp.inf)


def best_first(costs: jax.Array, count: int) -> jax.Array:
    """Indices [count] of the lowest costs, lowest first, ties in order.

    NaN ranks below everything, infinity too; where numbers run out, the best is taken again.
    """
    largest = jnp.finfo(costs.dtype).max
    comparable = jnp.where(jnp.isnan(costs), jnp.inf, jnp.minimum(costs, largest))
    order = jax.lax.top_k(-comparable, count)[1]
    return jnp.where(jnp.isnan(costs[order]), order[0], order)


def as_cost(fitness: jax.Array) -> jax.Array:
    """Fitness as evosax has it, which minimises."""
    return -fitness


def from_cost(cost: jax.Array) -> jax.Array:
    """The fitness that `as_cost` was given."""
    return -cost


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
      TypeError: the fitness asks Python for a value that is traced.
    """
    for stage in stages:
        candidates = stage(candidates)
    try:
        values = jnp.asarray(fitness(candidates, label))
    except jax.errors.JAXTypeError as error:
        raise TypeError(
            "the fitness needs the value of its logits or label in Python (an if, float() or NumPy "
            "on them), but both are traced by JAX: use jnp.where and jax.numpy. JAX says: "
            f"{str(error).splitlines()[0]}"
        ) from error
    if values.shape != candidates.shape[:1] or not jnp.issubdtype(values.dtype, jnp.floating):
        raise ValueError(
            f"fitness returns {values.dtype}{list(values.shape)} for logits "
            f"{list(candidates.shape)}: need one floating number a candidate"
        )
    return values.astype(jnp.float32)
