"""Evolution of representations: the operators of one individual.

Paper 3.1 and A.2. Letters: P parents, C children, h w c height, width, channels of a
representation H(l); rank 3 [h, w, c] is convolutional, rank 2 [tokens, features] likewise along
its tokens, rank 1 [features] or [classes] a vector or the logits. The operators take ONE
individual; `reproduce` maps them over children, and everything else maps over images.

Fitness is a log-likelihood, or what one's own function says: higher is better.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

from dsl_jax.config import SMOOTHINGS
from dsl_jax.evolution.noise import NOISE_TRUNCATION, smoothed_noise, smoothing_matrix
from dsl_jax.evolution.pairing import Pairing, pair_up
from dsl_jax.evolution.rows import rows_by_index, sums_of_rows
from dsl_jax.values import one_of

NORMALIZE_EPSILON = 1e-5
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
    axes = tuple(range(max(h.ndim - 1, 1)))
    return jax.lax.platform_dependent(
        h,
        cpu=partial(jnp.std, axis=axes, keepdims=True),
        default=lambda h: jnp.sqrt(_moments(widened(h), axes)[1]).astype(h.dtype),
    )


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
    return jax.lax.platform_dependent(
        h,
        cpu=partial(_normalize_in_three_passes, epsilon=epsilon),
        default=partial(_normalize_in_two_passes, epsilon=epsilon),
    )


def _normalize_in_three_passes(h: jax.Array, epsilon: float) -> jax.Array:
    centred = h - jnp.mean(h)
    return centred * jax.lax.rsqrt(jnp.mean(jnp.square(centred)) + epsilon)


def _normalize_in_two_passes(h: jax.Array, epsilon: float) -> jax.Array:
    """The same for an accelerator, which reads h from memory once a pass; see `_moments`."""
    wide = widened(h)
    mean, variance = _moments(wide, tuple(range(h.ndim)))
    normalized = (wide - mean) * jax.lax.rsqrt(variance + epsilon)
    return normalized.astype(jnp.result_type(h, 0.0))


def _moments(h: jax.Array, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Mean and variance over axes, which stay with length 1, in one pass.

    The variance is off by some 1e-7 of the mean square. So below a millionth of this it counts as
    0: what does not vary has no spread.
    """
    mean = jnp.mean(h, axes, keepdims=True)
    square = jnp.mean(jnp.square(h), axes, keepdims=True)
    variance = square - jnp.square(mean)
    return mean, jnp.where(variance <= 1e-6 * square, 0, variance)


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
    return breed(
        pair_up(key, len(parents), num_children),
        (parents,),
        strength,
        smoothing_passes,
        smoothing=smoothing,
        kind=kind,
        truncation=truncation,
        near=near,
    )


def breed(
    pairing: Pairing,
    groups: Sequence[jax.Array],
    strength: jax.Array | float,
    smoothing_passes: int,
    *,
    smoothing: str,
    kind: str | None,
    truncation: float,
    near: Near | None,
) -> jax.Array:
    """`reproduce` of parents that are drawn already, of one or several groups [m_i, ...], counted
    through all of them; the pairing's key is used up."""
    dtype, individual = groups[0].dtype, groups[0].shape[1:]
    kind = kind or kind_of(individual, last=len(individual) == 1)
    one_of("kind", kind, KINDS)
    pairs, noise_key = pairing
    means, sigmas = jax.lax.platform_dependent(
        tuple(groups), pairs, cpu=_cross_joined, tpu=_cross_by_product, default=_cross_by_index
    )
    shape = (pairs.shape[1], *individual)
    noise_dtype = jnp.float32 if dtype.itemsize > 4 else dtype
    noise = smoothed_noise(
        noise_key, shape, smoothing_passes, smoothing, truncation, dtype=noise_dtype
    )

    def mutated(noise, mean, sigma):
        child = add_noise(
            widened(mean), noise, sigma, strength, smoothing_passes, smoothing=smoothing
        )
        # Rounded here, too: what goes through memory before a child is finished is no wider.
        return child.astype(dtype)

    def finished(child):
        child = standardize(widened(child), kind)
        return (child if near is None else near(child)).astype(dtype)

    children = jax.vmap(mutated)(noise, means, sigmas)
    children = jax.lax.platform_dependent(children, cuda=_one_by_one, default=lambda same: same)
    return jax.vmap(finished)(children)


def _one_by_one(h: jax.Array) -> jax.Array:
    """Individuals [n, ...] that lie one after the other in a GPU's memory. XLA would lay positions
    first, as the product does that smooths their noise, and take means over them in two kernels."""
    return with_layout_constraint(h, Layout(tuple(range(h.ndim))))


def _cross_by_index(groups: Sequence[jax.Array], pairs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`crossover` of the parents in each pair, and the mean of their sigmas.

    groups: parents [m_i, ...], numbered through all of them; pairs: [2, C].

    Returns:
      Means [C, ...], of the dtype of the parents, and sigmas as `spread` has them.
    """
    mothers, fathers = (widened(rows_by_index(groups, numbers)) for numbers in pairs)
    means = jax.vmap(crossover)(mothers, fathers).astype(groups[0].dtype)
    return means, _mean_sigmas(groups, pairs)


def _cross_joined(groups: Sequence[jax.Array], pairs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The same for a CPU, which joins the groups at little cost."""
    return _cross_by_index([jnp.concatenate(groups)], pairs)


def _cross_by_product(groups: Sequence[jax.Array], pairs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The same for a TPU, see `sums_of_rows`."""
    return sums_of_rows(groups, pairs, 0.5), _mean_sigmas(groups, pairs)


def _mean_sigmas(groups: Sequence[jax.Array], pairs: jax.Array) -> jax.Array:
    sigmas = jnp.concatenate([jax.vmap(spread)(widened(group)) for group in groups])
    mothers, fathers = pairs
    return 0.5 * (sigmas[mothers] + sigmas[fathers])


def widened(h: jax.Array) -> jax.Array:
    """h as at least float32, to be computed with."""
    return h.astype(jnp.promote_types(h.dtype, jnp.float32))
