"""Evolution of representations: the operators of one individual.

Paper 3.1 and A.2. Letters: P parents, C children, h w c height, width, channels of a
representation H(l); rank 3 [h, w, c] is convolutional, rank 2 [tokens, features] likewise along
its tokens, rank 1 [features] or [classes] a vector or the logits. The operators take ONE
individual; `reproduce` maps them over children, and everything else maps over images.

Fitness is a log-likelihood, or what one's own function says: higher is better.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dsl_jax.config import SMOOTHINGS
from dsl_jax.keys import computed_once
from dsl_jax.values import one_of

NORMALIZE_EPSILON = 1e-5
NOISE_TRUNCATION = 1e-3
KINDS = ("conv", "vector", "logits")
Near = Callable[[jax.Array], jax.Array]

# --------------------------------------------------------------------------------------------
# Operators of one individual
# --------------------------------------------------------------------------------------------


def crossover(parent_1: jax.Array, parent_2: jax.Array) -> jax.Array:
    """The mean of two parents, [...] and [...] -> [...] (paper 3.1)."""
    return 0.5 * (parent_1 + parent_2)


def _check_individual(h: jax.Array) -> None:
    """Raises ValueError for a batch, and for integers, to which results would be rounded."""
    if not 1 <= h.ndim <= 3 or not jnp.issubdtype(h.dtype, jnp.floating):
        raise ValueError(
            f"{h.dtype}{list(h.shape)} is no individual: give floats [h, w, c], [tokens, features] "
            "or [features]; jax.vmap takes a batch"
        )


def spread(h: jax.Array) -> jax.Array:
    """sigma: the standard deviation over space, the unit of mutation (paper A.2).

    Args:
      h: [h, w, c], [tokens, features] or [features], float.

    Returns:
      One number a channel, [1, 1, c] or [1, features]; for a vector or logits one in all, [1].

    Raises:
      ValueError: h is a batch, or of integers.
    """
    _check_individual(h)
    return jnp.std(h, axis=tuple(range(max(h.ndim - 1, 1))), keepdims=True)


def smooth(h: jax.Array, passes: int) -> jax.Array:
    """`passes` of 3x3 average pooling, stride 1, padding zeros counted in the divisor (paper A.2).

    The passes along an axis are one matrix, so that their number costs nothing.

    Args:
      h: [h, w, c], or [tokens, features] (smoothed along the tokens), or rank 1 (returned as is).
      passes: number of passes, at least 0.

    Returns:
      The same shape and dtype.

    Raises:
      ValueError: h is a batch, or of integers.
    """
    _check_individual(h)
    if not passes:
        return h
    matrices = [jnp.asarray(smoothing_matrix(n, passes), h.dtype) for n in h.shape[:-1]]
    if h.ndim == 3:
        return jnp.einsum("ph,qw,hwc->pqc", *matrices, h)
    if h.ndim == 2:
        return matrices[0] @ h
    return h


def normalize(h: jax.Array, epsilon: float = NORMALIZE_EPSILON) -> jax.Array:
    """Zero mean and unit variance over all elements, [...] -> [...] (paper A.2)."""
    centred = h - jnp.mean(h)
    return centred * jax.lax.rsqrt(jnp.mean(jnp.square(centred)) + epsilon)


def mutate(
    key: jax.Array,
    child: jax.Array,
    sigma: jax.Array,
    strength: jax.Array | float,
    smoothing_passes: int = 0,
    *,
    smoothing: str = "noise",
    truncation: float = NOISE_TRUNCATION,
) -> jax.Array:
    """Adds Gaussian noise of standard deviation strength * sigma, smoothed (paper A.2).

    Args:
      key: a `jax.random` key, used up.
      child: [h, w, c], [tokens, features] or rank 1, float.
      sigma: broadcastable to `child` with its rank, see `spread`.
      strength: alpha, or alpha * boost.
      smoothing_passes: B, passes of 3x3 average pooling; rank 1 has none.
      smoothing: "noise": the noise is smoothed; "child": the sum is; "noise_rescaled": the noise
        is, and then brought back to its standard deviation before smoothing at every position.
      truncation: share of the noise's variance that may be left out (see `noise_basis`).

    Returns:
      The mutated individual, not normalised: same shape and dtype.

    Raises:
      ValueError: `smoothing` is unknown, or `child` a batch, or of integers.
    """
    _check_individual(child)
    noise = smoothed_noise(key, (1, *child.shape), smoothing_passes, smoothing, truncation)[0]
    return add_noise(child, noise, sigma, strength, smoothing_passes, smoothing=smoothing)


def add_noise(
    child: jax.Array,
    noise: jax.Array,
    sigma: jax.Array,
    strength: jax.Array | float,
    smoothing_passes: int = 0,
    *,
    smoothing: str = "noise",
) -> jax.Array:
    """`mutate` with a noise that is drawn (and smoothed) already, of unit strength before."""
    one_of("smoothing", smoothing, SMOOTHINGS)
    if smoothing == "child":
        child = smooth(child, smoothing_passes)
    return child + (strength * sigma) * noise.astype(child.dtype)


def perturb_image(key: jax.Array, image: jax.Array, noise: jax.Array | float) -> jax.Array:
    """An image [h, w, c] plus Gaussian noise of `noise` times its deviation in each channel."""
    return image + noise * spread(image) * jax.random.normal(key, image.shape, image.dtype)


def moved(natural: jax.Array, direction: jax.Array, value: jax.Array | float) -> jax.Array:
    """A representation [...] of unit variance whose cosine to `natural` [...] is `value`.

    It is value * n + sqrt(1 - value^2) * d: n the natural one and d the direction, from which what
    it has of n is taken away, both brought to mean 0 and variance 1. Where nothing but rounding is
    left of d, there is none.
    """
    n = normalize(natural)
    whole = direction - jnp.mean(direction)
    d = whole - n * (jnp.mean(n * whole) / jnp.mean(n * n))
    size = jnp.mean(d * d)
    d = d * jax.lax.rsqrt(jnp.maximum(size, jnp.finfo(jnp.float32).tiny))
    d = jnp.where(size > 1e-10 * jnp.mean(whole * whole), d, 0)
    return value * n + jnp.sqrt(1 - value * value) * d


def brought_near(h: jax.Array, natural: jax.Array, least_cosine: float) -> jax.Array:
    """h [...] itself where its cosine to `natural` [...] is at least so large, both with their
    means taken away; else `moved`, what is closest to it of those that have this cosine."""
    n, centred = normalize(natural), h - jnp.mean(h)
    size = jnp.sqrt(jnp.mean(n * n) * jnp.mean(centred * centred))
    is_far = jnp.mean(centred * n) < least_cosine * size
    return jnp.where(is_far, moved(natural, h, least_cosine), h)


# --------------------------------------------------------------------------------------------
# Smoothed noise from few random numbers
# --------------------------------------------------------------------------------------------


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


# --------------------------------------------------------------------------------------------
# Populations
# --------------------------------------------------------------------------------------------


def kind_of(shape: tuple[int, ...], *, last: bool) -> str:
    """Which recipe a representation of this shape takes: "conv", "vector" or "logits"."""
    if last:
        return "logits"
    return "vector" if len(shape) == 1 else "conv"


def standardize(h: jax.Array, kind: str) -> jax.Array:
    """How a child ends: `normalize`, or for logits minus their mean over the classes."""
    return h - jnp.mean(h) if kind == "logits" else normalize(h)


def reproduce(
    key: jax.Array,
    parents: jax.Array,
    num_children: int,
    strength: jax.Array | float,
    smoothing_passes: int = 0,
    *,
    smoothing: str = "noise",
    kind: str | None = None,
    truncation: float = NOISE_TRUNCATION,
    near: Near | None = None,
) -> jax.Array:
    """Children of parents drawn in pairs, independently and with replacement (paper 3.1, A.2).

    A child: `crossover` of its two parents, `add_noise` in units of the mean of their sigmas,
    `standardize`, then `near` if there is one. The noise of all children is one `smoothed_noise`;
    `mutate` draws that of one.

    Args:
      key: a `jax.random` key, used up.
      parents: [P, ...], one image's.
      num_children: C.
      strength, smoothing_passes, smoothing, truncation: see `mutate`.
      kind: "conv", "vector" or "logits"; None: by rank, rank 1 being logits.
      near: what brings a child [...] back to where candidates must lie.

    Returns:
      [C, ...], the dtype of the parents, to which the noise, the mean of two parents and the
      mutated child are rounded, too; what is computed with them is at least float32.

    Raises:
      ValueError: `kind` or `smoothing` is unknown.
    """
    kind = kind or kind_of(parents.shape[1:], last=parents.ndim == 2)
    one_of("kind", kind, KINDS)
    pair_key, noise_key = computed_once(jax.random.split(key))
    pairs = jax.random.randint(pair_key, (2, num_children), 0, parents.shape[0], jnp.int32)
    pairs = computed_once(pairs)
    mothers, fathers = pairs
    sigmas = jax.vmap(spread)(widened(parents))
    sigmas = 0.5 * (sigmas[mothers] + sigmas[fathers])
    shape = (num_children, *parents.shape[1:])
    noise_dtype = jnp.float32 if parents.dtype.itemsize > 4 else parents.dtype
    noise = smoothed_noise(
        noise_key, shape, smoothing_passes, smoothing, truncation, dtype=noise_dtype
    )

    def child(noise, mean, sigma):
        mutated = add_noise(
            widened(mean), noise, sigma, strength, smoothing_passes, smoothing=smoothing
        )
        # Rounded here, too: what goes through memory before a child is finished is no wider.
        finished = standardize(widened(mutated.astype(parents.dtype)), kind)
        return (finished if near is None else near(finished)).astype(parents.dtype)

    means = jax.lax.platform_dependent(
        parents, pairs, tpu=_means_by_product, default=_means_by_index
    )
    return jax.vmap(child)(noise, means, sigmas)


def _means_by_index(parents: jax.Array, pairs: jax.Array) -> jax.Array:
    """`crossover` of the parents [P, ...] in each pair, pairs [2, C]: [C, ...], of their dtype."""
    mothers, fathers = pairs
    means = jax.vmap(crossover)(widened(parents[mothers]), widened(parents[fathers]))
    return means.astype(parents.dtype)


def _means_by_product(parents: jax.Array, pairs: jax.Array) -> jax.Array:
    """The same for a TPU, on which reading rows by their numbers moves twenty times the bytes."""
    chosen = jax.nn.one_hot(pairs, len(parents), dtype=parents.dtype)
    return mixed(0.5 * jnp.sum(chosen, axis=0), parents)


def mixed(shares: jax.Array, rows: jax.Array) -> jax.Array:
    """Sums of rows [m, ...] with shares [n, m], one product of their dtype: [n, ...], rounded to it
    once, and exact where a share is 1."""
    return jnp.tensordot(shares, rows, 1, precision=jax.lax.Precision.HIGHEST)


def widened(h: jax.Array) -> jax.Array:
    """h as at least float32, to be computed with."""
    return h.astype(jnp.promote_types(h.dtype, jnp.float32))
