"""What is drawn in a row is what `jax.random` draws in a shape."""

import jax
import numpy as np
import pytest

from dsl_jax.keys import keys_of_layers, normal_numbers, philox_key
from dsl_jax.networks.convnet import uniform_fan_in

SHAPE = (3, 4, 2, 5)


@pytest.mark.parametrize(
    "key",
    [jax.random.key(0), jax.random.PRNGKey(0), philox_key(jax.random.key(0))],
    ids=["threefry", "raw", "philox"],
)
def test_numbers_drawn_in_a_row_are_jaxs_own(key):
    np.testing.assert_array_equal(normal_numbers(key, SHAPE), jax.random.normal(key, SHAPE))
    bound = 24**-0.5
    own = jax.random.uniform(key, SHAPE, minval=-bound, maxval=bound)
    np.testing.assert_allclose(uniform_fan_in(key, SHAPE), own, rtol=1e-6)


def test_each_layer_has_the_key_of_its_number():
    key = philox_key(jax.random.key(5))
    for number, found in enumerate(keys_of_layers(key, 3)):
        assert found == jax.random.fold_in(key, number)
