"""Which parents a child has (paper 3.1): drawn before they are known."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dsl_jax.config import LayerSchedule, SearchConfig
from dsl_jax.keys import computed_once


class Pairing(NamedTuple):
    """What chance decides of children before their parents are known.

    pairs: int32 [2, C], the numbers of each child's two parents. noise_key: the key of the noise
    of all of them.
    """

    pairs: jax.Array
    noise_key: jax.Array


def pair_up(key: jax.Array, num_parents: int, num_children: int) -> Pairing:
    """Draws parents in pairs, independently and with replacement (paper 3.1); uses the key up."""
    pair_key, noise_key = computed_once(jax.random.split(key))
    pairs = jax.random.randint(pair_key, (2, num_children), 0, num_parents, jnp.int32)
    return Pairing(computed_once(pairs), noise_key)


Pairings = tuple[Pairing, Pairing]


def pairings(key: jax.Array, num_parents: int, num_explorers: int, num_refiners: int) -> Pairings:
    """Of the explorers and of the refiners of a generation; uses the key up."""
    explorer_key, refiner_key = computed_once(jax.random.split(key))
    return (
        pair_up(explorer_key, num_parents, num_explorers),
        pair_up(refiner_key, num_parents + num_explorers, num_refiners),
    )


def pairings_of_layers(
    keys: jax.Array, layers: Sequence[LayerSchedule], config: SearchConfig
) -> list[Pairings]:
    """`pairings` of every generation of every layer, leaves [generations, ...].

    None needs the parents, so all are drawn at once: layer by layer they would be a third of what
    is compiled, and generation by generation kernels of a few words on an accelerator.

    keys: [layers], from each of which one a generation is made.
    """
    generations = [layer.generations for layer in layers]
    rows = np.repeat(np.arange(len(layers)), generations)
    numbers = np.concatenate([np.arange(1, count + 1) for count in generations])
    each = computed_once(jax.vmap(jax.random.fold_in)(keys[rows], numbers))
    counts = (config.num_parents, config.num_explorers, config.num_refiners)
    drawn = jax.vmap(lambda key: pairings(key, *counts))(each)
    ends = np.cumsum(generations)
    return [
        jax.tree.map(lambda x, end=end, count=count: x[end - count : end], drawn)
        for end, count in zip(ends, generations, strict=True)
    ]
