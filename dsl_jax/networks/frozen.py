"""The network as stages for search: functions of an image with frozen statistics (paper 3.1)."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.tree_util import Partial

from dsl_jax.config import LayerSchedule, SearchConfig
from dsl_jax.devices import Array
from dsl_jax.evolution.dead import check_layers_change
from dsl_jax.evolution.operators import brought_near, kind_of, perturb_image, reproduce
from dsl_jax.evolution.task import largest_strength, mutation_options
from dsl_jax.inputs import as_array, check_floating, check_images
from dsl_jax.keys import philox_key
from dsl_jax.networks.adapters import StagedNetwork
from dsl_jax.networks.convnet import Block, ConvNet, finish_block, gelu
from dsl_jax.networks.convolution import convolve, convolve_same
from dsl_jax.networks.interface import batch_norms, check_whitened, in_mode, learner_shapes
from dsl_jax.values import instance_of

STATISTICS_IMAGES = 2000
VARIANCE_FLOOR = 1e-3


def frozen_stages(
    network: ConvNet | StagedNetwork,
    images: jax.Array | None = None,
    config: SearchConfig | None = None,
    *,
    key: jax.Array | None = None,
) -> tuple[Partial, ...]:
    """The network as functions of one image each, for search (paper 3.1).

    BatchNorm statistics are frozen. For an untrained network they are measured, with a `config`,
    on candidates as search will make them (noisy images; each block's output mutated as that
    layer's explorers are), so that mutated candidates stay in range. A trained network is given
    alone: it keeps the statistics that it holds, those of its evaluation. Variances have a floor
    of 1e-3. Convolutions of a `ConvNet` that are exact identities are left out.

    Args:
      network: a `ConvNet`, whitened, or a `StagedNetwork`; not changed.
      images: [N, H, W, C], normalised floats, of which the first 2,000 are used; None: keep the
        statistics that the network holds.
      config: the search's configuration; None: the statistics of the images as they are.
      key: a `jax.random` key, needed with a config.

    Returns:
      A `Partial` for each block and one for the head: H(l-1) -> H(l), batched.

    Warns:
      UserWarning: no images, and a BatchNorm of an untrained network.

    Raises:
      ValueError: a config without a key or images, or with another number of layers; a key without
        a config; a `ConvNet` that is not whitened; images that are not finite, or that the network
        does not take; or a layer that the search could not change (see `evolution.dead`).
    """
    check_whitened(network)
    parts = _parts(network)
    if config is not None:
        instance_of(SearchConfig, "config", config)
    elif key is not None:
        raise ValueError("a key needs a config: without one no candidates are drawn")
    if images is config is None and any(_is_untouched(norm) for norm in batch_norms(network)):
        warnings.warn(
            "a BatchNorm holds the statistics that it was made with: give frozen_stages the images "
            "on which to measure them",
            stacklevel=2,
        )
    x = None
    if images is not None:
        x = as_array("images", images)[:STATISTICS_IMAGES]
        check_images(x)
        if not len(x):
            raise ValueError("there are no images to measure statistics on")
        learner_shapes(network, x.shape[1:])  # raises what the network does not take
        x = jnp.asarray(x, jnp.float32)
    natural = x
    keys: Sequence[jax.Array] = ()
    if config is not None:
        x, keys = _as_searched(x, len(parts), config, key)

    stages: list[Partial] = []
    shapes: list[Any] = []
    for number, freeze in enumerate(parts):
        stage, x = freeze(x)
        stages.append(stage)
        shapes.append(None if x is None else x.shape[1:])
        if config is not None and number < len(keys):
            natural = None if config.least_cosine is None else stage(natural)
            x = _as_candidates(keys[number], x, natural, config.layers[number], config)
    if config is not None:
        check_layers_change(shapes, config)
    return tuple(stages)


def _as_searched(
    x: jax.Array | None, num_stages: int, config: SearchConfig, key: jax.Array | None
) -> tuple[jax.Array, Sequence[jax.Array]]:
    """Noisy images, and a key for the candidates of each block."""
    if key is None:
        raise ValueError("frozen_stages needs a key to make candidates as the config says")
    if len(config.layers) != num_stages:
        raise ValueError(
            f"the config has {len(config.layers)} layers: {num_stages - 1} blocks and the "
            f"logits need {num_stages}"
        )
    if x is None:
        raise ValueError("frozen_stages needs images to measure statistics as the config says")
    *keys, image_key = jax.random.split(philox_key(key), num_stages)
    each = jax.random.split(image_key, len(x))
    return _perturb_images(each, x, config.initial_noise), keys


def _as_candidates(
    key: jax.Array,
    x: jax.Array,
    natural: jax.Array | None,
    layer: LayerSchedule,
    config: SearchConfig,
) -> jax.Array:
    """A block's outputs as a search will hand them on, near the natural ones if there are any."""
    x = x if natural is None else _all_near(x, natural, config)
    x = _explorers(key, x, layer, config) if layer.generations else x
    return x if natural is None else _all_near(x, natural, config)


_perturb_images = jax.jit(jax.vmap(perturb_image, (0, 0, None)))


def _is_untouched(norm: nnx.BatchNorm) -> bool:
    return not norm.mean[...].any() and bool((norm.var[...] == 1).all())


def _parts(network: ConvNet | StagedNetwork) -> list[Callable]:
    """For each stage a function that freezes it.

    It is given what the stage will see, to measure statistics on (None: keep those held), and
    returns the stage and what that makes of it (None).
    """
    if isinstance(network, StagedNetwork):
        return [partial(_freeze_module, part) for part in network.parts]
    if isinstance(network, ConvNet):
        first, *rest = network.blocks
        return [
            partial(_freeze_first_block, network, first),
            *(partial(_freeze_block, block) for block in rest),
            partial(_freeze_head, network),
        ]
    raise TypeError(
        f"frozen_stages cannot cut a {type(network).__name__}: give its stages to search as "
        "functions, or make a StagedNetwork of its layers"
    )


# --------------------------------------------------------------------------------------------
# A StagedNetwork
# --------------------------------------------------------------------------------------------


def _freeze_module(part: nnx.Module, x: jax.Array | None):
    """A part with its BatchNorm statistics, or those of x, frozen; and what it makes of x.

    Those of x are measured together: where the variance floor changes one, a later norm of the part
    has still seen it without.
    """
    part = nnx.clone(part)
    norms = batch_norms(part)
    if x is not None and norms:
        for norm in norms:
            norm.momentum = 0.0  # keep nothing of what was there before
        in_mode(part, training=True)(x)
    for norm in norms:
        norm.var[...] = jnp.maximum(norm.var[...], VARIANCE_FLOOR)
    stage = Partial(_apply_module, *nnx.split(in_mode(part, training=False)))
    return stage, None if x is None else stage(x)


def _apply_module(graph: Any, state: Any, x: jax.Array) -> jax.Array:
    return nnx.merge(graph, state)(x)


# --------------------------------------------------------------------------------------------
# A ConvNet
# --------------------------------------------------------------------------------------------


@jax.tree_util.register_static
@dataclass(frozen=True)
class BlockSpec:
    """What of a block is not an array. pools: for each convolution, whether it pools."""

    pools: tuple[bool, ...]
    gelu_first: bool
    gelu_last: bool
    normalized: bool


def _freeze_first_block(network: ConvNet, block: Block, images: jax.Array | None):
    """Stem and first block."""
    stem = (network.stem_kernel[...], network.stem_bias[...].reshape(1, 1, 1, -1))
    weights, spec, x = _freeze_weights(
        block, None if images is None else _apply_stem(*stem, images)
    )
    return Partial(_apply_first_block, stem, weights, spec), x


def _freeze_block(block: Block, x: jax.Array | None):
    weights, spec, x = _freeze_weights(block, x)
    return Partial(_apply_block, weights, spec), x


def _freeze_head(network: ConvNet, x: jax.Array | None):
    apply = _apply_pre_gelu_head if network.representation == "pre_gelu" else _apply_head
    stage = Partial(apply, network.linear.kernel[...])
    return stage, None if x is None else stage(x)


def _freeze_weights(block: Block, x: jax.Array | None):
    """A block's weights with the statistics of x (None: its own) frozen, its spec, and its output.

    Weights: for each convolution its kernel (None: the identity), and the scale and shift
    that are left of its BatchNorm.
    """
    layers: list[Any] = [
        layer
        for group in block.groups
        for layer in ((group.conv_1, group.norm_1, group.pool), (group.conv_2, group.norm_2, False))
    ]
    spec = BlockSpec(
        tuple(pool for *_, pool in layers), block.gelu_first, block.gelu_last, block.normalized
    )
    every = [conv.kernel[...] for conv, _, _ in layers]
    kernels = [None if is_identity(kernel) else kernel for kernel in every]
    if x is None:
        weights = [
            (kernel, *fold_norm(norm.mean[...], norm.var[...], norm.bias[...], norm.epsilon))
            for kernel, (_, norm, _) in zip(kernels, layers, strict=True)
        ]
        return tuple(weights), spec, None
    weights = []
    x = gelu(x) if block.gelu_first else x
    for number, (kernel, (_, norm, pool)) in enumerate(zip(kernels, layers, strict=True)):
        x = _convolve_and_pool(kernel, pool, gelu(x) if number else x)
        scale, shift = fold_norm(*moments(x), norm.bias[...], norm.epsilon)
        x = x * scale + shift
        weights.append((kernel, scale, shift))
    return tuple(weights), spec, finish_block(x, block.gelu_last, block.normalized)


def moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and variance of each channel of x [N, h, w, c], [c] each; `jnp.var` has other bits."""
    mean = jnp.mean(x, axis=(0, 1, 2))
    return mean, jnp.mean(jnp.square(x - mean.reshape(1, 1, 1, -1)), axis=(0, 1, 2))


def fold_norm(
    mean: jax.Array, variance: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, jax.Array]:
    """BatchNorm with statistics [c] as a scale and a shift, [1, 1, 1, c] each."""
    scale = jax.lax.rsqrt(jnp.maximum(variance, VARIANCE_FLOOR) + epsilon)
    return scale.reshape(1, 1, 1, -1), (bias - mean * scale).reshape(1, 1, 1, -1)


def is_identity(kernel: Array) -> bool:
    """Whether a concrete kernel [3, 3, C_in, C_out] is exactly the identity."""
    kernel = np.asarray(kernel)
    if kernel.shape[2] != kernel.shape[3]:
        return False
    identity = np.zeros_like(kernel)
    identity[kernel.shape[0] // 2, kernel.shape[1] // 2] = np.eye(kernel.shape[2])
    return np.array_equal(kernel, identity)


def _convolve_and_pool(kernel: jax.Array | None, pool: bool, x: jax.Array) -> jax.Array:
    x = x if kernel is None else convolve_same(x, kernel.astype(x.dtype))
    # Windowed, unlike the network's own: what comes before is computed once, not once a slice.
    return nnx.max_pool(x, (2, 2), (2, 2)) if pool else x


def _apply_block(weights: Any, spec: BlockSpec, x: jax.Array) -> jax.Array:
    dtype = x.dtype  # that of products; statistics, and what comes after them, are float32
    x = gelu(x) if spec.gelu_first else x
    for number, ((kernel, scale, shift), pool) in enumerate(zip(weights, spec.pools, strict=True)):
        x = (gelu(x) if number else x).astype(dtype)
        x = _convolve_and_pool(kernel, pool, x) * scale + shift
    return finish_block(x, spec.gelu_last, spec.normalized)


def _apply_stem(kernel: jax.Array, bias: jax.Array, images: jax.Array) -> jax.Array:
    check_floating(images)
    responses = convolve(images, kernel.astype(images.dtype), "VALID")
    return gelu(responses + bias).astype(images.dtype)


def _apply_first_block(
    stem: tuple[jax.Array, jax.Array], weights: Any, spec: BlockSpec, images: jax.Array
) -> jax.Array:
    return _apply_block(weights, spec, _apply_stem(*stem, images))


def _apply_head(kernel: jax.Array, x: jax.Array) -> jax.Array:
    return x.reshape(x.shape[0], -1) @ kernel


def _apply_pre_gelu_head(kernel: jax.Array, x: jax.Array) -> jax.Array:
    return _apply_head(kernel, gelu(x))


@partial(jax.jit, static_argnames=("layer", "config"))
def _explorers(key: jax.Array, x: jax.Array, layer: LayerSchedule, config: SearchConfig):
    """One child of each sample of x [N, ...] alone, as search mutates them most at this layer."""
    strength = largest_strength(layer, config)
    options = mutation_options(layer, config, kind_of(x.shape[1:], last=False))

    def explorer(key, h):
        parent = h.astype(jnp.float32)[None]
        return reproduce(key, parent, 1, strength, **options)[0].astype(h.dtype)

    return jax.vmap(explorer)(jax.random.split(key, len(x)), x)


@partial(jax.jit, static_argnames="config")
def _all_near(x: jax.Array, natural: jax.Array, config: SearchConfig) -> jax.Array:
    """Each of x [N, ...] as near to its natural representation as config wants candidates."""
    least: Any = config.least_cosine
    return jax.vmap(brought_near, (0, 0, None))(x, natural, least)
