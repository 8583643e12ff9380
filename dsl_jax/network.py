"""The convolutional network, and the network as stages for search (paper 3.1, A.1).

Letters: N images, h w c height, width, channels; images and representations are [N, h, w, c].
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.tree_util import Partial

from dsl_jax.config import REPRESENTATIONS, LayerSchedule, SearchConfig
from dsl_jax.evolution import normalize, perturb_image, philox_key, reproduce

WHITENING_IMAGES = 5000
WHITENING_EPSILON = 5e-4
STATISTICS_IMAGES = 2000
VARIANCE_FLOOR = 1e-3

gelu = partial(jax.nn.gelu, approximate=False)


class Frozen(nnx.Variable):
    """A weight that is never trained."""


# --------------------------------------------------------------------------------------------
# The network
# --------------------------------------------------------------------------------------------


class ConvGroup(nnx.Module):
    """conv 3x3, max-pool 2x2 (if `pool`), BatchNorm, GELU, conv 3x3, BatchNorm; no GELU after it.

    [N, h, w, in_features] -> [N, h', w', features].
    """

    def __init__(self, in_features: int, features: int, pool: bool, *, rngs: nnx.Rngs):
        def conv(in_features):
            return nnx.Conv(
                in_features,
                features,
                (3, 3),
                padding="SAME",
                use_bias=False,
                kernel_init=dirac_or_uniform,
                rngs=rngs,
            )

        def norm():
            # Momentum 0: the statistics held are those of the last batch seen in training mode.
            return nnx.BatchNorm(
                features, momentum=0.0, use_scale=False, use_fast_variance=False, rngs=rngs
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
        rngs: nnx.Rngs,
    ):
        self.gelu_first, self.gelu_last, self.normalized = gelu_first, gelu_last, normalized
        self.groups = nnx.List(
            ConvGroup(features if g else in_features, features, pool=g == 0, rngs=rngs)
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
      rngs: `nnx.Rngs` with "params".

    Call `whiten` before use: until then the stem's kernel is zero.

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
        rngs: nnx.Rngs,
    ):
        if representation not in REPRESENTATIONS:
            raise ValueError(
                f"representation {representation!r} is unknown: "
                f"choose one of {', '.join(REPRESENTATIONS)}"
            )
        if not widths or groups < 1:
            raise ValueError(f"widths {widths} and groups {groups}: need at least one of each")
        height, width, channels = image_shape
        smallest = 2 ** len(widths) + 1
        if min(height, width) < smallest:
            raise ValueError(
                f"images of {height}x{width} are too small for {len(widths)} blocks: "
                f"each side needs at least {smallest} pixels"
            )
        self.representation = representation
        self.normalize_blocks = normalize_blocks
        stem_width = 8 * channels
        self.stem_kernel = Frozen(jnp.zeros((2, 2, channels, stem_width)))
        self.stem_bias = nnx.Param(jnp.zeros(stem_width))
        self.blocks = nnx.List(
            Block(
                in_features,
                features,
                groups,
                gelu_first=representation == "pre_gelu" and number > 0,
                gelu_last=representation == "post_gelu",
                normalized=normalize_blocks,
                rngs=rngs,
            )
            for number, (in_features, features) in enumerate(
                zip((stem_width, *widths[:-1]), widths, strict=True)
            )
        )
        height, width = height - 1, width - 1  # the stem has no padding
        for _ in widths:
            height, width = height // 2, width // 2
        self.linear = nnx.Linear(
            height * width * widths[-1],
            num_classes,
            use_bias=False,
            kernel_init=uniform_fan_in,
            rngs=rngs,
        )

    def whiten(self, images: jax.Array) -> None:
        """Sets the stem from the first 5,000 images [N, H, W, C], normalised floats."""
        kernel = whitening_kernel(np.asarray(images[:WHITENING_IMAGES]))
        self.stem_kernel[...] = jnp.asarray(kernel)

    def stem(self, images: jax.Array) -> jax.Array:
        """[N, H, W, C] -> [N, H-1, W-1, 8 C], after its GELU."""
        return apply_stem(self.stem_kernel[...], self.stem_bias[...], images)

    def representations(self, images: jax.Array) -> tuple[jax.Array, ...]:
        """H(0), H(1), ...: the output of every block, [N, h, w, c] each, from [N, H, W, C]."""
        x = self.stem(images)
        outputs = []
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        return tuple(outputs)

    def head(self, last: jax.Array) -> jax.Array:
        """Logits [N, classes] from the last block's output [N, h, w, c]."""
        last = gelu(last) if self.representation == "pre_gelu" else last
        return self.linear(last.reshape(last.shape[0], -1))

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits [N, classes] from normalised images [N, H, W, C]."""
        return self.head(self.representations(images)[-1])


def apply_stem(kernel: jax.Array, bias: jax.Array, images: jax.Array) -> jax.Array:
    """The stem: convolution 2x2 without padding, bias, GELU."""
    return gelu(_convolve(images, kernel, "VALID") + bias)


def _convolve(x: jax.Array, kernel: jax.Array, padding: str) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def max_pool(x: jax.Array) -> jax.Array:
    """2x2, stride 2, an odd last row or column left out: [N, h, w, c] -> [N, h//2, w//2, c]."""
    _, h, w, _ = x.shape
    x = x[:, : h // 2 * 2, : w // 2 * 2]
    # A maximum over slices: XLA's windowed maximum and its gradient are slow on a CPU.
    rows = jnp.maximum(x[:, ::2], x[:, 1::2])
    return jnp.maximum(rows[:, :, ::2], rows[:, :, 1::2])


# --------------------------------------------------------------------------------------------
# Initialisation
# --------------------------------------------------------------------------------------------


def uniform_fan_in(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
    """Kaiming-uniform with PyTorch's default bound 1 / sqrt(fan_in); outputs are the last axis."""
    bound = 1 / np.sqrt(np.prod(shape[:-1]))
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def dirac_or_uniform(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
    """[3, 3, C_in, C_out]: the identity in the first min(C_in, C_out) outputs, else Kaiming."""
    height, width, in_features, out_features = shape
    same = min(in_features, out_features)
    kernel = uniform_fan_in(key, shape, dtype).at[..., :same].set(0)
    return kernel.at[height // 2, width // 2, jnp.arange(same), jnp.arange(same)].set(1)


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


# --------------------------------------------------------------------------------------------
# The network as stages, with frozen statistics
# --------------------------------------------------------------------------------------------


def frozen_stages(
    network: ConvNet,
    images: jax.Array,
    config: SearchConfig | None,
    *,
    key: jax.Array | None = None,
) -> tuple[Partial, ...]:
    """The network as functions of one image each, for search (paper 3.1).

    BatchNorm statistics are measured once and frozen: with a `config` on candidates as search
    will make them (noisy images; each block's output mutated as that layer's explorers are), so
    that mutated candidates stay in range; without one on the clean images, for a trained network.
    Variances have a floor of 1e-3. Convolutions that are exact identities are left out.

    Args:
      network: a `ConvNet`, whitened; not changed.
      images: [N, H, W, C], normalised floats; the first 2,000 are used.
      config: the search's configuration, or None.
      key: a `jax.random` key, needed with a config.

    Returns:
      A `Partial` for each block and one for the head: H(l-1) -> H(l), batched.

    Raises:
      ValueError: a config without a key.
    """
    if config is not None and key is None:
        raise ValueError("frozen_stages needs a key to make candidates as the config says")
    x = jnp.asarray(images[:STATISTICS_IMAGES], jnp.float32)
    keys = None if key is None else jax.random.split(philox_key(key), len(network.blocks) + 1)
    if config is not None:
        each = jax.random.split(keys[-1], len(x))
        x = jax.jit(jax.vmap(perturb_image, (0, 0, None)))(each, x, config.initial_noise)
    x = jax.jit(apply_stem)(network.stem_kernel[...], network.stem_bias[...], x)

    stages = []
    for number, block in enumerate(network.blocks):
        weights, spec, x = _freeze_block(block, x)
        if number:
            stages.append(Partial(_apply_block, weights, spec))
        else:
            stem = (network.stem_kernel[...], network.stem_bias[...])
            stages.append(Partial(_apply_first_block, stem, weights, spec))
        if config is not None:
            x = _explorers(jax.random.split(keys[number], len(x)), x, config.layers[number], config)
    kernel = network.linear.kernel[...]
    apply_head = _apply_pre_gelu_head if network.representation == "pre_gelu" else _apply_head
    return (*stages, Partial(apply_head, kernel))


@jax.tree_util.register_static
@dataclass(frozen=True)
class BlockSpec:
    """What of a block is not an array. pools: for each convolution, whether it pools."""

    pools: tuple[bool, ...]
    gelu_first: bool
    gelu_last: bool
    normalized: bool


def _freeze_block(block: Block, x: jax.Array):
    """A block's weights with the statistics of x frozen, its spec, and its output.

    Weights: for each convolution its kernel (None: the identity), and the scale and shift [c]
    that are left of its BatchNorm.
    """
    layers = [
        layer
        for group in block.groups
        for layer in ((group.conv_1, group.norm_1, group.pool), (group.conv_2, group.norm_2, False))
    ]
    x = gelu(x) if block.gelu_first else x
    weights = []
    for number, (conv, norm, pool) in enumerate(layers):
        kernel = None if is_identity(conv.kernel[...]) else conv.kernel[...]
        x = _convolve_and_pool(kernel, pool, gelu(x) if number else x)
        scale, shift = freeze_norm(x, norm.bias[...], norm.epsilon)
        x = x * scale + shift
        weights.append((kernel, scale, shift))
    spec = BlockSpec(
        tuple(pool for *_, pool in layers), block.gelu_first, block.gelu_last, block.normalized
    )
    return tuple(weights), spec, finish_block(x, block.gelu_last, block.normalized)


def freeze_norm(
    x: jax.Array, bias: jax.Array, epsilon: float, floor: float = VARIANCE_FLOOR
) -> tuple[jax.Array, jax.Array]:
    """BatchNorm with the statistics of x [N, h, w, c] as a scale and a shift, [1, 1, 1, c] each."""
    mean = jnp.mean(x, axis=(0, 1, 2), keepdims=True)
    variance = jnp.mean(jnp.square(x - mean), axis=(0, 1, 2), keepdims=True)
    scale = jax.lax.rsqrt(jnp.maximum(variance, floor) + epsilon)
    return scale, bias.reshape(1, 1, 1, -1) - mean * scale


def is_identity(kernel: jax.Array) -> bool:
    """Whether a concrete kernel [3, 3, C_in, C_out] is exactly the identity."""
    kernel = np.asarray(kernel)
    if kernel.shape[2] != kernel.shape[3]:
        return False
    identity = np.zeros_like(kernel)
    identity[kernel.shape[0] // 2, kernel.shape[1] // 2] = np.eye(kernel.shape[2])
    return np.array_equal(kernel, identity)


def _convolve_and_pool(kernel: jax.Array | None, pool: bool, x: jax.Array) -> jax.Array:
    x = x if kernel is None else _convolve(x, kernel, "SAME")
    return max_pool(x) if pool else x


def _apply_block(weights: Any, spec: BlockSpec, x: jax.Array) -> jax.Array:
    x = gelu(x) if spec.gelu_first else x
    for number, ((kernel, scale, shift), pool) in enumerate(zip(weights, spec.pools, strict=True)):
        x = _convolve_and_pool(kernel, pool, gelu(x) if number else x) * scale + shift
    return finish_block(x, spec.gelu_last, spec.normalized)


def _apply_first_block(stem: Any, weights: Any, spec: BlockSpec, images: jax.Array) -> jax.Array:
    return _apply_block(weights, spec, apply_stem(*stem, images))


def _apply_head(kernel: jax.Array, x: jax.Array) -> jax.Array:
    return x.reshape(x.shape[0], -1) @ kernel


def _apply_pre_gelu_head(kernel: jax.Array, x: jax.Array) -> jax.Array:
    return _apply_head(kernel, gelu(x))


@partial(jax.jit, static_argnames=("layer", "config"))
def _explorers(keys: jax.Array, x: jax.Array, layer: LayerSchedule, config: SearchConfig):
    """One explorer of each sample of x [N, ...] alone, as search makes them at this layer."""

    def explorer(key, h):
        return reproduce(
            key,
            h[None],
            1,
            layer.mutation_strength * layer.exploration_boost,
            layer.smoothing_passes,
            smoothing=config.smoothing,
            truncation=config.noise_truncation,
        )[0]

    return jax.vmap(explorer)(keys, x)
