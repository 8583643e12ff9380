"""The data of a run: what its folder keeps of them, so that no others take their place.

data.json, written before anything is computed. A run that was begun before there was such a file
has none, and is not checked.
"""

import dataclasses
import os
from pathlib import Path
from typing import Any

from dsl_jax.config import RunConfig
from dsl_jax.data import catalogue
from dsl_jax.data.dataset import Dataset
from dsl_jax.data.identity import DataIdentity
from dsl_jax.data.load import load_dataset
from dsl_jax.files import read_as, write_json

_REMEDY = "restore it from a copy, or delete it, and the data are no longer checked"


def read_identity(folder: Path) -> DataIdentity | None:
    """What a run keeps of its data; None: nothing.

    Raises:
      DamagedFile: the file cannot be read as such.
    """
    return read_as(folder / "data.json", DataIdentity.from_dict, _REMEDY)


def keep_identity(folder: Path, dataset: Dataset) -> None:
    """Notes what the data are, if nothing is computed yet.

    Raises:
      ValueError: the run is on other data; what differs is named.
    """
    if read_identity(folder) is None and not _is_begun(folder):
        values = dataclasses.asdict(DataIdentity.of(dataset))
        write_json(folder / "data.json", values, only_new=True)
    # It is that of another process, if that was first.
    check_identity(folder, dataset)


def check_identity(folder: Path, dataset: Dataset) -> None:
    """Changes nothing.

    Raises:
      ValueError: the run is on other data; what differs is named.
    """
    kept = read_identity(folder)
    if kept is not None and (changed := kept.differences(dataset)):
        raise ValueError(
            f"{folder} holds a run on other data: {'; '.join(changed)}. "
            "Choose another folder, or give that run its own data"
        )


def load_run_data(folder: str | os.PathLike, config: RunConfig) -> Dataset:
    """The data of the run in a folder, or of one to be begun there; see `load_data`."""
    return load_data(config, read_identity(Path(folder)))


def load_data(
    config: RunConfig, kept: DataIdentity | None, data_dir: str | os.PathLike | None = None
) -> Dataset:
    """The data of a run by their name.

    Args:
      config: the run's.
      kept: what its folder keeps of its data; None: nothing.
      data_dir: as in `load_dataset`.

    Raises:
      ValueError: they are one's own, or not those that the run was on; or as `load_dataset`.
    """
    name = config.dataset if kept is None else kept.name
    if kept is not None and not _may_be_loaded(kept):
        raise ValueError(f"the run is on data of one's own, called {name!r}: hand them over")
    if name not in catalogue.CATALOGUE:
        raise ValueError(
            f"dataset {name!r} is unknown: choose one of {', '.join(catalogue.CATALOGUE)}, or hand "
            "data of your own over"
        )
    sizes: dict[str, Any] = {"num_train": config.num_train}
    sizes["validation_size"] = config.validation_size
    if kept is not None:
        sizes = {"num_train": kept.train + kept.validation, "validation_size": kept.validation}
    dataset = load_dataset(name, data_dir=data_dir, **sizes)
    if kept is not None and (changed := kept.differences(dataset)):
        raise ValueError(
            f"the run is on other data than load_dataset({name!r}) gives: {'; '.join(changed)}. "
            "Hand its own data over"
        )
    return dataset


def _may_be_loaded(kept: DataIdentity) -> bool:
    """Whether `load_dataset` may give these data: one's own may be called as others are."""
    facts = catalogue.CATALOGUE.get(kept.name)
    if facts is None or kept.image_shape != facts.image_shape:
        return False
    return kept.train + kept.validation <= facts.train_images


def _is_begun(folder: Path) -> bool:
    """Whether something was computed."""
    return (folder / "metrics.jsonl").exists() or any(folder.glob("seed_*/search-*.json"))
