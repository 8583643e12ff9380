"""The convolutional network (paper 3.1, A.1).

Letters: N images, h w c height, width, channels; images and representations are [N, h, w, c].
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dsl_jax.config import REPRESENTATIONS
from dsl_jax.evolution.operators import normalize
from dsl_jax.inputs import check_floating, check_images
from dsl_jax.networks.convolution import convolve_few, convolve_same
from dsl_jax.values import one_of

STEM_FILTERS = 8  # a channel: 2x2 pixels, and the same negated
WHITENING_IMAGES = 5000
WHITENING_EPSILON = 5e-4


def _twice_below(x: jax.Array) -> jax.Array:
    """Twice the normal distribution's function at x, elementwise.

    By erf: jax.nn.gelu goes by erfc, which takes several times as long on a CPU and differs only
    where both are next to nothing.
    """
    return 1 + jax.lax.erf(x * np.sqrt(0.5).astype(x.dtype))


@jax.custom_jvp
def gelu(x: jax.Array) -> jax.Array:
    """x times the normal distribution's function at x, exactly, elementwise (paper A.1)."""
    return 0.5 * x * _twice_below(x)


@gelu.defjvp
def _gelu_and_change(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    """With the slope written out: of what JAX derives more arrays go through memory."""
    (x,), (tangent,) = primals, tangents
    x_times_density = x * jnp.exp(-0.5 * x * x) * np.sqrt(0.5 / np.pi).astype(x.dtype)
    return gelu(x), (0.5 * _twice_below(x) + x_times_density) * tangent


class Frozen(nnx.Variable):
    """A weight that is never trained."""


# --------------------------------------------------------------------------------------------
# The network
# --------------------------------------------------------------------------------------------


def _convolution(
    x: jax.Array, kernel: jax.Array, strides: Any, padding: Any, **options: Any
) -> jax.Array:
    """`convolve_same` with the signature that nnx.Conv calls; the rest is as it has it."""
    del strides, padding, options
    return convolve_same(x, kernel)


class ConvGroup(nnx.Module):
    """conv 3x3, max-pool 2x2 (if `pool`), BatchNorm, GELU, conv 3x3, BatchNorm; no GELU after it.

    [N, h, w, in_features] -> [N, h', w', features].
    """

    def __init__(
        self, in_features: int, features: int, pool: bool, norm_epsilon: float, *, rngs: nnx.Rngs
    ):
        def conv(in_features: int) -> nnx.Conv:
            return nnx.Conv(
                in_features,
                features,
                (3, 3),
                padding="SAME",
                use_bias=False,
                kernel_init=dirac_or_uniform,
                conv_general_dilated=_convolution,
                rngs=rngs,
            )

        def norm() -> nnx.BatchNorm:
            # Momentum 0: the statistics held are those of the last batch seen in training mode.
            return nnx.BatchNorm(
                features,
                momentum=0.0,
                epsilon=norm_epsilon,
                use_scale=False,
                use_fast_variance=False,
                rngs=rngs,
            )

        self.pool = pool
        self.conv_1, self.norm_1 = conv(in_features), norm()
        self.conv_2, self.norm_2 = conv(features), norm()

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.conv_1(x)
        x = max_pool(x) if self.pool else x
        x = gelu(self.norm_1(x))
        return self.norm_2(self.conv_2(x))


class Block(nnx.Module):
    """ConvGroups, of which the first pools; maps H(l-1) to H(l).

    With "pre_gelu" the input still lacks its last GELU, and so does the output.
    """

    def __init__(
        self,
        in_features: int,
        features: int,
        groups: int,
        *,
        gelu_first: bool,
        gelu_last: bool,
        normalized: bool,
        norm_epsilon: float,
        rngs: nnx.Rngs,
    ):
        self.gelu_first, self.gelu_last, self.normalized = gelu_first, gelu_last, normalized
        self.groups = nnx.List(
            ConvGroup(features if g else in_features, features, g == 0, norm_epsilon, rngs=rngs)
            for g in range(groups)
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        x = gelu(x) if self.gelu_first else x
        for number, group in enumerate(self.groups):
            x = group(gelu(x) if number else x)
        return finish_block(x, self.gelu_last, self.normalized)


def finish_block(x: jax.Array, gelu_last: bool, normalized: bool) -> jax.Array:
    """How a block ends: a GELU (unless pre_gelu), each sample normalised (if asked for)."""
    x = gelu(x) if gelu_last else x
    return jax.vmap(normalize)(x) if normalized else x


class ConvNet(nnx.Module):
    """Whitening stem, blocks, linear head without bias (paper 3.1, A.1).

    Args:
      image_shape: (H, W, C).
      num_classes: number of logits.
      widths: channels of each block.
      groups: ConvGroups a block, G.
      normalize_blocks: end every block with zero mean and unit variance over a sample's h, w, c.
      representation: "post_gelu", or "pre_gelu": a block's value before its last GELU, with
        which the next stage begins.
      norm_epsilon: added to BatchNorm's variances (airbench has 1e-12).
      rngs: `nnx.Rngs` with "params".

    Call `whiten` before use: until then the stem's kernel is zero. With n blocks, images of
    2**(n + 1) pixels a side or fewer leave the last block one position, which learns but cannot be
    searched. Its convolution has a gradient of its own, so that JAX differentiates it in reverse
    mode alone: `jax.grad`, not `jax.jvp`, `jax.jacfwd` or `jax.hessian`.

    Raises:
      ValueError: an unknown representation, no widths or groups, or images too small to pool.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        num_classes: int,
        widths: Sequence[int] = (256, 256, 256),
        groups: int = 1,
        *,
        normalize_blocks: bool = False,
        representation: str = "post_gelu",
        norm_epsilon: float = 1e-5,
        rngs: nnx.Rngs,
    ):
        one_of("representation", representation, REPRESENTATIONS)
        if not isinstance(rngs, nnx.Rngs):
            raise TypeError(f"rngs is a {type(rngs).__name__}: give flax.nnx.Rngs(seed)")
        if not isinstance(widths, Sequence):
            raise TypeError(f"widths is {widths!r}: give a number for each block, such as (64, 64)")
        if not widths or groups < 1:
            raise ValueError(f"widths {widths} and groups {groups}: need at least one of each")
        height, width, channels = image_shape
        smallest = 2 ** len(widths) + 1
        if min(height, width) < smallest:
            raise ValueError(
                f"images of {height}x{width} are too small for {len(widths)} blocks: "
                f"each side needs at least {smallest} pixels, to be searched {2 * smallest - 1}"
            )
        self.representation = representation
        self.normalize_blocks = normalize_blocks
        stem_width = STEM_FILTERS * channels
        self.stem_kernel = Frozen(jnp.zeros((2, 2, channels, stem_width), jnp.float32))
        self.stem_bias = nnx.Param(jnp.zeros(stem_width, jnp.float32))
        self.blocks = nnx.List(
            Block(
                in_features,
                features,
                groups,
                gelu_first=representation == "pre_gelu" and number > 0,
                gelu_last=representation == "post_gelu",
                normalized=normalize_blocks,
                norm_epsilon=norm_epsilon,
                rngs=rngs,
            )
            for number, (in_features, features) in enumerate(
                zip((stem_width, *widths[:-1]), widths, strict=True)
            )
        )
        *_, last, _ = representation_shapes(image_shape, widths, num_classes)
        self.linear = nnx.Linear(
            math.prod(last),
            num_classes,
            use_bias=False,
            kernel_init=uniform_fan_in,
            rngs=rngs,
        )

    def whiten(self, images: jax.Array) -> None:
        """Sets the stem from the first 5,000 images [N, H, W, C], normalised floats.

        Raises:
          ValueError: no images, of another number of channels, not floating or not finite.
        """
        first = np.asarray(images[:WHITENING_IMAGES])
        channels = self.stem_kernel[...].shape[2]
        if first.ndim != 4 or not len(first) or first.shape[-1] != channels:
            raise ValueError(
                f"images are {list(first.shape)}: need some [N, H, W, C] of {channels} channels"
            )
        check_images(first)
        kernel = whitening_kernel(first)
        self.stem_kernel[...] = jnp.asarray(kernel)

    def stem_responses(self, images: jax.Array) -> jax.Array:
        """[N, H, W, C] -> [N, H-1, W-1, 8 C], before the stem's GELU.

        Raises ValueError for images that are not floating, so not normalised.
        """
        check_floating(images)
        responses = convolve_few(images, self.stem_kernel[...])
        return responses + self.stem_bias[...].reshape(1, 1, 1, -1)

    def representations(self, images: jax.Array) -> tuple[jax.Array, ...]:
        """H(0), H(1), ...: the output of every block, [N, h, w, c] each, from [N, H, W, C]."""
        x = gelu(self.stem_responses(images))
        outputs = []
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        return tuple(outputs)

    def head_input(self, last: jax.Array) -> jax.Array:
        """What the linear head sees of the last block's output: [N, h, w, c] -> [N, h * w * c]."""
        last = gelu(last) if self.representation == "pre_gelu" else last
        return last.reshape(last.shape[0], -1)

    def head(self, last: jax.Array) -> jax.Array:
        """Logits [N, classes] from the last block's output [N, h, w, c]."""
        return self.linear(self.head_input(last))

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits [N, classes] from normalised images [N, H, W, C]."""
        return self.head(self.representations(images)[-1])


def representation_shapes(
    image_shape: Sequence[int], widths: Sequence[int], num_classes: int
) -> tuple[tuple[int, ...], ...]:
    """Of one image of [H, W, C]: (h, w, c) of every block's output, (num_classes,) of the logits.

    The stem takes a row and a column, each block halves what comes in, rounded down.
    """
    height, width = image_shape[0] - 1, image_shape[1] - 1
    shapes: list[tuple[int, ...]] = []
    for features in widths:
        height, width = height // 2, width // 2
        shapes.append((height, width, features))
    return (*shapes, (num_classes,))


def stage_flops(
    image_shape: Sequence[int], widths: Sequence[int], num_classes: int, groups: int
) -> list[float]:
    """Floating-point operations of one image's way through each stage: blocks, then the head.

    Those of the convolutions and the head; the stem belongs to the first block's stage.
    """
    height, width, channels = image_shape
    *shapes, _ = representation_shapes(image_shape, widths, num_classes)
    height, width, previous = height - 1, width - 1, STEM_FILTERS * channels
    stem = 2.0 * height * width * 4 * channels * previous
    blocks = []
    for pooled_height, pooled_width, features in shapes:
        first = 18.0 * height * width * previous * features
        height, width = pooled_height, pooled_width
        blocks.append(first + 18.0 * height * width * features * features * (2 * groups - 1))
        previous = features
    head = 2.0 * height * width * previous * num_classes
    return [stem + blocks[0], *blocks[1:], head]


@jax.custom_vjp
def max_pool(x: jax.Array) -> jax.Array:
    """2x2, stride 2, an odd last row or column left out: [N, h, w, c] -> [N, h//2, w//2, c]."""
    _, h, w, _ = x.shape
    x = x[:, : h // 2 * 2, : w // 2 * 2]
    # Over slices, of what a convolution has computed: nothing is computed again for each of them.
    rows = jnp.maximum(x[:, ::2], x[:, 1::2])
    return jnp.maximum(rows[:, :, ::2], rows[:, :, 1::2])


def _max_pool_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return max_pool(x), x


def _max_pool_backward(x: jax.Array, cotangent: jax.Array) -> tuple[jax.Array]:
    """What JAX derives, equal numbers sharing, but as one loop instead of six."""
    n, h, w, c = x.shape
    pairs = x[:, : h // 2 * 2, : w // 2 * 2].reshape(n, h // 2, 2, w // 2, 2, c)

    def share(ours: jax.Array, theirs: jax.Array) -> jax.Array:
        return jnp.where(ours == theirs, 0.5, (ours > theirs).astype(x.dtype))

    beside = pairs[:, :, ::-1]
    rows = jnp.maximum(pairs, beside)
    shares = share(rows, rows[:, :, :, :, ::-1]) * share(pairs, beside)
    gradient = (cotangent[:, :, None, :, None] * shares).reshape(n, h // 2 * 2, w // 2 * 2, c)
    return (jnp.pad(gradient, ((0, 0), (0, h % 2), (0, w % 2), (0, 0))),)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


# --------------------------------------------------------------------------------------------
# Initialisation
# --------------------------------------------------------------------------------------------


def uniform_fan_in(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
    """Kaiming-uniform with PyTorch's default bound 1 / sqrt(fan_in); outputs are the last axis."""
    bound = 1 / np.sqrt(math.prod(shape[:-1]))
    # Drawn in a row, as `keys.normal_numbers` are.
    return jax.random.uniform(key, (math.prod(shape),), dtype, -bound, bound).reshape(shape)


def dirac_or_uniform(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
    """[3, 3, C_in, C_out]: the identity in the first min(C_in, C_out) outputs, else Kaiming."""
    height, width, in_features, out_features = shape
    same = min(in_features, out_features)
    identity = np.zeros(shape, np.float32)
    identity[height // 2, width // 2, np.arange(same), np.arange(same)] = 1
    is_kept = np.arange(out_features) < same
    return jnp.where(is_kept, identity.astype(dtype), uniform_fan_in(key, shape, dtype))


def whitening_kernel(images: np.ndarray) -> np.ndarray:
    """Filters that whiten 2x2 patches, and the same negated (paper A.1).

    Eigenvectors of the uncentred second-moment matrix of all patches, strongest first, each
    divided by sqrt(eigenvalue + 5e-4).

    Args:
      images: [N, H, W, C], normalised floats.

    Returns:
      [2, 2, C, 8 C] float32.
    """
    size = images.shape[-1]
    patches = np.lib.stride_tricks.sliding_window_view(images, (2, 2), axis=(1, 2))
    flat = patches.transpose(0, 1, 2, 4, 5, 3).reshape(-1, 4 * size)
    moments = np.zeros((4 * size, 4 * size))
    for part in np.array_split(flat, max(1, len(flat) // 2**18)):  # float64 in small pieces
        moments += part.T.astype(np.float64) @ part.astype(np.float64)
    values, vectors = np.linalg.eigh(moments / len(flat))
    filters = (vectors / np.sqrt(values + WHITENING_EPSILON))[:, ::-1]
    both = np.concatenate([filters, -filters], axis=1)
    return both.reshape(2, 2, size, 8 * size).astype(np.float32)
