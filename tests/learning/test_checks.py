"""What learning refuses is said so that one knows what to do."""

import jax
import numpy as np
import pytest
from flax import nnx

import dsl_jax as dsl
from dsl_jax.learning.checks import check_finite


def test_a_network_without_the_two_methods_is_refused():
    dataset = dsl.load_dataset("digits", num_train=60)
    linear = nnx.Linear(784, 10, rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match=r"a Linear is no network.*StagedNetwork.*PairNetwork"):
        dsl.learn(jax.random.key(0), linear, dataset, None, dsl.LearnConfig(epochs=1))


def test_a_loss_that_is_not_finite_from_the_first_step_is_not_blamed_on_the_rate():
    check_finite(np.ones(4), 0, 4)
    with pytest.raises(FloatingPointError, match=r"nan at step 0 \(epoch 1\): nothing was learned"):
        check_finite(np.array([np.nan, np.nan]), 0, 2)
    with pytest.raises(FloatingPointError, match=r"inf at step 9 \(epoch 3\): try a lower"):
        check_finite(np.array([1.0, np.inf, np.nan, 1.0]), 2, 4)
