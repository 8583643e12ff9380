"""Convolutions: XLA's own, and one for CPUs as matrix products of image patches.

On a CPU XLA's convolution is slow, above all its gradient for the kernel. There the patches of a
few images at a time, few enough to stay in the cache, are multiplied with the kernel as one matrix;
docs/performance.md has the figures.
"""

import jax
import jax.numpy as jnp

from dsl_jax.devices import largest_divisor

BLOCK_BYTES = 4 * 2**20  # of patches at a time


def convolve(x: jax.Array, kernel: jax.Array, padding: str) -> jax.Array:
    """Stride 1: [N, h, w, C_in] and [kh, kw, C_in, C_out] -> [N, h', w', C_out]."""
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@jax.custom_vjp
def convolve_same(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Stride 1, padded with zeros to the same size; the fastest way for the platform.

    Args:
      x: [N, h, w, C_in].
      kernel: [kh, kw, C_in, C_out], kh and kw odd.

    Returns:
      [N, h, w, C_out].
    """
    return jax.lax.platform_dependent(
        x, kernel, cpu=_convolve_by_blocks, default=lambda x, kernel: convolve(x, kernel, "SAME")
    )


def _forward(x, kernel):
    return convolve_same(x, kernel), (x, kernel)


def _backward(residuals, cotangent):
    x, kernel = residuals
    to_x = convolve_same(cotangent, kernel[::-1, ::-1].swapaxes(2, 3))
    to_kernel = jax.lax.platform_dependent(
        x,
        cotangent,
        cpu=lambda x, cotangent: _kernel_gradient_by_blocks(x, cotangent, kernel.shape),
        default=lambda x, cotangent: _kernel_gradient(x, cotangent, kernel.shape),
    )
    return to_x, to_kernel


convolve_same.defvjp(_forward, _backward)


def _kernel_gradient(x, cotangent, shape):
    like = jax.ShapeDtypeStruct(shape, x.dtype)
    return jax.linear_transpose(lambda kernel: convolve(x, kernel, "SAME"), like)(cotangent)[0]


# --------------------------------------------------------------------------------------------
# Matrix products of patches
# --------------------------------------------------------------------------------------------


def _convolve_by_blocks(x, kernel):
    *size, _, out_features = kernel.shape
    matrix = kernel.reshape(-1, out_features)
    y = jax.lax.map(lambda images: _patches(images, size) @ matrix, _blocks(x, x, size))
    return y.reshape(*x.shape[:-1], out_features)


def _kernel_gradient_by_blocks(x, cotangent, shape):
    *size, features, out_features = shape

    def add(total, block):
        images, ours = block
        return total + ours.reshape(-1, out_features).T @ _patches(images, size), None

    start = jnp.zeros((out_features, size[0] * size[1] * features), x.dtype)
    blocks = _blocks(x, x, size), _blocks(cotangent, x, size)
    return jax.lax.scan(add, start, blocks)[0].T.reshape(shape)


def _blocks(array, x, size):
    """[N, ...] -> [N / n, n, ...]; the patches of n images of x make at most BLOCK_BYTES."""
    fitting = max(1, BLOCK_BYTES // (x[0].nbytes * size[0] * size[1]))
    number = largest_divisor(x.shape[0], fitting)
    return array.reshape(-1, number, *array.shape[1:])


def _patches(images, size):
    """What the kernel sees at every position: [n, h, w, c] -> [n * h * w, kh * kw * c]."""
    _, height, width, features = images.shape
    kh, kw = size
    images = jnp.pad(images, ((0, 0), (kh // 2, kh // 2), (kw // 2, kw // 2), (0, 0)))
    shifted = [images[:, i : i + height, j : j + width] for i in range(kh) for j in range(kw)]
    return jnp.concatenate(shifted, axis=-1).reshape(-1, kh * kw * features)
