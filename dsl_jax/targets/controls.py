"""Controls: targets that keep a part of what searched targets have, and not the rest.

A searched target of an image is partly the image's natural representation, what the searched
network makes of it; partly what is common to the targets of its class; and a rest. Each control
keeps some of that, so that training on it tells what the rest was worth
(docs/what_targets_carry.md). Letters: N images, M rows asked for, C classes, L blocks, that is the
layers before the logits.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dsl_jax.evolution.fitness import Stages
from dsl_jax.evolution.image import SearchResult
from dsl_jax.evolution.images import as_pytrees
from dsl_jax.evolution.operators import moved
from dsl_jax.evolution.shared_targets import SharedTargets
from dsl_jax.inputs import check_labels
from dsl_jax.keys import check_key, normal_numbers
from dsl_jax.measures import cosine_distance
from dsl_jax.reprs import short_repr
from dsl_jax.targets.reading import (
    Blocks,
    Control,
    Given,
    Naturals,
    as_targets,
    blocks_of,
    centred,
    check_aligned,
    check_as_many,
    chunks,
)
from dsl_jax.values import check_cosines, one_of

CODES = ("channel", "element")

# --------------------------------------------------------------------------------------------
# What is common to a class
# --------------------------------------------------------------------------------------------


class ClassStatistics(NamedTuple):
    """What is common to the targets of a class.

    Attributes:
      counts: integers [C], the images of each class.
      means: for each block float32 [C, ...], the mean target.
      displacements: for each block float32 [C, ...], the mean of target minus natural.
      cosines: for each block the mean cosine of a target to its image's natural representation.
    """

    counts: np.ndarray
    means: Blocks
    displacements: Blocks
    cosines: tuple[float, ...]

    def __repr__(self) -> str:
        return short_repr(self, **self._asdict())

    @property
    def parts(self) -> Blocks:
        """For each block float32 [C, ...], the mean of the target minus its natural part.

        That part is the cosine times the natural representation. A displacement takes away all of
        the latter, of which the target has little: so most of a displacement may be what the
        natural representations of all classes have in common, reversed.
        """
        zipped = zip(self.means, self.displacements, self.cosines, strict=True)
        return tuple(mean - cosine * (mean - displaced) for mean, displaced, cosine in zipped)


def class_statistics(
    targets: Given, naturals: Naturals, labels: np.ndarray, num_classes: int
) -> ClassStatistics:
    """Means over the images of each class, read in parts.

    Args:
      targets: of N images, or a `SearchResult`.
      naturals: those of the same images, in the same order.
      labels: integers [N], likewise.
      num_classes: C. The means of a class without images are 0.

    Raises:
      ValueError: other numbers of images, or labels out of range.
    """
    targets = as_targets(targets)
    labels = check_aligned(targets, naturals, labels, num_classes)
    counts = np.bincount(labels, minlength=num_classes)
    sums: list[np.ndarray] = []
    cosines: list[list[float]] = []
    for rows in chunks(np.arange(len(labels))):
        pairs = list(zip(blocks_of(targets, rows), naturals.read(rows), strict=True))
        if not sums:
            sums = [np.zeros((2, num_classes, *t.shape[1:])) for t, _ in pairs]
        members = np.eye(num_classes)[labels[rows]].T  # [C, m]
        for total, (target, natural) in zip(sums, pairs, strict=True):
            total[0] += np.tensordot(members, target, 1)
            total[1] += np.tensordot(members, natural, 1)
        distances = [
            cosine_distance(*(jnp.asarray(centred(one)) for one in pair)) for pair in pairs
        ]
        cosines.append([float(np.sum(1 - np.asarray(distance))) for distance in distances])
    means = [total / np.maximum(counts, 1).reshape(-1, *[1] * (total.ndim - 2)) for total in sums]
    return ClassStatistics(
        counts,
        tuple(target.astype(np.float32) for target, _ in means),
        tuple((target - natural).astype(np.float32) for target, natural in means),
        tuple((np.sum(cosines, axis=0) / len(labels)).tolist()),
    )


def class_part_targets(
    stages: Stages, targets: Given, naturals: Naturals, labels: np.ndarray, num_classes: int
) -> SharedTargets:
    """For all images, what is common to the targets that a search of few images found.

    A block's target: the image's natural representation moved along its class's `parts`, to the
    mean cosine that search leaves. Logits: the class's mean.

    Args:
      stages: those that were searched.
      targets, naturals, labels, num_classes: as in `class_statistics`; of the few.

    Raises:
      ValueError: as `class_statistics`, or a class without images.
    """
    read = as_targets(targets)
    statistics = class_statistics(read, naturals, labels, num_classes)
    if not statistics.counts.all():
        absent = np.flatnonzero(statistics.counts == 0).tolist()
        raise ValueError(f"no image of the classes {absent} was searched: search more images")
    logits = np.zeros((num_classes, num_classes))
    for rows in chunks(np.arange(len(labels))):
        np.add.at(logits, np.asarray(labels)[rows], read.read(rows).representations[-1])
    return SharedTargets(
        as_pytrees(stages),
        statistics.parts,
        np.asarray(statistics.cosines, np.float32),
        (logits / statistics.counts[:, None]).astype(np.float32),
    )


def with_code(key: jax.Array, shared: SharedTargets, kind: str) -> SharedTargets:
    """The same with a `random_code` of the kind in the place of each direction."""
    shapes = [direction.shape[1:] for direction in shared.directions]
    code = random_code(key, shapes, len(shared.logits), kind)
    return dataclasses.replace(shared, directions=code)


# --------------------------------------------------------------------------------------------
# The controls
# --------------------------------------------------------------------------------------------


def permuted(key: jax.Array, targets: Given, labels: np.ndarray) -> Given:
    """Every image gets all targets, logits too, of another image of its class.

    Args:
      key: a `jax.random` key.
      targets: of N images.
      labels: integers [N].

    Returns:
      A `Control`, or a `SearchResult` where one was given. The only image of a class keeps its own
      targets.

    Raises:
      ValueError: there are not as many labels as images.
    """
    read = as_targets(targets)
    count = len(read.ids)  # all at once: others lie anywhere, and a store reads whole chunks
    others = permuted_rows(key, check_labels(labels, count, 2**31 - 1))
    control = Control(read.ids, lambda rows: read.read(others[rows]).representations, count)
    return _as_given(targets, control)


def permuted_rows(key: jax.Array, labels: np.ndarray) -> np.ndarray:
    """For each image [N] the row of another of its class: a random cycle through every class."""
    check_key(key)
    labels = np.asarray(labels)
    order = np.asarray(jax.random.permutation(key, len(labels)))
    others = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        cycle = order[labels[order] == label]
        others[cycle] = np.roll(cycle, 1)
    return others


def shuffled_labels(key: jax.Array, labels: np.ndarray) -> np.ndarray:
    """The labels [N] dealt out anew among all images, to search for; see `with_blocks_of`."""
    check_key(key)
    return np.asarray(labels)[np.asarray(jax.random.permutation(key, len(labels)))]


def with_blocks_of(other: Given, targets: Given) -> Given:
    """The blocks' targets of another search of the same images, with the logits of this one."""
    read = as_targets(other)
    if not np.array_equal(read.ids, as_targets(targets).ids):
        raise ValueError("the two searches are of different images, or in another order")
    return _with_logits(targets, lambda rows: read.read(rows).representations[:-1])


def class_means(targets: Given, labels: np.ndarray, statistics: ClassStatistics) -> Given:
    """Blocks: the mean target of the image's class, as it is. Logits: the image's own."""
    count, num_classes = len(as_targets(targets).ids), len(statistics.counts)
    labels = check_labels(labels, count, num_classes)
    return _with_logits(targets, lambda rows: tuple(m[labels[rows]] for m in statistics.means))


def natural(targets: Given, naturals: Naturals) -> Given:
    """Blocks: the image's natural representations. Logits: its searched ones.

    Raises:
      ValueError: there are not as many targets as images.
    """
    check_as_many(as_targets(targets), naturals)
    return _with_logits(targets, naturals.read)


def natural_plus(
    directions: Sequence[np.ndarray],
    cosines: Sequence[float],
    targets: Given,
    naturals: Naturals,
    labels: np.ndarray,
) -> Given:
    """Blocks: the image's natural representation moved in its class's direction.

    Args:
      directions: for each block [C, ...], of any length: the `displacements` or `parts` of
        `class_statistics`, or a `random_code`.
      cosines: for each block that of the target to the natural representation; `class_statistics`
        has those that search leaves.
      targets: of N images, of which the logits are taken.
      naturals, labels: of the same images, in the same order.

    Returns:
      A `Control`, or a `SearchResult` where one was given; see `moved`.

    Raises:
      ValueError: not one direction and cosine a block, or a cosine that is none; targets, images
        and labels that are not as many.
    """
    if len(directions) != len(cosines):
        raise ValueError(f"{len(directions)} directions but {len(cosines)} cosines: one a block")
    check_cosines(cosines)
    labels = check_aligned(as_targets(targets), naturals, labels, len(directions[0]))

    def blocks(rows: np.ndarray) -> Blocks:
        return tuple(
            np.asarray(_moved(natural, direction[labels[rows]], value))
            for natural, direction, value in zip(
                naturals.read(rows), directions, cosines, strict=True
            )
        )

    return _with_logits(targets, blocks)


_moved = jax.jit(jax.vmap(moved, (0, 0, None)))


def random_code(
    key: jax.Array, shapes: Sequence[tuple[int, ...]], num_classes: int, kind: str
) -> Blocks:
    """A random direction for each class and block: [C, ...] standard normal numbers.

    Args:
      key: a `jax.random` key.
      shapes: that of a representation of each block.
      num_classes: C.
      kind: "channel": a number a channel, the same at every position; "element": one an element.
    """
    one_of("kind", kind, CODES)
    check_key(key)
    found = []
    for index, shape in enumerate(shapes):
        drawn = (*[1] * (len(shape) - 1), shape[-1]) if kind == "channel" else shape
        code = normal_numbers(jax.random.fold_in(key, index), (num_classes, *drawn))
        found.append(np.broadcast_to(np.asarray(code), (num_classes, *shape)))
    return tuple(found)


# --------------------------------------------------------------------------------------------


def _with_logits(targets: Given, blocks: Callable[[np.ndarray], Blocks]) -> Given:
    """Other blocks, in the type of the targets' own, with the targets' logits."""
    read = as_targets(targets)

    def make(rows: np.ndarray) -> tuple[np.ndarray, ...]:
        *own, logits = read.read(rows).representations
        others = (b.astype(o.dtype) for b, o in zip(blocks(rows), own, strict=True))
        return (*others, np.asarray(logits))

    return _as_given(targets, Control(read.ids, make))


def _as_given(targets: Given, control: Control) -> Given:
    """A control of what is in memory is made at once: `learn` takes it, without ids, as well."""
    return control.read() if isinstance(targets, SearchResult) else control
