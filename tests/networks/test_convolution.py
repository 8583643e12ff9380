"""Convolutions and their gradients against XLA's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from dsl_jax.devices import sharding, sharing
from dsl_jax.networks import convolution
from dsl_jax.networks.convolution import convolve, convolve_few, convolve_same


def arrays(count, height, width, features, out_features, size=(3, 3)):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(count, height, width, features)).astype(np.float32)
    kernel = generator.normal(size=(*size, features, out_features)).astype(np.float32)
    return jnp.asarray(x), jnp.asarray(kernel)


SHAPES = (
    (6, 5, 4, 3, 7, (3, 3)),
    (7, 6, 6, 2, 2, (3, 3)),  # a prime number of images
    (4, 5, 5, 2, 3, (1, 5)),
    (1, 1, 1, 1, 1, (3, 3)),
)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("images_in_a_block", [1, 2, 100])
def test_it_is_xlas_convolution_with_its_gradients(shape, images_in_a_block, monkeypatch):
    x, kernel = arrays(*shape)
    patches_of_an_image = x[0].nbytes * kernel.shape[0] * kernel.shape[1]
    monkeypatch.setattr(convolution, "BLOCK_BYTES", images_in_a_block * patches_of_an_image)
    ours, our_gradients = jax.vjp(convolve_same, x, kernel)
    theirs, their_gradients = jax.vjp(lambda x, kernel: convolve(x, kernel, "SAME"), x, kernel)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    cotangent = jnp.cos(jnp.arange(ours.size, dtype=jnp.float32)).reshape(ours.shape)
    for a, b in zip(our_gradients(cotangent), their_gradients(cotangent), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_devices_that_share_a_batch_make_their_own_part_of_the_kernels_gradient(monkeypatch):
    monkeypatch.setattr(convolution, "BLOCK_BYTES", 0)  # a loop, an image at a time
    x, kernel = arrays(8, 6, 6, 2, 3)
    mesh = Mesh(np.array(jax.devices()[:4]), ("images",))

    @jax.jit
    def gradient(x, kernel):
        return jax.grad(lambda kernel: (convolve_same(x, kernel) ** 2).sum())(kernel)

    expected = gradient(x, kernel)
    shared = jax.device_put(x, sharding(mesh, "images")), jax.device_put(kernel, sharding(mesh))
    with sharing(mesh):
        np.testing.assert_allclose(gradient(*shared), expected, rtol=1e-5, atol=1e-4)
        program = gradient.lower(*shared).compile().as_text()
    assert "all-reduce" in program
    assert "all-gather" not in program  # of the images, to each device


@pytest.mark.parametrize("size", [(2, 2), (1, 3)])
def test_few_channels_are_convolved_as_many(size):
    x, kernel = arrays(5, 6, 7, 3, 8, size)
    ours, our_gradients = jax.vjp(convolve_few, x, kernel)
    theirs, their_gradients = jax.vjp(lambda x, kernel: convolve(x, kernel, "VALID"), x, kernel)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    cotangent = jnp.cos(jnp.arange(ours.size, dtype=jnp.float32)).reshape(ours.shape)
    for a, b in zip(our_gradients(cotangent), their_gradients(cotangent), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_other_platforms_take_xlas():
    x, kernel = arrays(2, 4, 4, 2, 2)
    gradient = jax.grad(lambda x, kernel: convolve_same(x, kernel).sum(), argnums=1)
    for function in (gradient, convolve_few):
        traced = jax.jit(function).trace(x, kernel)
        lowered = traced.lower(lowering_platforms=("cuda",)).as_text()
        assert "stablehlo.convolution" in lowered
        assert "stablehlo.while" not in lowered
        here = traced.lower().as_text()
        assert "stablehlo.convolution" not in here
