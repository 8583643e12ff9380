"""White noise after average pooling, drawn as few random numbers (paper A.2)."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

NOISE_TRUNCATION = 1e-3


@functools.cache
def smoothing_matrix(size: int, passes: int) -> np.ndarray:
    """[size, size] float64: `passes` of zero-padded averaging of 3 along an axis.

    Raises:
      ValueError: a negative number of passes.
    """
    _check_passes(passes)
    one = (np.eye(size) + np.eye(size, k=1) + np.eye(size, k=-1)) / 3
    return np.linalg.matrix_power(one, passes)


def _check_passes(passes: int) -> None:
    if passes < 0:
        raise ValueError(f"smoothing_passes is {passes}: it must be at least 0")


@functools.cache
def noise_basis(
    spatial: tuple[int, ...], passes: int, rescale: bool = False, truncation: float = 0.0
) -> np.ndarray:
    """The factor that turns few white numbers into smoothed white noise.

    Smoothing is A z with A symmetric, A = U S U^T, and a rotation of white noise is white noise:
    U S z has the same distribution. The eigenvectors of averaging along an axis are sines. The
    directions that are weakest are left out as long as they hold at most `truncation` of the
    variance.

    Args:
      spatial: (h, w), or (tokens,).
      passes: B.
      rescale: bring every position back to unit standard deviation.
      truncation: share of the variance that may be left out, below 1.

    Returns:
      [positions, m] float32, positions = product of `spatial`, m at most that.

    Raises:
      ValueError: a negative number of passes, or a truncation that is not from 0 to below 1.
    """
    _check_passes(passes)
    if not 0 <= truncation < 1:
        raise ValueError(f"truncation is {truncation}: it must be at least 0 and below 1")
    vectors: np.ndarray = np.ones((1, 1))
    values: np.ndarray = np.ones(1)
    for n in spatial:
        angles = np.pi * np.arange(1, n + 1) / (n + 1)
        sines = np.sqrt(2 / (n + 1)) * np.sin(np.outer(np.arange(1, n + 1), angles))
        vectors = np.kron(vectors, sines)
        values = np.kron(values, ((1 + 2 * np.cos(angles)) / 3) ** passes)
    columns = vectors * values
    if rescale:
        columns /= np.linalg.norm(columns, axis=1, keepdims=True)
    # Rounded, so that equally strong directions keep their order on every machine.
    strength = np.round(np.sum(np.square(columns), axis=0), 12)
    order = np.argsort(-strength, kind="stable")
    lost = 1 - np.cumsum(strength[order]) / np.sum(strength)
    kept = order[: int(np.argmax(lost <= max(truncation, 1e-12))) + 1]
    columns = columns[:, kept]
    if rescale:  # what was left out is made up for, so that the strength is exact
        columns /= np.linalg.norm(columns, axis=1, keepdims=True)
    return columns.astype(np.float32)


def smoothed_noise(
    key: jax.Array,
    shape: tuple[int, ...],
    passes: int,
    smoothing: str = "noise",
    truncation: float = NOISE_TRUNCATION,
    dtype: Any = jnp.float32,
) -> jax.Array:
    """Independent white noises of unit strength after `passes` of smoothing; see `noise_basis`.

    Args:
      key: a `jax.random` key, used up.
      shape: [n, h, w, c], [n, tokens, features] or [n, features] (which is not smoothed).
      dtype: what it is kept in; the numbers are drawn, and summed, as float32.

    Returns:
      That shape and dtype.
    """
    if not passes or len(shape) == 2:
        return _drawn_once(key, shape, dtype)
    count, *spatial, channels = shape
    basis = noise_basis(tuple(spatial), passes, smoothing == "noise_rescaled", truncation)
    # One draw and one matrix product for all, positions first: what a CPU does best.
    white = _drawn_once(key, (basis.shape[1], count * channels), dtype)
    noise = jnp.matmul(basis.astype(dtype), white, preferred_element_type=jnp.float32)
    return jnp.moveaxis(noise.astype(dtype).reshape(*spatial, count, channels), -2, 0)


def _drawn_once(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Standard normal numbers, which the compilers for accelerators would else draw anew in each
    fusion that uses them, or in a matrix product, and take a minute to compile that."""
    white = jax.random.normal(key, shape, jnp.float32).astype(dtype)
    return jax.lax.platform_dependent(
        white, cpu=lambda white: white, default=jax.lax.optimization_barrier
    )
