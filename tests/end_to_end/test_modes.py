"""The method in JAX's stricter modes, each in a process of its own."""

import os
import subprocess
import sys

import pytest
from children import XLA_FLAGS

PROGRAM = """
import jax, numpy as np, dsl_jax as dsl
from flax import nnx

labels = np.arange(30) % 3
images = np.random.default_rng(0).integers(0, 256, (30, 9, 9, 1)).astype(np.uint8)
dataset = dsl.Dataset.from_arrays("d", (images, labels), (images, labels), validation_size=10)
inputs = dataset.normalize(dataset.train.images)

def network(seed):
    made = dsl.ConvNet((9, 9, 1), 3, (4,), normalize_blocks=True, rngs=nnx.Rngs(seed))
    made.whiten(inputs)
    return made

for strategy in ("SNES", "SimpleGA", "representation_ga"):
    layers = (dsl.LayerSchedule(2, 0.2, 2.0, 1), dsl.LayerSchedule(2, 0.2))
    config = dsl.SearchConfig(layers, 3, 4, 6, strategy=strategy)
    stages = dsl.frozen_stages(network(0), inputs, config, key=jax.random.key(0))
    found = dsl.search(jax.random.key(1), stages, inputs, dataset.train.labels, config)
    assert {str(array.dtype) for array in jax.tree.leaves(found)} == {"float32"}, strategy
learning = dsl.LearnConfig(epochs=2, batch_size=10, bias_rate_factor=4.0, augment=True)
learned = dsl.learn(jax.random.key(2), network(1), dataset, found, learning)
by_sgd = dsl.learn_sgd(jax.random.key(2), network(1), dataset, learning)
for trained in (learned.network, by_sgd.network):
    dtypes = {str(array.dtype) for array in jax.tree.leaves(nnx.state(trained))}
    assert dtypes == {"float32"}, dtypes
    assert np.isfinite(dsl.evaluate(trained, dataset).loss)
"""
# The last three do not touch each other; what one of them refuses, its error names.
MODES = {
    "x64": {"JAX_ENABLE_X64": "1"},
    "strict": {
        "JAX_DEBUG_NANS": "1",
        "JAX_NUMPY_RANK_PROMOTION": "raise",
        "JAX_NUMPY_DTYPE_PROMOTION": "strict",
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_everything_works_in_float32(mode):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "XLA_FLAGS": XLA_FLAGS, **MODES[mode]},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
