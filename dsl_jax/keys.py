"""Random keys: which generator, and what each key is for."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dsl_jax.philox import IMPL


def check_key(key: jax.Array) -> None:
    """Raises TypeError for what is not one key: a typed one, or a raw one of uint32."""
    if isinstance(key, jax.Array | np.ndarray):
        if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ():
            return
        if key.dtype == np.uint32 and key.shape == jax.random.key_data(jax.random.key(0)).shape:
            return
        found = f"{key.dtype}{list(key.shape)}"
    else:
        name = type(key).__name__
        found = f"{key} ({name})" if np.isscalar(key) else f"a {name}"
    raise TypeError(f"the key is {found}: give one key, such as jax.random.key(0)")


def is_philox(key: jax.Array) -> bool:
    """Whether a key is a philox key; a raw uint32 key is not. Raises TypeError, see `check_key`."""
    check_key(key)
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return False
    return "philox" in str(jax.random.key_impl(key))


def philox_key(key: jax.Array) -> jax.Array:
    """A philox4x32 key derived from any `jax.random` key; one that is philox stays as it is.

    Normals from philox are several times as fast as from threefry under vmap on a CPU, and unlike
    rbg's a vmapped draw equals the looped one.
    """
    if is_philox(key):
        return key
    words = jax.random.key_data(jax.random.key(0, impl="philox4x32")).shape
    return jax.random.wrap_key_data(jax.random.bits(key, words, jnp.uint32), impl="philox4x32")


def threefry_key(key: jax.Array) -> jax.Array:
    """The key, or one derived from it: jax 0.10 cannot lower philox keys for several devices."""
    if not is_philox(key):
        return key
    words = jax.random.bits(key, (2,), jnp.uint32)
    return jax.random.wrap_key_data(words, impl="threefry2x32")


def key_for_several_devices(words: jax.Array) -> jax.Array:
    """From the words of a philox4x32 key one with the same numbers that all programs can use."""
    return jax.random.wrap_key_data(words, impl=IMPL)


def computed_once(tree: Any) -> Any:
    """Keys, or arrays made of them, that XLA does not compute again in each place that uses them.

    A key's few words cost little to run and much to compile: fused into all their users, the rounds
    of the generator would be most of a search's program.
    """

    def one(x: jax.Array) -> jax.Array:
        if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.lax.optimization_barrier(x)
        words = jax.lax.optimization_barrier(jax.random.key_data(x))
        return jax.random.wrap_key_data(words, impl=jax.random.key_impl(x))

    return jax.tree.map(one, tree)


def keys_of_layers(key: jax.Array, count: int) -> jax.Array:
    """A search's key for each layer, [count]."""
    return computed_once(jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(count)))


def normal_numbers(key: jax.Array, shape: Sequence[int]) -> jax.Array:
    """`jax.random.normal`, drawn in a row: the same numbers, but from a threefry key XLA compiles
    them on a CPU in a quarter of the time."""
    return jax.random.normal(key, (math.prod(shape),)).reshape(shape)


# What a key is for: folded into the seed's key, so that no two purposes share random numbers.
SEARCH_NETWORK, STATISTICS, SEARCH, LEARNER, TRAINING, CHOICE, CONTROL, SAMPLER = range(8)

# Folded into a layer's key, where generations fold in their numbers, which are small.
FIRST_DRAW, FRESH_IMAGES, NOISE = 2**32 - 1, 2**32 - 2, 2**32 - 3
CLUSTERS = 2**32 - 2  # into the key of a whole search, where classes fold in theirs


def check_seed(seed: int) -> None:
    """Raises ValueError for a seed of which a key would keep the lowest bits alone."""
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed is {seed}: it must be 0 to {2**32 - 1}, num_seeds counted in")


def purpose_key(seed: int, purpose: int, cycle: int = 1) -> jax.Array:
    """The key of a seed for one purpose, in one cycle. Raises ValueError as `check_seed`."""
    check_seed(seed)
    key = jax.random.fold_in(jax.random.key(seed), purpose)
    return key if cycle == 1 else jax.random.fold_in(key, cycle)
