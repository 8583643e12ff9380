"""A run's folder. The folder IS the run: what is in it is done, running again does the rest.

config.json       what is run
data.json         on which data; see `runs.data`
metrics.jsonl     a record an epoch of every training, and one a result
seed_S/targets    the searched representations; targets_*: those of later cycles, or those
                  per_class, in a file a class
seed_S/sampler.*  a sampler that has learned from them
seed_S/search-*   seconds that a process spent on them
seed_S/NAME/      a training: checkpoints while it runs, then model/ and result.json, and at the end
                  of the run the class that it gives each test image, test_predictions.npz
results.json      of all trainings, once the test images were read
report.md, report.html, *.png
.lock             of what two processes must not do at once, in several folders
"""

import dataclasses
import json
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from dsl_jax.config import RunConfig, from_dict, to_dict
from dsl_jax.files import (
    DamagedFile,
    is_temporary,
    make_folder,
    read_arrays,
    read_as,
    read_json,
    refuse_file,
    replacing,
    temporary_name,
    write_json,
    write_text,
)
from dsl_jax.jobs import is_first
from dsl_jax.networks.convnet import ConvNet
from dsl_jax.plain_data import differences
from dsl_jax.runs.class_files import KeptClasses, open_classes
from dsl_jax.runs.loggers import JsonlLogger, Logger, record_of
from dsl_jax.runs.results import Result, Trained, from_json, read_trained, to_json
from dsl_jax.runs.saved import Checkpoints, load_network, save_network
from dsl_jax.runs.steps import is_per_class
from dsl_jax.targets.store import TargetStore

PREDICTIONS = "test_predictions.npz"

logger = logging.getLogger(__name__)


class RunFolder:
    """The folder of one run, bound to one configuration.

    Of a job's processes the first alone writes records.

    Args:
      folder: made if it is not there.
      config: what is run.
      requested: the dataset that was asked for, where `config.dataset` took its place.
      loggers: what receives every record besides metrics.jsonl.

    Raises:
      ValueError: the folder holds another configuration (the fields that differ are named), or
        something that is not a run, or cannot be written.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        config: RunConfig,
        requested: str | None = None,
        loggers: Sequence[Logger] = (),
    ):
        self.folder = Path(folder).expanduser()
        self.config = config
        self._loggers = (JsonlLogger(self.folder / "metrics.jsonl"), *loggers)
        prepare_folder(self.folder)
        if _read_config(self.folder) is None:
            write_json(self.folder / "config.json", _plain(config, requested), only_new=True)
        # It is that of another process, if that was first.
        check_folder(self.folder, config, requested)

    # ---- metrics

    def log(self, record: dict[str, Any]) -> None:
        """Appends a record to metrics.jsonl, and hands it to the loggers."""
        for logger in self._loggers if is_first() else ():
            logger.log(record)

    def forget(self, training: str, after_epoch: int) -> None:
        """Takes back the records of epochs that will be trained again after an interruption."""
        self._keep(lambda r: r.get("training") != training or r.get("epoch", 0) <= after_epoch)

    def forget_evaluation(self) -> None:
        """Takes back the records of searches and results, which will be made again."""
        self._keep(lambda r: "training" in r)

    def _keep(self, is_kept: Callable[[dict[str, Any]], bool]) -> None:
        """Takes back the other records, and lines that are damaged or were cut short."""
        path = self.folder / "metrics.jsonl"
        if not (is_first() and path.exists()):
            return
        kept = []
        for line in path.read_bytes().splitlines():
            if (record := record_of(line)) is not None and is_kept(record):
                kept.append(line.decode())
        write_text(path, "".join(line + "\n" for line in kept))

    # ---- trainings

    def training(self, name: str) -> Path:
        """The folder of a training, such as "seed_0/all_layers"."""
        return make_folder(self.folder / name)

    def finished(self, name: str) -> Trained | None:
        """The result of a training that is done, or None."""
        return read_trained(self.folder / name)

    def network(self, name: str) -> ConvNet:
        """The network of a training that is done."""
        if (trained := self.finished(name)) is None:
            raise ValueError(f"{name} is not trained yet in {self.folder}")
        return load_network(self.folder / name, trained)

    def finish(self, name: str, network: nnx.Module, trained: Trained) -> None:
        """Keeps a trained network and its result; its checkpoints are no longer needed."""
        folder = self.training(name)
        trained = dataclasses.replace(trained, weights=save_network(folder / "model", network))
        write_json(folder / "result.json", dataclasses.asdict(trained))
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)

    def checkpoints(self, name: str) -> Checkpoints:
        """Where a training keeps its state; when it begins, epochs to come are forgotten."""
        return Checkpoints(
            self.training(name) / "checkpoints",
            on_begin=lambda epoch: self.forget(name, after_epoch=epoch),
        )

    def keep_predictions(self, name: str, predictions: np.ndarray) -> None:
        """Keeps the classes [N] that a trained network gives the test images, in few bytes."""
        with replacing(self.folder / name / PREDICTIONS) as file:
            smallest = np.min_scalar_type(predictions.max())
            np.savez_compressed(file, predictions=predictions.astype(smallest))

    # ---- the whole run

    def note_search(self, seed: int, name: str, process: str, seconds: float) -> None:
        """Notes how long one process, known by a name of its own, has searched these targets."""
        path = self.folder / f"seed_{seed}" / f"search-{name}-{process}.json"
        write_json(path, {"seconds": seconds})

    def results(self) -> dict[str, Result] | None:
        """The results by name of training, or None if the run is not finished.

        A damaged file is none, with a warning: what it held can be evaluated again.
        """
        try:
            return read_results(self.folder)
        except DamagedFile as error:
            logger.warning("%s", error)
            return None

    def keep_results(self, results: dict[str, Result]) -> None:
        """Ends the run."""
        write_json(self.folder / "results.json", to_json(results))


def forget_results(folder: Path) -> None:
    """The run has not ended, since something of it is to be done again: no results, no report."""
    for name in ("report.md", "results.json"):
        (folder / name).unlink(missing_ok=True)


def read_results(folder: Path) -> dict[str, Result] | None:
    """The results of a finished run by name of training, or None. Raises DamagedFile."""
    return read_as(folder / "results.json", from_json, "evaluating again")


def read_predictions(training: Path) -> np.ndarray | None:
    """The classes [N] of the test images that `keep_predictions` kept in a training's folder."""
    path = training / PREDICTIONS
    if not path.exists():
        return None
    return read_arrays(path, "delete it and results.json, to evaluate again")["predictions"]


def search_seconds(folder: Path, seed: int, name: str | None = None) -> float:
    """Seconds that all processes together spent on a search, interrupted ones included.

    None: on all searches of the seed. A damaged note counts as none, with a warning.
    """
    notes = (folder / f"seed_{seed}").glob(f"search-{name}-*.json" if name else "search-*.json")
    return sum(map(_noted_seconds, notes))


def _noted_seconds(path: Path) -> float:
    try:
        return read_as(path, lambda note: note["seconds"], "its seconds are not counted") or 0.0
    except DamagedFile as error:
        logger.warning("%s", error)
        return 0.0


def find_targets(folder: Path, seed: int, name: str) -> TargetStore | KeptClasses | None:
    """The targets of one search; None where it had no image to search."""
    path = folder / f"seed_{seed}" / name
    return open_search(path) if path.exists() else None


def open_search(path: Path) -> TargetStore | KeptClasses:
    """What a search keeps in its folder."""
    return open_classes(path) if is_per_class(path.name) else TargetStore.open(path)


def open_complete(path: Path) -> TargetStore:
    """The targets of a search per image.

    Raises:
      FileNotFoundError: there are none, or not yet those of all images.
    """
    needed = f"{path}: not all images have been searched: run phase 'search' first"
    try:
        found = TargetStore.open(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(needed) from error
    if not found.is_complete:
        raise FileNotFoundError(needed)
    return found


def prepare_folder(folder: str | os.PathLike) -> None:
    """Makes a run's folder.

    Raises:
      ValueError: it cannot be written, or holds something that is not a run.
    """
    folder = Path(folder)
    try:
        make_folder(folder)
        probe = temporary_name(folder / "probe")
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(
            f"cannot write the folder {folder} ({error.strerror}): choose another folder"
        ) from error
    _refuse_what_is_no_run(folder)


def check_folder(
    folder: str | os.PathLike, config: RunConfig, requested: str | None = None
) -> None:
    """Changes nothing.

    Raises:
      ValueError: the folder holds another run (the fields that differ are named), or something
        that is not a run.
    """
    folder = Path(folder)
    _refuse_what_is_no_run(folder)
    for seed in config.seeds:
        refuse_file(folder / f"seed_{seed}")
    theirs = _read_config(folder)
    if theirs is not None and (changed := differences(_plain(config, requested), theirs)):
        raise ValueError(
            f"{folder} holds another run: {'; '.join(changed)}. "
            "Choose another folder, or repeat that run's settings"
        )


def _refuse_what_is_no_run(folder: Path) -> None:
    # Listed first: config.json is a run's first file, and another process may just begin it.
    found = folder.iterdir() if folder.is_dir() else ()
    names = [path for path in found if not is_temporary(path)]
    if names and not (folder / "config.json").exists():
        raise ValueError(f"{folder} is not empty and holds no run: choose another folder")


def finished_report(
    folder: str | os.PathLike, config: RunConfig, requested: str | None = None
) -> Path | None:
    """The report of this run if it is finished, found without loading any data."""
    folder = Path(folder)
    page = folder / "report.md"
    if not all(path.exists() and path.stat().st_size for path in (page, folder / "results.json")):
        return None
    return None if differences(_plain(config, requested), _read_config(folder)) else page


def _plain(config: RunConfig, requested: str | None) -> dict[str, Any]:
    """What config.json holds."""
    plain = {"config": to_dict(config), "requested_dataset": requested or config.dataset}
    return json.loads(json.dumps(plain))


def read_config(folder: Path) -> RunConfig | None:
    """What a folder's run is made of; None: it holds none. Raises DamagedFile."""
    path, remedy = folder / "config.json", "restore it from a copy"
    return read_as(path, lambda saved: from_dict(saved["config"]), remedy)


def _read_config(folder: Path) -> dict[str, Any] | None:
    """What config.json holds, fields that are newer than it with their defaults."""
    saved = read_json(folder / "config.json", "restore it, or choose another folder")
    try:
        return saved and _plain(from_dict(saved["config"]), saved["requested_dataset"])
    except (AttributeError, KeyError, TypeError, ValueError):  # of another version: as it is
        return saved
