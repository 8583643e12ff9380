"""What users hand in, images, labels and ids: each is checked here, wherever it comes in.

Letters: N images, C classes.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dsl_jax.values import whole_number

# Labels that count from 0 have no more classes than this, or than there are images.
MOST_CLASSES_UNASKED = 1000


def as_array(what: str, values: Any) -> Any:
    """NumPy's or JAX's array [N, ...] of numbers.

    Raises:
      ValueError: it is none, and cannot be made one.
    """
    if not isinstance(values, jax.Array):
        values = _on_host(what, values)
    if not values.ndim or not jnp.issubdtype(values.dtype, jnp.number):
        raise ValueError(
            f"{what} are {values.dtype}{list(values.shape)}: give an array [N, ...] of numbers"
        )
    return values


def _on_host(what: str, values: Any) -> np.ndarray:
    """Values as a NumPy array. Raises ValueError where they are none, such as a ragged list."""
    try:
        return np.asarray(values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} cannot be made an array: {error}") from error


def check_floating(images: Any) -> None:
    """Raises ValueError for images of integers, as they come from a source."""
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images are {images.dtype}: normalise them first (Dataset.normalize)")


def check_images(images: Any, ids: np.ndarray | None = None) -> None:
    """Images as a network takes them: normalised.

    Args:
      images: [N, ...], NumPy or JAX.
      ids: [N], by which an error names them; None: their rows.

    Raises:
      ValueError: not floating, or with values that are not finite; names the first such images.
    """
    check_floating(images)
    finite: Any = jnp.isfinite if isinstance(images, jax.Array) else np.isfinite
    fine = np.asarray(finite(images).all(axis=tuple(range(1, images.ndim))))
    if not fine.all():
        bad = np.flatnonzero(~fine)
        names = bad if ids is None else ids[bad]
        raise ValueError(
            f"images have values that are not finite in {len(bad)} of {len(images)}, ids "
            f"{names[:5].tolist()}: mend them or leave them out"
        )


def check_labels(
    labels: Any, num_images: int, num_classes: int, *, what: str = "labels", reason: str = ""
) -> np.ndarray:
    """Labels as int32 [N].

    Args:
      labels: [N] integers from 0 to C - 1.
      num_images, num_classes: N and C.
      what: what an error calls them.
      reason: what it says of C; empty: "num_classes is C".

    Raises:
      ValueError: another number than N or none, not integers, or out of range.
    """
    labels = _integers(labels, num_images, what)
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"{what} go from {labels.min()} to {labels.max()}: they must lie between 0 and "
            f"{num_classes - 1} ({reason or f'num_classes is {num_classes}'})"
        )
    return labels.astype(np.int32)


def count_classes(
    labels: Any, num_images: int, *, most_images: int = 0, what: str = "labels"
) -> int:
    """The largest of the labels [N] plus one, where that can be meant for a number of classes.

    Args:
      labels: [N].
      num_images: N.
      most_images: of the largest split, if this is another one.
      what: what errors call the labels.

    Raises:
      ValueError: see `check_labels`; or labels so large that they must be something else.
    """
    most = int(_integers(labels, num_images, what).max())
    if most >= max(num_images, most_images, MOST_CLASSES_UNASKED):
        raise ValueError(
            f"{what} go up to {most} for {num_images} images, as ids do: number the classes from "
            "0, by numpy.unique(labels, return_inverse=True)[1]; or give num_classes"
        )
    return most + 1


def check_num_classes(num_classes: Any) -> int:
    """The number of classes as a plain integer.

    Raises:
      ValueError: below 2, where there is nothing to tell apart, or above what int32 holds.
      TypeError: not an integer.
    """
    number = whole_number("num_classes", num_classes)
    if not 2 <= number < 2**31:
        raise ValueError(f"num_classes is {number}: it must be at least 2, and below 2**31")
    return number


def check_ids(ids: Any, num_images: int) -> np.ndarray:
    """ids as int64 [N], or 0 .. N-1 for None.

    Raises:
      ValueError: another number than N, not integers, below 0, or from 2**32 on, where
        `fold_in` would give two images the same random numbers.
    """
    if ids is None:
        return np.arange(num_images)
    ids = _on_host("ids", ids)
    if ids.shape != (num_images,) or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"ids {ids.dtype}{list(ids.shape)}: need {num_images} integers")
    if ids.size and (ids.min() < 0 or ids.max() >= 2**32):
        raise ValueError(f"ids go from {ids.min()} to {ids.max()}: need 0 to {2**32 - 1}")
    return ids.astype(np.int64)


def check_distinct(ids: np.ndarray, what: str) -> None:
    """Raises ValueError for ids [N] of which two are alike, so that targets could be mixed up."""
    values, counts = np.unique(ids, return_counts=True)
    if twice := values[counts > 1].tolist():
        raise ValueError(
            f"{what} has {len(twice)} ids more than once, {twice[:5]}: an id is one image's; where "
            "several sources are joined, number all of their images in a row"
        )


def _integers(labels: Any, num_images: int, what: str) -> np.ndarray:
    """Labels as an array of integers [N], of any range."""
    labels = _on_host(what, labels)
    if labels.shape != (num_images,) or not num_images:
        raise ValueError(
            f"{what} are {labels.shape}: {num_images} images need one each, at least 1"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{what} are {labels.dtype}: they must be integers, counted from 0")
    return labels
