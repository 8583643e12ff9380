"""Convolutions: XLA's own, with what is slow of them on a CPU done in another way.

That is a stem's, of few channels, a wide layer's, and the gradient for the kernel. The last two go
through a batch by blocks of a few images, which stay in a core's cache, and devices that share the
batch (`devices.sharing`) each through its own. docs/performance.md has the figures.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from dsl_jax.networks import winograd

GRADIENT_BYTES = 2**19  # of a block's inputs and cotangents, for the gradient of a kernel
WINOGRAD_TILES = 1024  # of a block


def _has_avx512() -> bool:
    """Whether this processor multiplies vectors of 16 numbers. NumPy has had two names for it."""
    extensions = np.show_config(mode="dicts").get("SIMD Extensions", {})
    found = [*extensions.get("baseline", ()), *extensions.get("found", ())]
    return any(name == "X86_V4" or name.startswith("AVX512") for name in found)


# From so many channels, of maps so large, it is faster. Where products are cheaper, from more.
WINOGRAD_FEATURES, WINOGRAD_SIZE = 128 if _has_avx512() else 64, 4


def convolve(x: jax.Array, kernel: jax.Array, padding: Any, **options: Any) -> jax.Array:
    """Stride 1: [N, h, w, C_in] and [kh, kw, C_in, C_out] -> [N, h', w', C_out].

    padding, options: as `jax.lax.conv_general_dilated` takes them.
    """
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options
    )


def convolve_few(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`convolve` without padding, for few input channels and a small kernel, such as a stem's.

    On a CPU a sum over the kernel's numbers, one loop that XLA fuses with what comes after it.
    """
    return jax.lax.platform_dependent(
        x, kernel, cpu=_sum_of_shifted, default=lambda x, kernel: convolve(x, kernel, "VALID")
    )


def _sum_of_shifted(x, kernel):
    *size, features, out_features = kernel.shape
    weights = kernel.reshape(-1, features, 1, 1, 1, out_features)
    return sum(
        part[..., c, None] * weights[place, c]
        for place, part in enumerate(_shifted(x, size))
        for c in range(features)
    )


def _shifted(x, size):
    """What each place of a kernel sees, [N, h - kh + 1, w - kw + 1, C], in the kernel's order."""
    kh, kw = size
    height, width = x.shape[1] - kh + 1, x.shape[2] - kw + 1
    return [x[:, i : i + height, j : j + width] for i in range(kh) for j in range(kw)]


@jax.custom_vjp
def convolve_same(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Stride 1, padded with zeros to the same size; on a CPU in our own way, and its gradients.

    Args:
      x: [N, h, w, C_in].
      kernel: [kh, kw, C_in, C_out], kh and kw odd.

    Returns:
      [N, h, w, C_out].
    """
    return jax.lax.platform_dependent(
        x, kernel, cpu=_convolve_on_a_cpu, default=partial(convolve, padding="SAME")
    )


def _forward(x, kernel):
    return convolve_same(x, kernel), (x, kernel)


def _backward(residuals, cotangent):
    return jax.lax.platform_dependent(
        *residuals, cotangent, cpu=_gradients_on_a_cpu, default=_gradients
    )


convolve_same.defvjp(_forward, _backward)


def _gradients(x, kernel, cotangent):
    return jax.vjp(partial(convolve, padding="SAME"), x, kernel)[1](cotangent)


def _gradients_on_a_cpu(x, kernel, cotangent):
    # Or XLA makes the padding that pooling's gradient ends with a part of the convolution, which
    # its fast kernels then refuse.
    cotangent = jax.lax.optimization_barrier(cotangent)
    to_x = _convolve_on_a_cpu(cotangent, kernel[::-1, ::-1].swapaxes(2, 3))
    return to_x, _gradient_for_kernel(x, cotangent, kernel.shape)


# --------------------------------------------------------------------------------------------
# On a CPU
# --------------------------------------------------------------------------------------------


def _convolve_on_a_cpu(x: jax.Array, kernel: jax.Array) -> jax.Array:
    is_wide = min(kernel.shape[2:]) >= WINOGRAD_FEATURES and min(x.shape[1:3]) >= WINOGRAD_SIZE
    if not is_wide or kernel.shape[:2] != (3, 3) or x.dtype != jnp.float32:
        return convolve(x, kernel, "SAME")
    if (axis := _shared_axis(len(x))) is None:
        return _by_winograd(x, kernel)
    batch, whole = PartitionSpec(axis), PartitionSpec()
    shared = jax.shard_map(_by_winograd, in_specs=(batch, whole), out_specs=batch, check_vma=False)
    return shared(x, kernel)


def _gradient_for_kernel(x: jax.Array, cotangent: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The gradient for a kernel [kh, kw, C_in, C_out].

    Args:
      x: [N, h, w, C_in].
      cotangent: of the output, [N, h, w, C_out].
      shape: the kernel's.

    Returns:
      The kernel's shape, x's dtype; added up in float32 at least.
    """
    if (axis := _shared_axis(len(x))) is None:
        return _of_images(x, cotangent, shape).astype(x.dtype)
    total = jax.shard_map(
        lambda x, cotangent: jax.lax.psum(_of_images(x, cotangent, shape), axis),
        in_specs=PartitionSpec(axis),
        out_specs=PartitionSpec(),
        check_vma=False,
    )
    return total(x, cotangent).astype(x.dtype)


def _shared_axis(count: int) -> str | None:
    """The axis of the mesh over which devices share a batch of `count` images, if they do."""
    mesh = jax.sharding.get_abstract_mesh()
    is_shared = len(mesh.auto_axes) == 1 and mesh.size > 1 and count % mesh.size == 0
    return mesh.auto_axes[0] if is_shared else None


def _by_winograd(x: jax.Array, kernel: jax.Array) -> jax.Array:
    kernels, tiles = winograd.transformed(kernel), -(-x.shape[1] // 2) * -(-x.shape[2] // 2)
    number = max(1, min(len(x), WINOGRAD_TILES // tiles))
    return jax.lax.map(lambda image: winograd.convolve_image(image, kernels), x, batch_size=number)


def _of_images(x: jax.Array, cotangent: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    *size, features, out_features = shape
    number = max(1, min(len(x), GRADIENT_BYTES // (x[0].nbytes + cotangent[0].nbytes)))
    wide = jnp.promote_types(x.dtype, jnp.float32)

    def of_a_block(start: jax.Array | int, number: int) -> jax.Array:
        # Channels as images, images as channels, and the cotangent as the kernel: [C_in, kh, kw,
        # C_out]. Transposed by dimension numbers instead, XLA has no fast code for it.
        images, ours = (
            jax.lax.dynamic_slice_in_dim(array, start, number) for array in (x, cotangent)
        )
        images, ours = jax.lax.optimization_barrier(
            (images.transpose(3, 1, 2, 0), ours.transpose(1, 2, 0, 3))
        )
        padding = [(places // 2, places // 2) for places in size]
        return convolve(images, ours, padding, preferred_element_type=wide)

    blocks, left = divmod(len(x), number)
    total = jax.lax.fori_loop(
        0,
        blocks,
        lambda block, total: total + of_a_block(block * number, number),
        jnp.zeros((features, *size, out_features), wide),
    )
    total = total + of_a_block(blocks * number, left) if left else total
    return total.transpose(1, 2, 0, 3)
