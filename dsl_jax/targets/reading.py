"""How targets, and the natural representations of their images, are read: part by part.

Letters: N images, M rows asked for, L blocks, that is the layers before the logits.
"""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from dsl_jax.batching import in_batches
from dsl_jax.evolution.fitness import Stages
from dsl_jax.evolution.image import SearchResult
from dsl_jax.evolution.images import as_pytrees
from dsl_jax.evolution.shared_targets import natural_representations
from dsl_jax.inputs import check_floating, check_labels

CHUNK = 512  # images at once, so that memory holds no second copy of all
Blocks = tuple[np.ndarray, ...]
Given = Any  # `Targets`, which give a `Control`, or a `SearchResult`, which gives one


class Targets(Protocol):
    """What `learn` takes besides a `SearchResult`: a `TargetStore`, an `Overlay`, a control."""

    ids: np.ndarray

    def read(self, rows: Any = None) -> SearchResult:
        """Targets of some images, in the order of `rows` [M] (None: all)."""


def rows_asked(rows: Any, count: int) -> np.ndarray:
    """Rows [M] of so many, from a slice, integers or a mask; None: all.

    Raises ValueError for several axes, IndexError for rows that are not there.
    """
    found = np.arange(count)[slice(None) if rows is None else rows]
    if found.ndim != 1:
        raise ValueError(f"rows {rows!r}: give a slice or a sequence of integers")
    return found


def joined(count: int, parts: Iterable[tuple[np.ndarray, Blocks]]) -> Blocks:
    """Arrays [M, ...] from parts of them, each with its places among the M, without a second copy
    of all."""
    whole: Blocks = ()
    for places, part in parts:
        if len(places) == count:
            return tuple(part)
        whole = whole or tuple(np.empty((count, *h.shape[1:]), h.dtype) for h in part)
        for array, h in zip(whole, part, strict=True):
            array[places] = h
    return whole


class Control:
    """Targets made of others when they are read; `learn` takes it.

    ids: int64 [N], those of the targets that it was made of.
    """

    def __init__(
        self,
        ids: np.ndarray,
        make: Callable[[np.ndarray], tuple[np.ndarray, ...]],
        at_once: int | None = None,
    ):
        """make: from rows, at most `at_once`, to their representations, the last the logits."""
        self.ids = ids
        self._make = make
        self._at_once = at_once

    def __repr__(self) -> str:
        return f"Control({len(self.ids)} images)"

    def read(self, rows: slice | np.ndarray | None = None) -> SearchResult:
        """Targets of some images, in the order of `rows` [M] (None: all), without fitness."""
        rows = rows_asked(rows, len(self.ids))
        places = chunks(np.arange(len(rows)), self._at_once)
        return SearchResult(joined(len(rows), ((p, self._make(rows[p])) for p in places)), ())


class Naturals:
    """The natural representations of images, computed when they are read.

    Args:
      stages: those of the searched network.
      images: [N, ...], in the order of the targets.
      preprocess: what makes `images` normalised floats; None: they are.
    """

    def __init__(self, stages: Stages, images: np.ndarray, preprocess: Callable | None = None):
        self._images, self._preprocess = images, preprocess
        self._stages = as_pytrees(stages)

    def __len__(self) -> int:
        return len(self._images)

    def read(self, rows: np.ndarray) -> Blocks:
        """Of each block float32 [M, ...], normalised as targets are.

        Raises:
          ValueError: no rows, or images that are not floating.
        """
        if not len(rows):
            raise ValueError("no rows are asked for: natural representations need at least one")
        return in_batches(
            lambda images: _natural(self._stages, self._prepared(images)), self._images[rows], CHUNK
        )

    def _prepared(self, images: np.ndarray) -> jax.Array:
        images = images if self._preprocess is None else self._preprocess(images)
        check_floating(images)
        return jnp.asarray(images, jnp.float32)


_natural = jax.jit(natural_representations)


def as_targets(targets: Targets | SearchResult) -> Targets:
    """A `SearchResult` as something that is read; its ids are its rows.

    Raises:
      TypeError: they are no targets of single images.
    """
    if not isinstance(targets, SearchResult):
        if not hasattr(targets, "read"):
            raise TypeError(
                f"the targets are a {type(targets).__name__}: give what search returns, a "
                "TargetStore, an Overlay or a control"
            )
        return targets
    arrays = [np.asarray(h) for h in targets.representations]
    return Control(np.arange(len(arrays[0])), lambda rows: tuple(h[rows] for h in arrays))


def blocks_of(targets: Targets, rows: np.ndarray) -> Blocks:
    """The targets of the blocks, float32 [M, ...] each."""
    *blocks, _ = targets.read(rows).representations
    return tuple(np.asarray(block, np.float32) for block in blocks)


def check_aligned(
    targets: Targets, naturals: Naturals, labels: np.ndarray, num_classes: int
) -> np.ndarray:
    """Labels as int32 [N]. Raises ValueError unless all three are of as many images."""
    check_as_many(targets, naturals)
    return check_labels(labels, len(naturals), num_classes)


def check_as_many(targets: Targets, naturals: Naturals) -> None:
    """Raises ValueError unless there are as many targets as images; TypeError for no `Naturals`."""
    if not isinstance(naturals, Naturals):
        raise TypeError(
            f"the naturals are a {type(naturals).__name__}: give dsl_jax.controls.Naturals(stages, "
            "images)"
        )
    if (count := len(targets.ids)) != len(naturals):
        raise ValueError(f"{count} images have targets, but there are {len(naturals)} images")


def chunks(rows: np.ndarray, size: int | None = None) -> list[np.ndarray]:
    """Rows [M] in parts of at most so many (None: CHUNK), at least one part."""
    size = size or CHUNK
    return [rows[start : start + size] for start in range(0, max(len(rows), 1), size)]


def centred(x: np.ndarray) -> np.ndarray:
    """[M, ...] -> float32 [M, d], each row minus its mean."""
    flat = np.asarray(x, np.float32).reshape(len(x), -1)
    return flat - flat.mean(axis=1, keepdims=True)
