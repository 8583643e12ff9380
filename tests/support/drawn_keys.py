"""A generator like philox that tells with which keys numbers are drawn."""

import jax
from jax.extend.random import define_prng_impl

from dsl_jax import philox


def recording_key(seed, drawn, name="philox that tells"):
    """A key. The words of each key that comes of it, and with which numbers are drawn, go to
    `drawn`, a list, in any order; wait for them by `jax.effects_barrier`."""

    def random_bits(key, bit_width, shape):
        jax.debug.callback(lambda words: drawn.append(tuple(words.tolist())), key)
        return philox._random_bits(key, bit_width, shape)

    impl = define_prng_impl(
        key_shape=(2,),
        seed=philox._seed,
        split=philox._split,
        random_bits=random_bits,
        fold_in=philox._fold_in,
        name=name,
        tag=name,
    )
    return jax.random.key(seed, impl=impl)
