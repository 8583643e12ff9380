"""Learning in bfloat16: what multiplies in it, what does not, and how near it stays."""

import dataclasses

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh
from jax.tree_util import Partial
from stripes import DATASET, leaves, make, targets

import dsl_jax
from dsl_jax.config import LearnConfig
from dsl_jax.devices import sharding, sharing
from dsl_jax.learning.objectives import target_objective
from dsl_jax.learning.optimizer import make_optimizer, rates_of, timing_of
from dsl_jax.learning.steps import Program, step
from dsl_jax.learning.train import learn
from dsl_jax.networks import convolution
from dsl_jax.networks.convolution import convolve_same
from dsl_jax.networks.interface import in_mode, multiplying_in

KEY = jax.random.key(0)
WIDE = LearnConfig(epochs=2, batch_size=16, learning_rate=0.1, statistics_images=32)
NARROW = dataclasses.replace(WIDE, compute_dtype="bfloat16")
BRAIN = jnp.dtype(jnp.bfloat16)


def arguments(config):
    """Those of a step on the first images."""
    network = in_mode(make(), training=True)
    _, params, rest = nnx.split(network, nnx.Param, ...)
    graph = nnx.graphdef(multiplying_in(network, config.compute_dtype))
    rates, timing = rates_of(config), timing_of(config, 5)
    optimizer = make_optimizer(rates, timing).init(params)
    answers = tuple(h[:16] for h in targets().representations)
    images, program = DATASET.train.images[:16], Program(graph, config, timing, (0.5,), (0.2,))
    objective = Partial(target_objective)
    return KEY, params, optimizer, rest, objective, images, answers, rates, program


def kernel_gradient(x, cotangent):
    return jax.vjp(convolve_same, x, jnp.zeros((3, 3, 2, 1), BRAIN))[1](cotangent)[1]


def equations(jaxpr):
    """All that a program computes, however deep inside."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from equations(inner)


def test_convolutions_and_their_gradients_are_bfloat16_statistics_and_losses_are_not():
    *given, program = arguments(NARROW)
    traced = jax.make_jaxpr(lambda *given: step(*given, program))(*given)
    shapes = {"conv_general_dilated": [], "others": []}
    for equation in equations(traced.jaxpr):
        name = equation.primitive.name
        if name == "conv_general_dilated":
            kernel, (output,) = equation.invars[1].aval, equation.outvars
            inputs = {x.aval.dtype for x in equation.invars}
            is_added_up = output.aval.shape[1:3] == (3, 3)  # a block's part of a kernel's gradient
            is_stem = kernel.shape[:2] == (2, 2) and not is_added_up
            assert inputs == {jnp.dtype(jnp.float32) if is_stem else BRAIN}
            assert output.aval.dtype == (jnp.float32 if is_stem or is_added_up else BRAIN)
            shapes[name].append(kernel.shape)
        elif name in ("erf", "exp", "reduce_sum", "rsqrt", "square"):
            dtypes = {x.aval.dtype for x in equation.outvars}
            assert BRAIN not in dtypes, equation
            shapes["others"].append(name)
    assert len(shapes["conv_general_dilated"]) >= 6 and len(shapes["others"]) > 20
    assert {x.dtype for x in traced.out_avals if x.dtype != jnp.int32} == {jnp.dtype(jnp.float32)}
    *given, program = arguments(WIDE)
    assert "bf16" not in str(jax.make_jaxpr(lambda *given: step(*given, program))(*given))


def test_a_step_is_nearly_that_of_float32():
    changes = []
    for config in (WIDE, NARROW):
        *given, program = arguments(config)
        after = jax.jit(lambda *given, program=program: step(*given, program)[0])(*given)
        changes.append(jax.tree.leaves(jax.tree.map(lambda a, b: np.ravel(a - b), after, given[1])))
    for wide, narrow in zip(*changes, strict=True):
        assert 0 < np.linalg.norm(wide - narrow) < 0.1 * np.linalg.norm(wide)


@pytest.mark.parametrize("devices", [None, 4])
def test_blocks_of_a_kernels_gradient_are_added_up_in_float32(monkeypatch, devices):
    monkeypatch.setattr(convolution, "GRADIENT_BYTES", 1)  # a block an image
    mesh = devices and Mesh(np.array(jax.devices()[:devices]), ("images",))
    x = np.abs(np.random.default_rng(0).normal(size=(300, 3, 3, 2))).astype(BRAIN)
    cotangent = np.ones((300, 3, 3, 1), BRAIN)
    with sharing(mesh):
        given = jax.device_put((x, cotangent), mesh and sharding(mesh, "images"))
        gradient = jax.jit(kernel_gradient)(*given)
    assert gradient.dtype == BRAIN
    exact = x.astype(np.float64).sum((0, 1, 2))  # at the kernel's centre
    np.testing.assert_allclose(np.float64(gradient[1, 1, :, 0]), exact, rtol=2**-8)


@pytest.mark.slow
def test_training_in_it_ends_with_a_network_as_ever():
    found = learn(KEY, make(), DATASET, targets(), NARROW)
    assert found.history[-1]["train_loss"] < found.history[0]["train_loss"]
    convolutions = [m for _, m in nnx.iter_modules(found.network) if isinstance(m, nnx.Conv)]
    assert len(convolutions) == 6 and {conv.dtype for conv in convolutions} == {None}
    assert {leaf.dtype for leaf in leaves(found.network)} == {np.dtype(np.float32)}
    scores = dsl_jax.evaluate(found.network, DATASET, "validation")
    assert scores.accuracy == pytest.approx(found.best_epoch["validation_accuracy"], abs=0.07)
    wide = learn(KEY, make(), DATASET, targets(), WIDE)
    losses = [[record["train_loss"] for record in one.history] for one in (wide, found)]
    np.testing.assert_allclose(*losses, rtol=0.02)
    assert losses[0] != losses[1]


def test_a_convolution_with_a_dtype_of_its_own_keeps_it():
    layers = [nnx.Conv(1, 2, (3, 3), dtype=dtype, rngs=nnx.Rngs(0)) for dtype in (None, "float16")]
    network = nnx.Sequential(*layers)
    copy = multiplying_in(network, "bfloat16")
    assert [layer.dtype for layer in copy.layers] == [BRAIN, "float16"]
    assert [layer.dtype for layer in network.layers] == [None, "float16"]


def test_another_dtype_is_refused_and_one_that_would_change_nothing():
    dense = nnx.Sequential(nnx.Linear(3, 3, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match=r"bfloat16, but the network has no nnx\.Conv"):
        multiplying_in(dense, "bfloat16")
    with pytest.raises(ValueError, match="compute_dtype 'half' is unknown: choose one of float32"):
        LearnConfig(compute_dtype="half")
