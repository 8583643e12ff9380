"""Datasets by name."""

import os
from dataclasses import replace
from typing import Any

from dsl_jax.config import MIRRORED_DATASETS as MIRRORED_DATASETS
from dsl_jax.config import TRAINING_IMAGES
from dsl_jax.data.dataset import Dataset
from dsl_jax.data.prepare import DatasetUnavailable, how_to_prepare
from dsl_jax.data.sources import describe_source, is_available, read_source


def load_dataset(
    name: str,
    *,
    data_dir: str | os.PathLike | None = None,
    num_train: int | None = None,
    validation_size: int | None = None,
    seed: int = 0,
) -> Dataset:
    """A dataset by name, from the disk; prepared first when it is not there and can be had.

    Args:
      name: one of `config.DATASETS`.
      data_dir: a folder of prepared tensorflow-datasets; then nothing is downloaded. None: the
        folder in TFDS_DATA_DIR, or ~/tensorflow_datasets. mnist_5k and digits do without.
      num_train, validation_size, seed: as in `Dataset.from_arrays`.

    Raises:
      DatasetUnavailable: not prepared, and preparing failed; says what to do.
      ValueError: an unknown name, a size that does not fit, or a data_dir without the dataset or
        with a damaged copy.
    """
    source = read_source(name, data_dir)
    dataset = Dataset.from_arrays(
        name,
        source.train,
        source.test,
        num_classes=source.num_classes,
        validation_size=validation_size,
        num_train=num_train,
        seed=seed,
    )
    return replace(dataset, title=source.title)


def may_substitute(name: str, preset: str, data_dir: str | os.PathLike | None) -> bool:
    """Whether mnist_5k takes a dataset's place where that cannot be had."""
    return name == "mnist" and data_dir is None and preset in ("smoke", "laptop")


def describe_data(name: str, preset: str, data_dir: str | os.PathLike | None = None) -> str:
    """Where `load_or_substitute` would take a dataset from, in a few words; nothing is read."""
    text = describe_source(name, data_dir)
    if not is_available(name, data_dir) and may_substitute(name, preset, data_dir):
        text += "; mnist_5k takes its place"
    return text


def load_or_substitute(
    name: str,
    *,
    data_dir: str | os.PathLike | None = None,
    preset: str,
    num_train: int | None = None,
    validation_size: int | None = None,
    seed: int = 0,
) -> tuple[Dataset, str | None]:
    """`load_dataset`, but a small run of mnist that cannot be had goes on with mnist_5k.

    Args:
      preset: "smoke" and "laptop" may be given mnist_5k in place of mnist; "paper" never.
      data_dir, num_train, validation_size, seed: as in `load_dataset`; a num_train that is larger
        than mnist_5k is clipped. With a data_dir nothing is substituted.

    Returns:
      The dataset, and a notice that must be shown wherever its numbers are; None: nothing was
      substituted.

    Raises:
      DatasetUnavailable, ValueError: as `load_dataset`.
    """
    sizes: dict[str, Any] = {"validation_size": validation_size, "seed": seed}
    try:
        return load_dataset(name, data_dir=data_dir, num_train=num_train, **sizes), None
    except DatasetUnavailable as error:
        if not may_substitute(name, preset, data_dir):
            raise
        reason = error.reason
    available = TRAINING_IMAGES["mnist_5k"]
    clipped = num_train if num_train is None else min(num_train, available)
    notice = (
        f"NOT MNIST: this run uses mnist_5k, the MNIST 5,000-image sample "
        f"({available:,} images to train on, 1,000 to test), so its numbers are not MNIST's. "
        f"Why: mnist is not prepared, and {reason}. To get the full set: {how_to_prepare()}, "
        f"or give the folder of a prepared copy, --data_dir=FOLDER; "
        f"with another --output_dir, if you gave one."
    )
    if clipped != num_train:
        notice += f" num_train {num_train:,} is clipped to the {clipped:,} there are."
    return load_dataset("mnist_5k", num_train=clipped, **sizes), notice
