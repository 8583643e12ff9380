"""A run read back from its folder."""

import os
from pathlib import Path
from typing import Any, NamedTuple

from dsl_jax.config import RunConfig, from_dict
from dsl_jax.data.dataset import Dataset
from dsl_jax.data.load import load_dataset
from dsl_jax.files import read_json
from dsl_jax.learning.train import Record
from dsl_jax.networks.convnet import ConvNet
from dsl_jax.runs.results import read_trained
from dsl_jax.runs.saved import load_network
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
      targets: "seed_0", and those of later cycles: "seed_0/targets_all_layers_cycle_2".
      history: an epoch's records, by training.
    """

    config: RunConfig
    networks: dict[str, ConvNet]
    targets: dict[str, TargetStore]
    history: dict[str, list[Record]]

    def dataset(self, data_dir: str | os.PathLike | None = None) -> Dataset:
        """The data that it ran on: same images, splits and normalisation.

        Args:
          data_dir: as the run had it, which is not recorded; see `load_dataset`. For one's own
            data, given to `pipeline.run`, there is nothing to load.
        """
        sizes = {name: getattr(self.config, name) for name in ("num_train", "validation_size")}
        return load_dataset(self.config.dataset, data_dir=data_dir, **sizes)

    def __repr__(self) -> str:
        return (
            f"LoadedRun({self.config.name} on {self.config.dataset}; networks "
            f"{sorted(self.networks)}; targets {sorted(self.targets)})"
        )


def load_run(folder: str | os.PathLike) -> LoadedRun:
    """Config, trained networks, targets and histories of a run, as far as it has come.

    Raises:
      ValueError: the folder holds no run.
    """
    folder = Path(folder).expanduser()
    saved = read_json(folder / "config.json")
    if saved is None:
        raise ValueError(f"{folder} holds no run: config.json is missing")
    config = from_dict(saved["config"])
    networks, history = Named(), Named()
    for path in sorted(folder.glob("seed_*/*")):
        if (trained := read_trained(path)) is not None:
            name = str(path.relative_to(folder))
            networks[name] = load_network(path, trained.network)
            history[name] = trained.history
    targets = Named()
    for path in sorted(folder.glob("seed_*/targets*")):
        name = path.parent.name if path.name == "targets" else str(path.relative_to(folder))
        targets[name] = TargetStore.open(path)
    return LoadedRun(config, networks, targets, history)
