"""Datasets by name."""

import os
from dataclasses import replace
from typing import Any, NamedTuple

from dsl_jax.data import catalogue
from dsl_jax.data.dataset import Dataset
from dsl_jax.data.prepare import DatasetUnavailable
from dsl_jax.data.sources import find_source, read_source

SUBSTITUTE = "mnist_5k"


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
      name: as in `catalogue.CATALOGUE`.
      data_dir: a folder of prepared tensorflow-datasets; then nothing is downloaded. None: the
        folder in TFDS_DATA_DIR, or ~/tensorflow_datasets. mnist_5k and digits do without.
      num_train, validation_size, seed: as in `Dataset.from_arrays`.

    Raises:
      DatasetUnavailable: not prepared, and preparing failed; says what to do.
      ValueError: an unknown name, a size that does not fit, or a data_dir without the dataset or
        with a damaged copy.
    """
    facts = catalogue.facts(name)
    train, test = read_source(name, data_dir)
    dataset = Dataset.from_arrays(
        name,
        train,
        test,
        num_classes=facts.num_classes,
        validation_size=validation_size,
        num_train=num_train,
        seed=seed,
    )
    return replace(dataset, title=facts.title, class_names=facts.class_names)


class Prospect(NamedTuple):
    """What `load_or_substitute` would do, nothing read.

    name: the dataset that it would load, or refuse.
    text: where it would be taken from, in a few words.
    refusal: what it would raise; None: nothing.
    """

    name: str
    text: str
    refusal: ValueError | None = None


def foresee(name: str, preset: str, data_dir: str | os.PathLike | None = None) -> Prospect:
    """What `load_or_substitute` would do with these arguments."""
    text, refusal = find_source(name, data_dir)
    if refusal is None or not _may_substitute(name, preset, data_dir):
        return Prospect(name, text, refusal)
    return Prospect(SUBSTITUTE, f"{text}; {SUBSTITUTE} takes its place")


def _may_substitute(name: str, preset: str, data_dir: str | os.PathLike | None) -> bool:
    return name == "mnist" and data_dir is None and preset in ("smoke", "laptop")


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
        if not _may_substitute(name, preset, data_dir):
            raise
        reason, remedy = error.reason, error.remedy
    facts = catalogue.facts(SUBSTITUTE)
    available = facts.train_images
    clipped = num_train if num_train is None else min(num_train, available)
    notice = (
        f"NOT MNIST: this run uses {SUBSTITUTE}, the {facts.title} "
        f"({available:,} images to train on, {facts.test_images:,} to test), so its numbers are "
        f"not MNIST's. Why: mnist is not prepared, and {reason}. To get the full set: "
        f"{remedy}, or give the folder of a prepared copy, data_dir=FOLDER."
    )
    if clipped != num_train:
        notice += f" num_train {num_train:,} is clipped to the {clipped:,} there are."
    return load_dataset(SUBSTITUTE, num_train=clipped, **sizes), notice
