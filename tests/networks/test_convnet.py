"""The network: its stem, shapes, start and order of layers, against NumPy and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import special

from dsl_jax.networks.convnet import (
    ConvNet,
    dirac_or_uniform,
    gelu,
    max_pool,
    representation_shapes,
    stage_flops,
    uniform_fan_in,
    whitening_kernel,
)

IMAGES = np.random.default_rng(0).normal(size=(30, 12, 12, 3)).astype(np.float32)
IMAGES += 0.8 * np.roll(IMAGES, 1, axis=2)  # neighbours correlate, as in real images


def make(groups=1, widths=(4, 4, 4), image_shape=(12, 12, 3), **options):
    network = ConvNet(image_shape, 5, widths, groups, rngs=nnx.Rngs(0), **options)
    if image_shape == (12, 12, 3):
        network.whiten(IMAGES)
    return network


def test_the_stem_whitens_patches():
    kernel = whitening_kernel(IMAGES)
    assert kernel.shape == (2, 2, 3, 24)
    filters = kernel.reshape(12, 24)
    np.testing.assert_array_equal(filters[:, :12], -filters[:, 12:])
    # Patches taken one by one, and their second moments: filters must diagonalise them.
    patches = [
        IMAGES[n, i : i + 2, j : j + 2].ravel()
        for n in range(30)
        for i in range(11)
        for j in range(11)
    ]
    moments = np.mean([np.outer(p, p) for p in np.array(patches, np.float64)], axis=0)
    values = np.linalg.eigvalsh(moments)[::-1]
    responses = filters[:, :12].T @ moments @ filters[:, :12]
    np.testing.assert_allclose(responses, np.diag(values / (values + 5e-4)), atol=1e-4)


@pytest.mark.parametrize(
    ("image_shape", "sides"), [((32, 32, 3), (15, 7, 3)), ((28, 28, 1), (13, 6, 3))]
)
def test_shapes_are_the_papers(image_shape, sides):
    network = make(widths=(8, 6, 4), image_shape=image_shape, groups=2)
    shapes = [h.shape for h in network.representations(jnp.zeros((2, *image_shape)))]
    assert shapes == [(2, s, s, w) for s, w in zip(sides, (8, 6, 4), strict=True)]
    assert network(jnp.zeros((2, *image_shape))).shape == (2, 5)
    assert network.stem_kernel.shape[-1] == 8 * image_shape[-1]


@pytest.mark.parametrize("image_shape", [(28, 28, 1), (32, 32, 3)])
@pytest.mark.parametrize("groups", [1, 3])
def test_shapes_and_operations_are_told_without_a_network(image_shape, groups):
    widths = (16, 12, 8)
    network = make(groups, widths, image_shape)
    network.eval()
    graph, state = nnx.split(network)

    def forward(state, images):
        network = nnx.merge(graph, state)
        representations = network.representations(images)
        return (*representations, network.head(representations[-1]))

    images = jnp.zeros((4, *image_shape))
    outputs = jax.eval_shape(forward, state, images)
    assert tuple(h.shape[1:] for h in outputs) == representation_shapes(image_shape, widths, 5)
    counted = jax.jit(forward).lower(state, images).compile().cost_analysis()["flops"] / 4
    # XLA also counts BatchNorm and GELU, and not the products with padding.
    assert sum(stage_flops(image_shape, widths, 5, groups)) == pytest.approx(counted, rel=0.2)


def test_the_paper_has_about_three_and_ten_million_parameters():
    def count(groups):
        network = jax.eval_shape(
            lambda: ConvNet((32, 32, 3), 10, (256, 256, 256), groups, rngs=nnx.Rngs(0))
        )
        return sum(x.size for x in jax.tree.leaves(nnx.state(network, nnx.Param)))

    assert count(1) == pytest.approx(3.03e6, rel=0.01)
    assert count(3) == pytest.approx(10.1e6, rel=0.01)


def test_what_is_trained_and_what_is_not():
    paths = {
        jax.tree_util.keystr(path, simple=True, separator=".")
        for path, _ in jax.tree_util.tree_leaves_with_path(nnx.state(make(), nnx.Param))
    }
    assert "stem_kernel" not in " ".join(paths)
    assert not any("scale" in path for path in paths)  # BatchNorm's scale is fixed at 1
    assert not any("bias" in path for path in paths if "linear" in path or "conv" in path)
    assert sum("norm" in path and "bias" in path for path in paths) == 6
    assert any("stem_bias" in path for path in paths)


def test_convolutions_start_as_the_identity_where_they_can():
    h = jnp.asarray(np.random.default_rng(1).normal(size=(2, 5, 5, 4)), jnp.float32)

    def convolve(kernel):
        return jax.lax.conv_general_dilated(
            h, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    key = jax.random.key(0)
    np.testing.assert_allclose(convolve(dirac_or_uniform(key, (3, 3, 4, 4))), h, atol=1e-6)
    wide = dirac_or_uniform(key, (3, 3, 4, 9))
    np.testing.assert_allclose(convolve(wide)[..., :4], h, atol=1e-6)
    rest = np.asarray(wide[..., 4:])
    assert 0.15 < np.abs(rest).max() <= 1 / 6  # 1 / sqrt(9 * 4)
    narrow = dirac_or_uniform(key, (3, 3, 4, 2))
    np.testing.assert_allclose(convolve(narrow), h[..., :2], atol=1e-6)
    head = np.asarray(uniform_fan_in(key, (400, 10)))
    assert 0.045 < np.abs(head).max() <= 0.05


def test_max_pool_leaves_an_odd_row_out():
    x = np.random.default_rng(2).normal(size=(2, 5, 4, 3)).astype(np.float32)
    windows = x[:, :4].reshape(2, 2, 2, 2, 2, 3)
    np.testing.assert_array_equal(max_pool(jnp.asarray(x)), windows.max(axis=(2, 4)))


@pytest.mark.parametrize("height", [4, 5])
def test_max_pools_gradient_is_shared_by_equal_numbers_as_jax_shares_it(height):
    def by_jax(x):
        x = x[:, : height // 2 * 2, :6]
        rows = jnp.maximum(x[:, ::2], x[:, 1::2])
        return jnp.maximum(rows[:, :, ::2], rows[:, :, 1::2])

    generator = np.random.default_rng(0)
    x = jnp.asarray(generator.integers(0, 3, (8, height, 7, 2)), jnp.float32)  # many are equal
    cotangent = jnp.asarray(generator.normal(size=(8, height // 2, 3, 2)), jnp.float32)
    ours, theirs = (jax.vjp(pool, x)[1](cotangent)[0] for pool in (max_pool, by_jax))
    np.testing.assert_array_equal(ours, theirs)


def slow_gelu(x):
    return x * 0.5 * (1 + special.erf(x / np.sqrt(2)))


def slow_block(x, kernels, pool):
    """conv, pool, BatchNorm on the batch, GELU, conv, BatchNorm, GELU in float64."""
    for number, kernel in enumerate(kernels):
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        height, width = x.shape[1:3]
        out = np.zeros((*x.shape[:3], kernel.shape[-1]))
        for i in range(3):
            for j in range(3):
                out += padded[:, i : i + height, j : j + width] @ kernel[i, j]
        x = out
        if pool and number == 0:
            even = x[:, : height // 2 * 2, : width // 2 * 2]
            x = np.maximum.reduce([even[:, a::2, b::2] for a in (0, 1) for b in (0, 1)])
        mean, var = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
        x = slow_gelu((x - mean) / np.sqrt(var + 1e-5))
    return x


def test_the_slope_of_gelu_is_its_own():
    x = np.linspace(-6, 6, 49)
    slopes = jax.vmap(jax.grad(gelu))(jnp.asarray(x, jnp.float32))
    step = 1e-5
    by_differences = (slow_gelu(x + step) - slow_gelu(x - step)) / (2 * step)
    np.testing.assert_allclose(slopes, by_differences, atol=2e-6)


@pytest.mark.parametrize("groups", [1, 2])
def test_the_order_is_conv_pool_norm_gelu(groups):
    network = make(groups=groups, widths=(5, 4, 3))
    x = slow_gelu(np.asarray(network.stem_responses(IMAGES[:6]), np.float64))
    for block, ours in zip(network.blocks, network.representations(IMAGES[:6]), strict=True):
        for number, group in enumerate(block.groups):
            kernels = [np.asarray(c.kernel, np.float64) for c in (group.conv_1, group.conv_2)]
            x = slow_block(x, kernels, pool=number == 0)
        np.testing.assert_allclose(ours, x, atol=2e-4)


def test_normalized_blocks_normalise_each_sample_over_h_w_and_c():
    for h in make(normalize_blocks=True).representations(IMAGES[:6]):
        flat = np.asarray(h).reshape(6, -1)
        np.testing.assert_allclose(flat.mean(axis=1), 0, atol=1e-5)
        np.testing.assert_allclose(flat.std(axis=1), 1, atol=1e-2)


def test_pre_gelu_is_the_same_network_seen_before_the_last_gelu():
    post, pre = make(), make(representation="pre_gelu")
    np.testing.assert_allclose(pre(IMAGES), post(IMAGES), atol=1e-4)
    for before, after in zip(
        pre.representations(IMAGES), post.representations(IMAGES), strict=True
    ):
        np.testing.assert_allclose(slow_gelu(np.asarray(before)), after, atol=1e-5)
        assert float(before.min()) < -0.5


def test_arguments_of_another_type_are_named():
    with pytest.raises(TypeError, match=r"widths is 8: give a number for each block"):
        make(widths=8)
    with pytest.raises(TypeError, match=r"rngs is a int: give flax\.nnx\.Rngs"):
        ConvNet((12, 12, 3), 5, rngs=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"representation": "gelu"}, "'gelu' is unknown"),
        ({"widths": ()}, "at least one of each"),
        ({"groups": 0}, "at least one of each"),
        ({"image_shape": (8, 12, 3)}, "too small for 3 blocks"),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


@pytest.mark.parametrize("shape", [(0, 12, 12, 3), (4, 12, 12, 1), (12, 12, 3)])
def test_images_of_another_shape_do_not_whiten(shape):
    with pytest.raises(ValueError, match=r"need some \[N, H, W, C\] of 3 channels"):
        make(image_shape=(12, 12, 3)).whiten(np.zeros(shape, np.float32))
