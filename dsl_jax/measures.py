"""Measures of how alike or how diverse representations are (paper 3.2 and 4.5). Pure functions.

Letters: n representations, C classes; "..." stands for the axes of one representation, which are
flattened. Inputs may be of any real dtype; everything is computed in float32 at least.

A representation counts by its direction alone. One that is zero everywhere has none, so it is
given a direction of its own, orthogonal to all others: zeros are alike to each other (similarity
1) and to nothing else (similarity 0). NaN or infinity in a representation makes the result NaN.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

# Full float32 products: an accelerator's default would round similarities to about 1e-3.
_PRECISION = jax.lax.Precision.HIGHEST


def cosine_gram(reps: Array) -> Array:
    """K, the cosine similarity of every pair of representations (paper 3.2).

    Args:
      reps: [n, ...], at least one axis after the first.

    Returns:
      float32 [n, n], between -1 and 1, ones on the diagonal.

    Raises:
      ValueError: `reps` has fewer than two axes, or an empty one.
    """
    directions = _directions(_flatten(reps, "reps"))
    return jnp.matmul(directions, directions.T, precision=_PRECISION)


def collision_entropy(reps: Array, where: Array | None = None) -> Array:
    """Collision (second-order Renyi) entropy, -log(sum_ij K_ij^2 / (sum_i K_ii)^2) (paper 3.2).

    It is that of the spectrum of K / trace(K), in nats: 0 when all representations point the same
    way (or the opposite one), log(n) when they are orthogonal.

    Args:
      reps: [n, ...].
      where: bool [n], the representations that count, so that one shape serves any number of them;
        None: all. NaN where none does.

    Returns:
      float32 scalar between 0 and log(n).

    Raises:
      ValueError: `reps` has fewer than two axes, or an empty one, or `where` another shape.
    """
    gram = cosine_gram(reps)
    return _group_entropies(gram, _counted(gram, where)[:, None])[0]


def effective_solutions(reps: Array, where: Array | None = None) -> Array:
    """N_eff, the number of different solutions: exp of the collision entropy (paper 3.2).

    Args, Raises: as for `collision_entropy`.

    Returns:
      float32 scalar: 1 when all are alike, n when all are orthogonal.
    """
    return jnp.exp(collision_entropy(reps, where))


def vendi_score(reps: Array, where: Array | None = None) -> Array:
    """The effective number of order 1: exp of the entropy of the spectrum of K / n (Vendi score).

    `effective_solutions` is the same of order 2, which counts what is common and passes over what
    is rare; the two agree where all representations are alike or all orthogonal.

    Args, Raises: as for `collision_entropy`.

    Returns:
      float32 scalar between 1 (all alike) and n (all orthogonal); at least `effective_solutions`.
    """
    gram = cosine_gram(reps)
    counted = _counted(gram, where)
    number = counted.sum()
    gram = gram * counted[None] * counted[:, None]
    # eigvalsh may not end on NaN; the score is NaN all the same.
    finite = jnp.isfinite(gram).all() & (number > 0)
    gram = jnp.where(finite, gram, jnp.eye(len(gram)))
    spectrum = jnp.clip(jnp.linalg.eigvalsh(gram / jnp.maximum(number, 1)), 0)
    score = jnp.exp(-jnp.sum(jax.scipy.special.xlogy(spectrum, spectrum)))
    return jnp.where(finite, jnp.clip(score, 1, number), jnp.nan)


def centered(reps: Array, where: Array | None = None) -> Array:
    """The representations minus their mean: their directions then say how they differ.

    Args:
      reps: [n, ...].
      where: bool [n], those whose mean it is; None: all.

    Returns:
      float32 [n, d], flattened; of n representations that differ, n - 1 at most are orthogonal.

    Raises:
      ValueError: `reps` has fewer than two axes, or an empty one, or `where` another shape.
    """
    flat = _flatten(reps, "reps")
    weights = _counted(flat, where)[:, None]
    return flat - jnp.sum(flat * weights, axis=0, keepdims=True) / jnp.sum(weights)


def linear_cka(a: Array, b: Array) -> Array:
    """Linear centred kernel alignment of two networks' representations of the same inputs.

    ||A^T B||^2 / (||A^T A|| ||B^T B||) in Frobenius norms, the features of A and B centred; blind
    to rotations and to scale. Memory: two float32 [n, n] arrays.

    Args:
      a, b: [n, ...], row i of both from the same input; the other axes may differ.

    Returns:
      float32 scalar between 0 and 1, 1 where one is the other rotated and scaled; NaN where the
      representations of one do not differ at all.

    Raises:
      ValueError: another number of rows in a than in b, fewer than two axes, or an empty one.
    """
    both = centered(a), centered(b)
    if len(a) != len(b):
        raise ValueError(f"a has {len(a)} rows, b {len(b)}: need one for each input in both")
    # Scale does not count, but squares of squares could overflow.
    grams = []
    for x, reps in zip(both, (a, b), strict=True):
        spread, largest = jnp.max(jnp.abs(x)), jnp.max(jnp.abs(jnp.asarray(reps)))
        x = x / jnp.where(spread > 1e-6 * largest, spread, jnp.nan)  # below, the mean's rounding
        grams.append(jnp.matmul(x, x.T, precision=_PRECISION))
    first, second = grams
    alike = jnp.sum(first * second) / (jnp.linalg.norm(first) * jnp.linalg.norm(second))
    return jnp.clip(alike, 0, 1)


def cosine_distance(a: Array, b: Array) -> Array:
    """1 - cosine similarity of a[i] and b[i], for every i (paper 4.5).

    Args:
      a, b: [n, ...], of one shape. Only the first axis separates pairs; the others are flattened.

    Returns:
      float32 [n], between 0 (same direction) and 2 (opposite); 1 where just one of the two is
      zero everywhere, 0 where both are.

    Raises:
      ValueError: the shapes differ, have fewer than two axes, or an empty one.
    """
    if jnp.shape(a) != jnp.shape(b):
        raise ValueError(f"a has shape {jnp.shape(a)}, b {jnp.shape(b)}: they must be the same")
    a, b = _directions(_flatten(a, "a")), _directions(_flatten(b, "b"))
    # Equal to 1 - a.b for unit vectors, and exact for small distances, where that one cancels.
    return jnp.sum((a - b) ** 2, axis=1) / 2


def explained_variance(predictions: Array, targets: Array) -> Array:
    """The share of the targets' variance that predictions explain (docs/learnable_targets.md).

    1 - (summed squared error) / (summed squared distance of the targets from their mean): 1 for
    perfect predictions, 0 for the mean of the targets, below 0 for worse. Of images that were not
    trained on, it is what of a target can be learned.

    Args:
      predictions, targets: [n, ...] each, of one shape, n at least 2.

    Returns:
      A float32 scalar; NaN where all targets are the same.

    Raises:
      ValueError: shapes that differ, or fewer than two.
    """
    ours, theirs = _flatten(predictions, "predictions"), _flatten(targets, "targets")
    if (got := jnp.shape(predictions)) != (wanted := jnp.shape(targets)) or len(theirs) < 2:
        raise ValueError(
            f"predictions {got} and targets {wanted}: expected one shape [n, ...] with n at least 2"
        )
    error = jnp.sum(jnp.square(ours - theirs))
    distances = theirs - jnp.mean(theirs, axis=0, keepdims=True)
    differ = jnp.max(jnp.abs(distances)) > 1e-6 * jnp.max(jnp.abs(theirs))  # the mean's rounding
    return jnp.where(differ, 1 - error / jnp.sum(jnp.square(distances)), jnp.nan)


def within_class_entropy(reps: Array, labels: Array, num_classes: int | None = None) -> Array:
    """Mean over the classes of the collision entropy of a class's representations (paper 4.5).

    Every class that has a representation counts once, however many it has; one with a single
    representation counts with an entropy of 0. Memory: two float32 [n, n] arrays.

    Args:
      reps: [n, ...].
      labels: integers [n]; representations whose label is outside [0, num_classes) are left out,
        so -1 marks padding.
      num_classes: C; None takes the largest label plus one, which needs concrete labels. Under
        `jit` give it, as a static argument.

    Returns:
      float32 scalar, nats; NaN when no label is in range.

    Raises:
      ValueError: bad shapes, or labels that are traced while num_classes is None.
    """
    gram = cosine_gram(reps)
    members = _members(gram.shape[0], labels, num_classes, gram.dtype)
    return jnp.mean(_group_entropies(gram, members), where=jnp.any(members > 0, axis=0))


def between_class_entropy(reps: Array, labels: Array, num_classes: int | None = None) -> Array:
    """Collision entropy of the class means (paper 4.5).

    A class mean is the mean of the class's representations as they are, not of their directions.
    Classes without a representation are left out.

    Args:
      reps, labels, num_classes: as for `within_class_entropy`.

    Returns:
      float32 scalar, nats, between 0 and the log of the number of classes present; NaN when no
      label is in range.

    Raises:
      ValueError: bad shapes, or labels that are traced while num_classes is None.
    """
    flat = _flatten(reps, "reps")
    members = _members(flat.shape[0], labels, num_classes, flat.dtype)
    # The sum over a class has the direction of its mean, which is all that counts.
    sums = jnp.matmul(members.T, flat, precision=_PRECISION)
    present = jnp.any(members > 0, axis=0).astype(flat.dtype)
    return _group_entropies(cosine_gram(sums), present[:, None])[0]


def _group_entropies(gram: Array, members: Array) -> Array:
    """Collision entropy [g] of groups of rows: gram [n, n], members [n, g] of zeros and ones.

    NaN for a group without members.
    """
    sizes = jnp.sum(members, axis=0)  # the trace of a group's K: its diagonal is all ones
    collisions = jnp.sum(members * jnp.matmul(gram**2, members, precision=_PRECISION), axis=0)
    # The clip takes off rounding only.
    return jnp.clip(-jnp.log(collisions / sizes**2), 0, jnp.log(sizes))


def _counted(rows: Array, where: Array | None) -> Array:
    """1 for each row that counts, 0 for the others: [n]."""
    if where is None:
        return jnp.ones(len(rows), rows.dtype)
    if jnp.shape(where) != (len(rows),):
        raise ValueError(f"where has shape {jnp.shape(where)}: expected ({len(rows)},)")
    where = jnp.asarray(where)
    if where.dtype != bool:
        raise ValueError(f"where is {where.dtype}: give a mask, bool [{len(rows)}]")
    return where.astype(rows.dtype)


def _flatten(reps: Array, name: str) -> Array:
    """[n, ...] -> float32 [n, d]."""
    reps = jnp.asarray(reps)
    if reps.ndim < 2 or reps.size == 0:
        raise ValueError(
            f"{name} has shape {reps.shape}: expected [n, ...], with at least one representation "
            "and one axis of features (for a single representation give x[None])"
        )
    flat = reps.reshape(reps.shape[0], -1)
    return flat.astype(jnp.promote_types(flat.dtype, jnp.float32))


def _directions(flat: Array) -> Array:
    """[n, d] -> unit vectors [n, d + 1]; the last coordinate is the direction of the zeros."""
    largest = jnp.max(jnp.abs(flat), axis=1, keepdims=True)
    is_zero = largest == 0
    # Divided by the largest element first, so that squares neither overflow nor vanish.
    scaled = flat / jnp.where(is_zero, 1, largest)
    norms = jnp.linalg.norm(scaled, axis=1, keepdims=True)
    unit = scaled / jnp.where(is_zero, 1, norms)
    return jnp.concatenate([unit, is_zero.astype(flat.dtype)], axis=1)


def _members(n: int, labels: Array, num_classes: int | None, dtype: Any) -> Array:
    """[n, C], 1 where a representation belongs to a class; all 0 for a label out of range."""
    labels = jnp.asarray(labels)
    if labels.shape != (n,):
        raise ValueError(f"labels have shape {labels.shape}: expected ({n},), one for each of reps")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels are of type {labels.dtype}: expected integers")
    if num_classes is None:
        if isinstance(labels, jax.core.Tracer):
            raise ValueError(
                "num_classes is None, but labels are traced (under jit or vmap): give num_classes "
                "as a static number"
            )
        num_classes = max(int(labels.max()) + 1, 1)
    return jax.nn.one_hot(labels, num_classes, dtype=dtype)
