"""philox4x32 by products of 16 bits, against JAX's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsl_jax.keys import is_philox, key_for_several_devices


def ours_of(key):
    return key_for_several_devices(jax.random.key_data(key))


@pytest.mark.parametrize("seed", [0, 1, 2**31, 4_000_000_000])
def test_all_that_is_made_of_a_key_has_the_same_bits(seed):
    key = jax.random.key(seed, impl="philox4x32")
    ours = ours_of(key)
    assert is_philox(ours)
    for made in (
        lambda key: jax.random.bits(key, (3, 50)),
        lambda key: jax.random.bits(key, (9,), jnp.uint16),
        lambda key: jax.random.normal(key, ()),
        lambda key: jax.random.key_data(jax.random.split(key, (4,))),
        lambda key: jax.random.key_data(jax.random.fold_in(key, 2**32 - 1)),
        lambda key: jax.random.permutation(jax.random.split(key)[1], 20),
        lambda key: jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i), (5,)))(
            jnp.arange(3)
        ),
    ):
        np.testing.assert_array_equal(made(key), made(ours))
        np.testing.assert_array_equal(made(key), jax.jit(made)(ours))


def test_more_numbers_than_are_counted_are_refused():
    key = ours_of(jax.random.key(0, impl="philox4x32"))
    with pytest.raises(ValueError, match="4294967296 numbers are asked for at once"):
        jax.jit(lambda key: jax.random.bits(key, (2**16, 2**16))).lower(key)
    with pytest.raises(TypeError, match="64 bits a number"), jax.enable_x64(True):
        jax.random.bits(key, (2,), jnp.uint64)
