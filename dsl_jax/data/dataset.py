"""Datasets as arrays in memory: splits and normalisation.

Letters in shapes: N images, H rows, W columns, C channels.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from dsl_jax.devices import Array
from dsl_jax.inputs import as_array, check_distinct, check_labels, check_num_classes, count_classes
from dsl_jax.keys import check_seed
from dsl_jax.reprs import short_repr
from dsl_jax.values import whole_number


class Split(NamedTuple):
    """Images of one split, in the order in which they are used.

    Attributes:
      images: uint8 [N, H, W, C].
      labels: int32 [N].
      ids: int64 [N], the image's row in the source split (of validation images: in its train).
    """

    images: np.ndarray
    labels: np.ndarray
    ids: np.ndarray

    def rows(self, rows: slice | np.ndarray) -> "Split":
        """Some of the images, in the order of `rows`."""
        return Split(*(array[rows] for array in self))

    def __repr__(self) -> str:
        return short_repr(self, **self._asdict())


def normalize_pixels(images: Array, mean: Sequence[float], std: Sequence[float]) -> Array:
    """(images / 255 - mean) / std for each channel of uint8 [..., H, W, C], as float32."""
    channels = (1,) * (images.ndim - 1) + (-1,)
    means, stds = (np.asarray(values, np.float32).reshape(channels) for values in (mean, std))
    return (images.astype(np.float32) / np.float32(255) - means) / stds


@dataclass(frozen=True, eq=False)
class Dataset:
    """Train, validation and test images, and how to normalise them.

    Attributes:
      name: as in `catalogue.CATALOGUE`, or one's own.
      num_classes: labels go from 0 to this minus 1.
      mean: of each channel over the training split, pixels scaled to 0..1.
      std: likewise its standard deviation; 1 for a channel that never changes.
      title: the name for people.
      class_names: of the classes in order, or none, see `class_titles`.
      train: the images to search and to train on.
      test: read once, at the end.
      validation: held out from the source's training images, and never trained on (paper 4.2).
    """

    name: str
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train: Split = field(repr=False)
    validation: Split = field(repr=False)
    test: Split = field(repr=False)
    title: str = ""
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        plain = {
            "title": self.title or self.name,
            "num_classes": check_num_classes(self.num_classes),
            "mean": tuple(map(float, self.mean)),
            "std": tuple(map(float, self.std)),
        }
        for name, value in plain.items():
            object.__setattr__(self, name, value)
        channels = self.image_shape[-1]
        if len(self.mean) != channels or len(self.std) != channels:
            raise ValueError(
                f"mean {self.mean} and std {self.std}: give one number for each of {channels} "
                "channels"
            )
        if not (np.isfinite([self.mean, self.std]).all() and min(self.std) > 0):
            raise ValueError(
                f"mean {self.mean} and std {self.std}: they must be finite, std above 0"
            )
        if len(self.class_names) not in (0, self.num_classes):
            raise ValueError(
                f"{self.name}: {len(self.class_names)} class_names for {self.num_classes} classes: "
                "give one for each, or none"
            )

    @property
    def class_titles(self) -> tuple[str, ...]:
        """What to call the classes: their names, or where there are none, their numbers."""
        return self.class_names or tuple(map(str, range(self.num_classes)))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return self.train.images.shape[1:]

    def normalize(self, images: Array) -> Array:
        """(images / 255 - mean) / std for each channel.

        Args:
          images: uint8 [..., H, W, C], NumPy or JAX, traced or not.

        Returns:
          float32 of the same shape, of the same library.

        Raises:
          ValueError: not uint8 (already normalised?), or not this dataset's [..., H, W, C].
        """
        if images.dtype != np.uint8:
            raise ValueError(f"images are {images.dtype}: normalize takes uint8, once")
        if images.shape[-3:] != self.image_shape:
            raise ValueError(f"images are {images.shape}, {self.name} has {self.image_shape}")
        return normalize_pixels(images, self.mean, self.std)

    @classmethod
    def from_arrays(
        cls,
        name: str,
        train: tuple[Any, Any],
        test: tuple[Any, Any],
        *,
        num_classes: int | None = None,
        validation_size: int | None = None,
        num_train: int | None = None,
        seed: int = 0,
    ) -> "Dataset":
        """A dataset of one's own arrays; the validation split is taken from `train`.

        Args:
          name: what to call it.
          train, test: (images uint8 [N, H, W, C], integer labels [N] from 0 to num_classes - 1).
          num_classes: at least 2; None: the largest label plus one, with a warning if any has no
            image.
          validation_size: images held out; None: 8 % of those taken, at least 1.
          num_train: images taken from `train`, validation images among them; None: all.
          seed: of the permutation. The images taken are its first num_train, so a smaller number
            gives a subset; the first validation_size of them are the validation images, so what a
            smaller run holds out, a larger one that holds out no fewer does not train on.

        Raises:
          ValueError: shapes, dtypes, labels or sizes that do not fit; the message names the value.
          TypeError: what is no pair, or no integer.

        Warns:
          UserWarning: a class that no training image has, or all have; images that look like
            [N, C, H, W].
        """
        for what, pair in (("train", train), ("test", test)):
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise TypeError(f"{what} is a {type(pair).__name__}: give (images, labels)")
        train_images = _checked_images(f"{name} train", train[0])
        test_images = _checked_images(f"{name} test", test[0])
        if train_images.shape[1:] != test_images.shape[1:]:
            raise ValueError(
                f"{name}: train images are {train_images.shape[1:]}, "
                f"test images {test_images.shape[1:]}: they must be of one shape"
            )
        sizes = len(train_images), len(test_images)
        labels = {f"{name} train labels": train[1], f"{name} test labels": test[1]}
        (train_labels, test_labels), num_classes = _checked_labels(name, labels, sizes, num_classes)
        num_train, validation_size = split_sizes(name, sizes[0], num_train, validation_size)
        check_seed(whole_number("seed", seed))
        taken = np.random.default_rng(seed).permutation(len(train_images))[:num_train]
        validation = _take(train_images, train_labels, taken[:validation_size])
        training = _take(train_images, train_labels, taken[validation_size:])
        _warn_of_classes(name, train_labels, training.labels, validation.labels)
        mean, std = _channel_statistics(training.images)
        everything = np.arange(len(test_images))
        return cls(
            name=name,
            num_classes=num_classes,
            mean=mean,
            std=std,
            train=training,
            validation=validation,
            test=_take(test_images, test_labels, everything),
        )


# --------------------------------------------------------------------------------------------
# Checks, splits, statistics
# --------------------------------------------------------------------------------------------


def _checked_images(what: str, images: Any) -> np.ndarray:
    """Images as an array. Raises ValueError unless they are uint8 [N, H, W, C], at least one."""
    images = np.asarray(as_array(f"{what} images", images))
    if images.dtype != np.uint8:
        raise ValueError(f"{what} images are {images.dtype}: they must be uint8, 0 to 255")
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(
            f"{what} images are {images.shape}: they must be [N, H, W, C] and not empty "
            f"(grey images: images[..., None])"
        )
    _, height, width, channels = images.shape
    if height in (1, 3) and channels > 4 and width > 4:
        warnings.warn(
            f"{what} images are {images.shape}, taken for {channels} channels: if they are "
            "[N, C, H, W], give images.transpose(0, 2, 3, 1)",
            stacklevel=3,
        )
    return images


def _checked_labels(
    name: str, labels: dict[str, Any], sizes: tuple[int, int], num_classes: int | None
) -> tuple[list[np.ndarray], int]:
    """Labels of train and test images, int32 [N] each, and the number of their classes.

    Raises:
      ValueError: see `inputs.check_labels`, `inputs.count_classes` and `inputs.check_num_classes`.

    Warns:
      UserWarning: the number was not given, and a class has no image to train on.
    """
    is_given = num_classes is not None
    if num_classes is None:
        counts = zip(labels.items(), sizes, strict=True)
        num_classes = max(
            count_classes(y, size, most_images=max(sizes), what=what) for (what, y), size in counts
        )
    num_classes = check_num_classes(num_classes)
    checked = [
        check_labels(y, size, num_classes, what=what)
        for (what, y), size in zip(labels.items(), sizes, strict=True)
    ]
    absent = [] if is_given else np.setdiff1d(np.arange(num_classes), checked[0]).tolist()
    if absent:
        warnings.warn(
            f"{name}: no training image has the labels {absent[:5]}; labels count from 0. "
            f"If there are {num_classes} classes all the same: num_classes={num_classes}",
            stacklevel=3,
        )
    return checked, num_classes


def _warn_of_classes(
    name: str, given: np.ndarray, training: np.ndarray, validation: np.ndarray
) -> None:
    """Warns where classes cannot be learned.

    Args:
      given: the labels of all images that the training and validation images were taken from.
      training, validation: labels of the splits.
    """
    if lost := np.setdiff1d(validation, training).tolist():
        warnings.warn(
            f"{name}: all images of the classes {lost[:5]} fell into the validation split, so that "
            "none is trained on: take another seed or validation_size, or more images",
            stacklevel=3,
        )
    if (given == given[0]).all():
        warnings.warn(
            f"{name}: all training images are of class {given[0]}: there is nothing to learn",
            stacklevel=3,
        )


def split_sizes(
    name: str, available: int, num_train: int | None, validation_size: int | None
) -> tuple[int, int]:
    """(images taken, validation images among them), from what is asked for.

    Args:
      name: the dataset's, for errors.
      available: training images that there are.
      num_train, validation_size: as in `Dataset.from_arrays`.

    Raises:
      ValueError: a size that does not fit.
    """
    num_train = available if num_train is None else whole_number("num_train", num_train)
    if not 1 <= num_train <= available:
        raise ValueError(
            f"num_train is {num_train}: {name} has {available} training images, "
            f"so it must be between 1 and {available}"
        )
    if validation_size is None:
        validation_size = max(1, num_train * 8 // 100)
    validation_size = whole_number("validation_size", validation_size)
    if not 0 <= validation_size < num_train:
        raise ValueError(
            f"validation_size is {validation_size}: it is held out from {num_train} images and "
            f"must be between 0 and {num_train - 1}, so that at least 1 is left to train on"
        )
    return num_train, validation_size


def _take(images: np.ndarray, labels: np.ndarray, rows: np.ndarray) -> Split:
    return Split(images[rows], labels[rows].astype(np.int32), rows.astype(np.int64))


def _channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, pixels scaled to 0..1, from exact counts."""
    means, deviations = [], []
    values = np.arange(256) / 255
    for channel in range(images.shape[-1]):
        counts = np.bincount(images[..., channel].ravel(), minlength=256)
        share = counts / counts.sum()
        mean = float(share @ values)
        means.append(mean)
        deviations.append(float(np.sqrt(share @ (values - mean) ** 2)) or 1.0)
    return tuple(means), tuple(deviations)


def rows_of(ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where each of `wanted` [M] stands in `ids` [N]; -1 for one that does not.

    Raises:
      ValueError: two of `ids` are alike.
    """
    check_distinct(ids, "a set of targets")
    row_of = {int(number): row for row, number in enumerate(ids)}
    return np.array([row_of.get(int(number), -1) for number in wanted], np.int64)
