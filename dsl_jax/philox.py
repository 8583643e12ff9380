"""philox4x32 as JAX has it, bit for bit, for programs of several devices.

JAX's own needs the upper half of a product of 32 bits, which jax 0.10 to 0.12 cannot lower in a
program for several devices. Here it is made of products of 16 bits.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import define_prng_impl

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)  # Salmon et al., 2011, section 3.3
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)


def _product(factor: int, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Upper and lower 32 bits of factor * x, uint32 of x's shape."""
    low, high = np.uint32(factor & 0xFFFF), np.uint32(factor >> 16)
    x_low, x_high = x & np.uint32(0xFFFF), x >> 16
    middle = high * x_low + (low * x_low >> 16)
    other = low * x_high + (middle & np.uint32(0xFFFF))
    return high * x_high + (middle >> 16) + (other >> 16), np.uint32(factor) * x


def philox4x32(key: jax.Array, counter: Sequence[Any]) -> tuple[jax.Array, ...]:
    """Four random words for each counter of four words; key: uint32 [2]."""
    k0, k1 = key[0], key[1]
    x0, x1, x2, x3 = (jnp.asarray(word, jnp.uint32) for word in counter)
    for number in range(ROUNDS):
        if number:
            k0, k1 = k0 + np.uint32(KEY_STEPS[0]), k1 + np.uint32(KEY_STEPS[1])
        high_0, low_0 = _product(MULTIPLIERS[0], x0)
        high_1, low_1 = _product(MULTIPLIERS[1], x2)
        x0, x1, x2, x3 = high_1 ^ x1 ^ k0, low_1, high_0 ^ x3 ^ k1, low_0
    return x0, x1, x2, x3


def _counts(shape: Sequence[int]) -> jax.Array:
    """0, 1, ... in the given shape. Raises ValueError where they do not fit in 32 bits."""
    if (count := math.prod(shape)) >= 2**32:
        raise ValueError(f"{count} numbers are asked for at once: at most 2**32 - 1 can be")
    return jax.lax.iota(jnp.uint32, count).reshape(shape)


def _seed(seed: jax.Array) -> jax.Array:
    return jax.random.key_data(jax.random.key(seed, impl="philox4x32"))


def _split(key: jax.Array, shape: Sequence[int]) -> jax.Array:
    words = philox4x32(key, (0, 0, 0, _counts(shape)))
    return jnp.stack(words[:2], axis=-1)


def _random_bits(key: jax.Array, bit_width: int, shape: Sequence[int]) -> jax.Array:
    if bit_width not in (8, 16, 32):
        raise TypeError(f"{bit_width} bits a number: philox4x32 gives 8, 16 or 32 here")
    a, b, c, d = philox4x32(key, (0, _counts(shape), 0, 0))
    return (a ^ b ^ c ^ d).astype(f"uint{bit_width}")


def _fold_in(key: jax.Array, data: Any) -> jax.Array:
    return jnp.stack(philox4x32(key, (0, 0, 0, data))[:2])


IMPL = define_prng_impl(
    key_shape=(2,),
    seed=_seed,
    split=_split,
    random_bits=_random_bits,
    fold_in=_fold_in,
    name="philox4x32_by_16_bits",
    tag="philox4x32_by_16_bits",
)
