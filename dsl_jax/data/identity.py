"""What tells one dataset from another: kept with what was made from it."""

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dsl_jax.data.dataset import Dataset, Split
from dsl_jax.plain_data import differences

_DIGITS = 16  # of the checksum, to compare and to show


@dataclass(frozen=True)
class DataIdentity:
    """What a `Dataset` is, in a few values; plain data but for the tuples.

    Attributes:
      name, title, image_shape, num_classes: the dataset's.
      mean, std: with which it is normalised, rounded to float32 as there.
      train, validation, test: images of each split.
      sha256: of the images, labels and ids of all splits, in their order.
    """

    name: str
    title: str
    image_shape: tuple[int, ...]
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train: int
    validation: int
    test: int
    sha256: str

    @classmethod
    def of(cls, dataset: Dataset) -> "DataIdentity":
        """That of a dataset; reads all of its images once."""
        return cls(
            name=dataset.name,
            title=dataset.title,
            image_shape=tuple(map(int, dataset.image_shape)),
            num_classes=int(dataset.num_classes),
            mean=_as_float32(dataset.mean),
            std=_as_float32(dataset.std),
            train=len(dataset.train.images),
            validation=len(dataset.validation.images),
            test=len(dataset.test.images),
            sha256=checksum(dataset.train, dataset.validation, dataset.test),
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "DataIdentity":
        """What `dataclasses.asdict` wrote, also after a way through JSON. Raises TypeError."""
        lists = {name: tuple(v) for name, v in values.items() if isinstance(v, list)}
        return cls(**{**values, **lists})

    def differences(self, dataset: Dataset) -> list[str]:
        """In what a dataset is another one than this, a line each; the title does not count."""
        return differences(DataIdentity.of(dataset)._compared(), self._compared())

    def _compared(self) -> dict[str, Any]:
        values = dataclasses.asdict(self) | {"sha256": self.sha256[:_DIGITS]}
        return {name: value for name, value in values.items() if name != "title"}


def _as_float32(values: Any) -> tuple[float, ...]:
    return tuple(np.asarray(values, np.float32).tolist())


def checksum(*splits: Split) -> str:
    """A hash of the images, labels and ids of splits, in their order; reads all of them once."""
    digest = hashlib.sha256()
    for split in splits:
        labels, ids = (np.asarray(values, np.int64) for values in (split.labels, split.ids))
        for array in (np.asarray(split.images), labels, ids):
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
