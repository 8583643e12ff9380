"""Loggers: where records of training, search and results go besides the run's folder.

A record is a flat dict. An epoch's has `training` and `epoch` (1, 2, ...) and its numbers; a
search's has `search`, a result's `result`. Anything with `log` and `close` is a logger.
"""

import json
import os
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dsl_jax.files import write_text, writing
from dsl_jax.plain_data import plain
from dsl_jax.values import one_of

LOGGERS = ("console", "tensorboard", "wandb")


class Logger(Protocol):
    """What receives records. Implementations need not inherit from it."""

    def log(self, record: Mapping[str, Any]) -> None:
        """Takes one record."""

    def close(self) -> None:
        """Writes what is still held back."""


class ConsoleLogger:
    """A line a record, on standard output or another stream."""

    def __init__(self, stream: Any = None):
        self._stream = stream

    def log(self, record: Mapping[str, Any]) -> None:
        """Prints the record's names and numbers."""
        name, step, numbers = _parts(record)
        words = [f"{key} {value:.4g}" for key, value in numbers.items()]
        from tqdm import tqdm  # it prints above a progress bar, not inside it

        head = name if step is None else f"{name} {step}"
        tqdm.write(f"{head}: {', '.join(words)}", file=self._stream or sys.stdout)

    def close(self) -> None:
        """Nothing is held back."""


class JsonlLogger:
    """A line of JSON a record, appended to a file, whole and at once."""

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)

    def log(self, record: Mapping[str, Any]) -> None:
        """Appends the record."""
        with writing(self.path), open(self.path, "a") as file:
            file.write(json.dumps(dict(record), default=plain) + "\n")

    def close(self) -> None:
        """Nothing is held back."""


def record_of(line: bytes) -> dict[str, Any] | None:
    """The record in a line that `JsonlLogger` wrote; None: it is damaged, or was cut short."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


class TensorBoardLogger:
    """TensorBoard's event files, a folder a training; needs the extra `dsl_jax[tensorboard]`.

    Epochs that are trained again after an interruption take the place of the first ones.
    """

    def __init__(self, folder: str | os.PathLike):
        try:
            import tensorboardX
        except ImportError as error:
            raise ValueError(
                "logging to TensorBoard needs tensorboardX: pip install tensorboardX"
            ) from error
        self._folder = Path(folder)
        self._open = tensorboardX.SummaryWriter
        self._writers: dict[str, Any] = {}

    def log(self, record: Mapping[str, Any]) -> None:
        """Writes a scalar for each number."""
        name, step, numbers = _parts(record)
        if name not in self._writers:
            self._writers[name] = self._open(
                str(self._folder / name), purge_step=step, filename_suffix=f".{uuid.uuid4().hex}"
            )
        for key, value in numbers.items():
            self._writers[name].add_scalar(key, value, step)

    def close(self) -> None:
        """Writes the last records out."""
        for writer in self._writers.values():
            writer.close()


class WandbLogger:
    """A run of Weights & Biases; needs the extra `dsl_jax[wandb]`.

    Without a network connection: WANDB_MODE=offline, and `wandb sync` later. The run begins with
    the first record, and goes on after an interruption: its name is kept in `wandb-id`. Epochs that
    are trained again are logged again.

    Args:
      folder: where its files go, in a folder `wandb`.
      options: for `wandb.init`, such as project, name, config.
    """

    def __init__(self, folder: str | os.PathLike, **options: Any):
        try:
            import wandb
        except ImportError as error:
            raise ValueError(
                "logging to Weights & Biases needs wandb: pip install wandb"
            ) from error
        self._wandb, self._folder = wandb, Path(folder)
        self._options = {"project": "dsl_jax", **options}
        self._run: Any = None

    def log(self, record: Mapping[str, Any]) -> None:
        """Logs each number; an epoch's under an axis of its training."""
        if self._run is None:
            self._run = self._begin()
        name, step, numbers = _parts(record)
        values = {f"{name}/{key}": value for key, value in numbers.items()}
        if step is None:
            self._run.summary.update(values)
        else:
            self._run.define_metric(f"{name}/*", step_metric=f"{name}/epoch")
            self._run.log(values | {f"{name}/epoch": step})

    def _begin(self) -> Any:
        self._folder.mkdir(parents=True, exist_ok=True)
        note = self._folder / "wandb-id"
        if not (note.exists() and note.read_text()):
            write_text(note, uuid.uuid4().hex[:12])
        return self._wandb.init(
            dir=str(self._folder), id=note.read_text(), resume="allow", **self._options
        )

    def close(self) -> None:
        """Finishes the run."""
        if self._run is not None:
            self._run.finish()


def make_loggers(names: Sequence[str], folder: str | os.PathLike, **options: Any) -> list[Logger]:
    """Loggers by name, whose files go into a folder.

    Args:
      names: of `LOGGERS`.
      folder: the run's.
      options: for `WandbLogger`.

    Raises:
      ValueError: an unknown name, or one whose package is not installed.
    """
    for name in names:
        one_of("logger", name, LOGGERS)
    make: dict[str, Callable[[], Logger]] = {
        "console": ConsoleLogger,
        "tensorboard": lambda: TensorBoardLogger(Path(folder) / "tensorboard"),
        "wandb": lambda: WandbLogger(folder, **options),
    }
    return [make[name]() for name in names]


def _parts(record: Mapping[str, Any]) -> tuple[str, int | None, dict[str, float]]:
    """What a record is about, its epoch (None: it has none), and its numbers."""
    kind = next((key for key in ("training", "search", "result") if key in record), None)
    name = "record" if kind is None else str(record[kind])
    if kind == "search":
        name += f"/{record.get('targets', 'targets')}"
    numbers: dict[str, float] = {}
    for key, value in record.items():
        if key == "epoch" or not _is_numbers(value):
            continue
        if np.ndim(value) == 0:
            numbers[key] = float(value)
        else:
            numbers |= {f"{key}_{i}": float(x) for i, x in enumerate(np.ravel(value))}
    epoch = record.get("epoch")
    return name, None if epoch is None else int(epoch), numbers


def _is_numbers(value: Any) -> bool:
    """Whether it is a number, or a sequence or array of them."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return all(isinstance(x, int | float) for x in value)
    return np.asarray(value).dtype.kind in "biuf"
