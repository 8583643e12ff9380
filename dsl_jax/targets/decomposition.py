"""What a searched target is made of: natural part, class displacement, and neither.

For each image, t the target, n its natural representation and d the mean displacement (target minus
natural) of the OTHER images of its class, minus its part along n, all centred:
|t|^2 = (t.n)^2/|n|^2 + (t.d)^2/|d|^2 + rest (docs/what_targets_carry.md). The mean of few images is
a noisy direction, so with few images a class its share is too low.
Letters: N images, M of them at once, C classes, L blocks.
"""

from typing import Any, NamedTuple

import numpy as np

from dsl_jax.evolution.image import SearchResult
from dsl_jax.targets.controls import ClassStatistics, class_statistics
from dsl_jax.targets.reading import (
    Naturals,
    Targets,
    as_targets,
    blocks_of,
    centred,
    check_aligned,
    chunks,
)


class Shares(NamedTuple):
    """Shares of the variance of a block's targets, means over images; they add up to 1.

    Attributes:
      natural: along the image's natural representation.
      class_displacement: along the mean displacement of the class's other images.
      rest: neither.
      cosine: the mean cosine of target and natural representation.
    """

    natural: float
    class_displacement: float
    rest: float
    cosine: float


def decompose(
    targets: Targets | SearchResult,
    naturals: Naturals,
    labels: np.ndarray,
    num_classes: int,
    statistics: ClassStatistics | None = None,
) -> tuple[Shares, ...]:
    """The shares of each block, read in parts.

    Args:
      targets: of N images.
      naturals, labels: of the same images, in the same order.
      num_classes: C.
      statistics: `class_statistics` of these; None: computed.

    Returns:
      `Shares` for each of L blocks.

    Raises:
      ValueError: as `class_statistics`.
    """
    targets = as_targets(targets)
    labels = check_aligned(targets, naturals, labels, num_classes)
    if statistics is None:
        statistics = class_statistics(targets, naturals, labels, num_classes)
    sums: Any = 0.0
    for rows in chunks(np.arange(len(labels))):
        members, blocks = labels[rows], []
        for block, (target, natural) in enumerate(
            zip(blocks_of(targets, rows), naturals.read(rows), strict=True)
        ):
            others = without_own(
                statistics.displacements[block][members],
                target - natural,
                statistics.counts[members],
            )
            blocks.append([part.sum() for part in shares_of(target, natural, others)])
        sums = sums + np.array(blocks)
    means = sums / len(labels)
    return tuple(
        Shares(along, common, 1 - along - common, value)
        for (along, common), value in zip(means.tolist(), statistics.cosines, strict=True)
    )


def shares_of(
    target: np.ndarray, natural: np.ndarray, displacement: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Shares of a target's variance along two directions, the second made orthogonal to the first.

    Args:
      target, natural, displacement: [M, ...]; a direction that is zero has a share of 0.

    Returns:
      Two arrays [M] between 0 and 1; what is missing to 1 is the rest.
    """
    t, n, d = (centred(x) for x in (target, natural, displacement))
    n = _unit(n, n)
    d = _unit(d - np.einsum("md,md->m", d, n)[:, None] * n, d)
    size = np.einsum("md,md->m", t, t)
    size = np.where(size == 0, 1, size)
    along, common = (np.einsum("md,md->m", t, x) ** 2 / size for x in (n, d))
    return along, common


def without_own(means: np.ndarray, own: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Means [M, ...] over `counts` [M] values, without the one of them that is `own` [M, ...].

    0 where there is no other.
    """
    counts = counts.reshape(-1, *[1] * (means.ndim - 1))
    rest = (counts * means - own) / np.maximum(counts - 1, 1)
    return np.where(counts > 1, rest, 0)


def _unit(x: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Rows [M, d] of length 1; 0 where what is left of `whole` [M, d] is but its rounding."""
    length, before = (np.linalg.norm(y, axis=1, keepdims=True) for y in (x, whole))
    is_left = length > 1e-5 * before
    return np.where(is_left, x / np.where(is_left, length, 1), 0)
