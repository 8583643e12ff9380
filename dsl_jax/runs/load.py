"""A run read back from its folder."""

import contextlib
import os
from pathlib import Path
from typing import Any, NamedTuple

from dsl_jax.config import RunConfig
from dsl_jax.data.dataset import Dataset
from dsl_jax.data.identity import DataIdentity
from dsl_jax.learning.result import Record
from dsl_jax.networks.convnet import ConvNet
from dsl_jax.runs.class_files import KeptClasses
from dsl_jax.runs.data import load_data, read_identity
from dsl_jax.runs.folder import open_search, read_config
from dsl_jax.runs.results import read_trained
from dsl_jax.runs.saved import load_network
from dsl_jax.runs.steps import FIRST_TARGETS, PER_CLASS
from dsl_jax.targets.store import TargetStore


class Named(dict[str, Any]):
    """By name; a name that is not there is answered by those that are."""

    def __missing__(self, name: str) -> Any:
        there = ", ".join(map(repr, sorted(self))) or "none yet"
        raise KeyError(f"{name!r} is not in this run; there are: {there}")


class LoadedRun(NamedTuple):
    """A run read back.

    Attributes:
      config: what was run.
      networks: by training, such as "seed_0/all_layers".
      targets: "seed_0", and those of later cycles: "seed_0/targets_all_layers_cycle_2". Of a
        search per class what was found for each.
      history: an epoch's records, by training.
      data: what the folder keeps of its data; None: it was begun before that was kept.
    """

    config: RunConfig
    networks: dict[str, ConvNet]
    targets: dict[str, TargetStore | KeptClasses]
    history: dict[str, list[Record]]
    data: DataIdentity | None = None

    def dataset(
        self, mine: Dataset | None = None, *, data_dir: str | os.PathLike | None = None
    ) -> Dataset:
        """The data that it ran on: same images, splits and normalisation.

        Args:
          mine: one's own data, which nothing can load; given back if they are those of the run.
          data_dir: as the run had it, which is not recorded; see `load_dataset`.

        Raises:
          ValueError: they are other data (what differs is named), or one's own and not given; or
            as `load_dataset`.
        """
        if mine is None:
            return load_data(self.config, self.data, data_dir)
        if self.data is not None and (changed := self.data.differences(mine)):
            raise ValueError(f"the run is on other data than these: {'; '.join(changed)}")
        return mine

    def __repr__(self) -> str:
        name = self.config.dataset if self.data is None else self.data.name
        return (
            f"LoadedRun({self.config.name} on {name}; networks "
            f"{sorted(self.networks)}; targets {sorted(self.targets)})"
        )


def load_run(folder: str | os.PathLike) -> LoadedRun:
    """Config, trained networks, targets and histories of a run, as far as it has come.

    A search that has kept nothing yet, or not all classes, is left out.

    Raises:
      ValueError: the folder holds no run, or a file of it is damaged.
    """
    folder = Path(folder).expanduser()
    if (config := read_config(folder)) is None:
        raise ValueError(f"{folder} holds no run: config.json is missing")
    networks, history = Named(), Named()
    for path in sorted(folder.glob("seed_*/*")):
        if (trained := read_trained(path)) is not None:
            name = str(path.relative_to(folder))
            networks[name] = load_network(path, trained)
            history[name] = trained.history
    targets = Named()
    for path in sorted(folder.glob("seed_*/targets*")):
        is_first = path.name in (FIRST_TARGETS, PER_CLASS)
        name = path.parent.name if is_first else str(path.relative_to(folder))
        with contextlib.suppress(FileNotFoundError):
            found = open_search(path)
            if not isinstance(found, KeptClasses) or not found.missing(config.shared.clusters):
                targets[name] = found
    return LoadedRun(config, networks, targets, history, read_identity(folder))
