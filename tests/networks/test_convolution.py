"""Convolutions and their gradients against XLA's own."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from dsl_jax.devices import sharding, sharing
from dsl_jax.networks import convolution
from dsl_jax.networks.convolution import convolve, convolve_few, convolve_same

CPU_INFO = Path("/proc/cpuinfo")


def arrays(count, height, width, features, out_features, size=(3, 3)):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(count, height, width, features)).astype(np.float32)
    kernel = generator.normal(size=(*size, features, out_features)).astype(np.float32)
    return jnp.asarray(x), jnp.asarray(kernel)


SHAPES = (
    (6, 5, 4, 3, 7, (3, 3)),
    (7, 6, 6, 2, 2, (3, 3)),
    (4, 5, 5, 2, 3, (1, 5)),
    (1, 1, 1, 1, 1, (3, 3)),
)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("images_in_a_block", [1, 2, 100])
def test_it_is_xlas_convolution_with_its_gradients(shape, images_in_a_block, monkeypatch):
    x, kernel = arrays(*shape)
    of_an_image = x[0].nbytes * (1 + kernel.shape[3] / kernel.shape[2])
    monkeypatch.setattr(convolution, "GRADIENT_BYTES", int(images_in_a_block * of_an_image))
    _check_against_xla(x, kernel, atol=1e-4)


@pytest.mark.parametrize("size", [(4, 4), (5, 6), (13, 13)])
@pytest.mark.parametrize("images_in_a_block", [1, 2, 100])
def test_many_channels_are_convolved_by_winograds_algorithm(size, images_in_a_block, monkeypatch):
    x, kernel = arrays(3, *size, 64, 65)
    monkeypatch.setattr(convolution, "WINOGRAD_FEATURES", 64)
    tiles = -(-size[0] // 2) * -(-size[1] // 2)
    monkeypatch.setattr(convolution, "WINOGRAD_TILES", images_in_a_block * tiles)
    assert "stablehlo.convolution" not in jax.jit(convolve_same).lower(x, kernel).as_text()
    _check_against_xla(x, kernel, atol=2e-4)  # numbers up to about 100


@pytest.mark.skipif(not CPU_INFO.exists(), reason="only Linux lists a processor's flags there")
def test_what_numpy_knows_of_a_processor_is_what_linux_knows():
    assert convolution._has_avx512() == ("avx512f" in CPU_INFO.read_text().split())


@pytest.mark.parametrize(
    ("extensions", "expected"),
    [
        ({"baseline": ["SSE"], "found": ["AVX2", "AVX512F"], "not found": []}, True),
        ({"baseline": ["X86_V2"], "found": ["X86_V3", "X86_V4"]}, True),
        ({"baseline": ["X86_V2"], "found": ["X86_V3"], "not found": ["X86_V4"]}, False),
        ({"baseline": ["NEON"], "not found": ["SVE"]}, False),
        (None, False),
    ],
)
def test_vectors_of_16_numbers_are_known_by_every_name(extensions, expected, monkeypatch):
    known = {} if extensions is None else {"SIMD Extensions": extensions}
    monkeypatch.setattr(np, "show_config", lambda mode: known)
    assert convolution._has_avx512() == expected


def _check_against_xla(x, kernel, atol):
    """The convolution, and both gradients."""
    ours, our_gradients = jax.vjp(convolve_same, x, kernel)
    theirs, their_gradients = jax.vjp(lambda x, kernel: convolve(x, kernel, "SAME"), x, kernel)
    cotangent = jnp.cos(jnp.arange(ours.size, dtype=jnp.float32)).reshape(ours.shape)
    pairs = zip(
        (ours, *our_gradients(cotangent)), (theirs, *their_gradients(cotangent)), strict=True
    )
    for a, b in pairs:
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, atol=atol)


@pytest.mark.parametrize(
    ("features", "out_features", "atol"), [(2, 3, 1e-4), (64, 64, 2e-2)]
)  # the latter by Winograd's algorithm
def test_devices_that_share_a_batch_go_each_through_its_own_images(
    features, out_features, atol, monkeypatch
):
    monkeypatch.setattr(convolution, "GRADIENT_BYTES", 0)  # a loop, an image at a time
    monkeypatch.setattr(convolution, "WINOGRAD_FEATURES", 64)
    monkeypatch.setattr(convolution, "WINOGRAD_TILES", 0)
    x, kernel = arrays(8, 6, 6, features, out_features)
    mesh = Mesh(np.array(jax.devices()[:4]), ("images",))

    @jax.jit
    def gradient(x, kernel):
        return jax.grad(lambda kernel: (convolve_same(x, kernel) ** 2).sum())(kernel)

    expected = gradient(x, kernel)
    shared = jax.device_put(x, sharding(mesh, "images")), jax.device_put(kernel, sharding(mesh))
    with sharing(mesh):
        np.testing.assert_allclose(gradient(*shared), expected, rtol=1e-5, atol=atol)
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
    small, wide = arrays(2, 4, 4, 2, 2), arrays(2, 4, 4, 128, 128)
    gradient = jax.grad(lambda x, kernel: convolve_same(x, kernel).sum(), argnums=1)
    cases = ((gradient, small, "while"), (convolve_few, small, ""), (convolve_same, wide, ""))
    for function, arguments, is_loop in cases:
        traced = jax.jit(function).trace(*arguments)
        lowered = traced.lower(lowering_platforms=("cuda",)).as_text()
        assert lowered.count("stablehlo.convolution") == 1
        assert "stablehlo.while" not in lowered
        here = traced.lower().as_text()
        assert "stablehlo.while" in here if is_loop else "stablehlo.convolution" not in here
