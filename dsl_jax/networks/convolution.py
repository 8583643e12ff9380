"""Convolutions: XLA's own, with what is slow of them on a CPU done in another way.

That is a stem's, of few channels, and the gradient for the kernel: a matrix product of the patches
of a few images at a time, few enough to stay in the cache. docs/performance.md has the figures.
"""

from functools import partial

import jax
import jax.numpy as jnp

from dsl_jax.devices import largest_divisor

BLOCK_BYTES = 2**19  # of patches at a time


def convolve(x: jax.Array, kernel: jax.Array, padding: str) -> jax.Array:
    """Stride 1: [N, h, w, C_in] and [kh, kw, C_in, C_out] -> [N, h', w', C_out]."""
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
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
    """Stride 1, padded with zeros to the same size; on a CPU with gradients of our own.

    Args:
      x: [N, h, w, C_in].
      kernel: [kh, kw, C_in, C_out], kh and kw odd.

    Returns:
      [N, h, w, C_out].
    """
    return convolve(x, kernel, "SAME")


def _forward(x, kernel):
    return convolve_same(x, kernel), (x, kernel)


def _backward(residuals, cotangent):
    return jax.lax.platform_dependent(
        *residuals, cotangent, cpu=_gradients_on_a_cpu, default=_gradients
    )


convolve_same.defvjp(_forward, _backward)


def _gradients(x, kernel, cotangent):
    return jax.vjp(lambda x, kernel: convolve(x, kernel, "SAME"), x, kernel)[1](cotangent)


def _gradients_on_a_cpu(x, kernel, cotangent):
    # Or XLA makes the padding that pooling's gradient ends with a part of the convolution, which
    # its fast kernels then refuse.
    cotangent = jax.lax.optimization_barrier(cotangent)
    to_x = convolve(cotangent, kernel[::-1, ::-1].swapaxes(2, 3), "SAME")
    return to_x, _kernel_gradient(x, cotangent, kernel.shape)


# --------------------------------------------------------------------------------------------
# The kernel's gradient: matrix products of patches
# --------------------------------------------------------------------------------------------


def _kernel_gradient(x, cotangent, shape):
    """A part of the batch for each device that shares it (`devices.sharing`), and their sum."""
    count = jax.sharding.get_abstract_mesh().size
    if count < 2 or len(x) % count:
        return _kernel_gradient_by_blocks(x, cotangent, shape).astype(x.dtype)
    parts = (array.reshape(count, -1, *array.shape[1:]) for array in (x, cotangent))
    of_a_part = partial(_kernel_gradient_by_blocks, shape=shape)
    return jax.vmap(of_a_part)(*parts).sum(0).astype(x.dtype)


def _kernel_gradient_by_blocks(x, cotangent, shape):
    """At least float32, in which the blocks are added up."""
    *size, features, out_features = shape
    wide = jnp.promote_types(x.dtype, jnp.float32)

    def add(total, block):
        images, ours = block
        rows, patches = ours.reshape(-1, out_features).T, _patches(images, size)
        return total + jnp.matmul(rows, patches, preferred_element_type=wide), None

    start = jnp.zeros((out_features, size[0] * size[1] * features), wide)
    blocks = _blocks(x, x, size), _blocks(cotangent, x, size)
    return jax.lax.scan(add, start, blocks)[0].T.reshape(shape)


def _blocks(array, x, size):
    """[N, ...] -> [N / n, n, ...]; the patches of n images of x make at most BLOCK_BYTES."""
    fitting = max(1, BLOCK_BYTES // (x[0].nbytes * size[0] * size[1]))
    number = largest_divisor(x.shape[0], fitting)
    return array.reshape(-1, number, *array.shape[1:])


def _patches(images, size):
    """What the kernel sees at every position: [n, h, w, c] -> [n * h * w, kh * kw * c]."""
    kh, kw = size
    images = jnp.pad(images, ((0, 0), (kh // 2, kh // 2), (kw // 2, kw // 2), (0, 0)))
    patches = jnp.concatenate(_shifted(images, size), axis=-1)
    return patches.reshape(-1, patches.shape[-1])
