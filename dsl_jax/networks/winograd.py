"""A convolution with a 3x3 kernel by 16 products for each 2x2 outputs, instead of 36.

Winograd's minimal filtering, F(2x2, 3x3): Lavin and Gray, arXiv 1509.09308. In one dimension, of
inputs d, kernel g and outputs y,

    y0 = d0 g0 + d1 g1 + d2 g2 = m0 + m1 + m2      m0 = (d0 - d2) g0
    y1 = d1 g0 + d2 g1 + d3 g2 = m1 - m2 - m3      m1 = (d1 + d2) (g0 + g1 + g2) / 2
                                                   m2 = (d2 - d1) (g0 - g1 + g2) / 2
                                                   m3 = (d1 - d3) g2

and in two along rows and columns. Each product is one of matrices: of all tiles and the channels.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

_OF_KERNEL = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], np.float32)


def transformed(kernel: jax.Array) -> jax.Array:
    """What the products take of a kernel: [3, 3, C_in, C_out] -> [4, 4, C_in, C_out], float32."""
    return jnp.einsum("ik,jl,klcd->ijcd", _OF_KERNEL, _OF_KERNEL, kernel, precision="highest")


def convolve_image(x: jax.Array, kernels: jax.Array) -> jax.Array:
    """Stride 1, padded with zeros to the same size.

    Args:
      x: [h, w, C_in], float32.
      kernels: `transformed`, [4, 4, C_in, C_out].

    Returns:
      [h, w, C_out], rounded otherwise than by the sum over the kernel's places.
    """
    h, w, _ = x.shape
    rows, columns = -(-h // 2), -(-w // 2)  # of tiles
    x = jnp.pad(x, ((1, 2 * rows + 1 - h), (1, 2 * columns + 1 - w), (0, 0)))
    inputs = [_of_inputs(_parts(row, 1, columns)) for row in _of_inputs(_parts(x, 0, rows))]
    products = [[jnp.matmul(inputs[i][j], kernels[i, j]) for j in range(4)] for i in range(4)]
    pairs = [_of_products(row) for row in products]
    outputs = [_of_products(column) for column in zip(*pairs, strict=True)]  # [column][row]
    y = jnp.stack([jnp.stack(column, axis=1) for column in outputs], axis=3)
    return y.reshape(2 * rows, 2 * columns, -1)[:h, :w]


def _parts(x: jax.Array, axis: int, tiles: int) -> list[jax.Array]:
    """d0 .. d3 of every tile along an axis."""
    return [jax.lax.slice_in_dim(x, k, k + 2 * tiles - 1, 2, axis) for k in range(4)]


def _of_inputs(d: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
    return d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]


def _of_products(m: Sequence[jax.Array]) -> tuple[jax.Array, jax.Array]:
    return m[0] + m[1] + m[2], m[1] - m[2] - m[3]
