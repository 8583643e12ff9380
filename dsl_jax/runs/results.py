"""What comes out of a run, and its way to JSON and back: result.json and results.json."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsl_jax.files import DamagedFile, read_json
from dsl_jax.learning.result import Record, best_epoch

TRAIN_AGAIN = "restore the training's folder from a copy, or delete it, and it is trained again"


@dataclass(frozen=True)
class Trained:
    """What a finished training keeps beside its network; variant, ...: see `steps.Training`."""

    variant: str
    groups: int
    cycle: int
    network: dict[str, Any]  # what its `ConvNet` is built with
    best_epoch: int  # counted from 1; its network is kept
    validation_accuracy: float  # the best epoch's
    images_left_out: int  # training images in no batch
    seconds: float  # of all epochs
    history: list[Record]  # a record an epoch; see `LearnResult`
    weights: str = ""  # `saved.hash_leaves` of the network; "": from before there was one

    @property
    def best(self) -> Record:
        """The record of the best epoch."""
        return best_epoch(self.history)


@dataclass(frozen=True)
class Result:
    """A row of the results, of a training or of a linear probe: results.json.

    Attributes:
      test_accuracy, test_loss, validation_accuracy: a number a seed.
      seconds: of training, all seeds together, with the trainings that this one goes on from.
      kind, role, variant, groups, cycle: see `steps.Training`; a probe is a "reference", and has
        no variant and no groups.
      best_by_validation: whether it is the SGD with the best G by validation.
      candidates, search_seconds: what was searched for it, all seeds together.
    """

    test_accuracy: tuple[float, ...]
    test_loss: tuple[float, ...]
    validation_accuracy: tuple[float, ...]
    seconds: float
    kind: str = "probe"
    role: str = "reference"
    variant: str | None = None
    groups: int | None = None
    cycle: int = 1
    best_by_validation: bool = False
    candidates: int = 0
    search_seconds: float = 0.0


def read_trained(folder: Path) -> Trained | None:
    """The result of a training from its folder; None: it is not finished.

    Raises:
      DamagedFile: nothing is trained again unasked: it may have a copy.
      ValueError: a later version has written it.
    """
    path = folder / "result.json"
    if (values := read_json(path, TRAIN_AGAIN)) is None:
        return None
    known = {field.name for field in dataclasses.fields(Trained)}
    if isinstance(values, dict) and (new := sorted(values.keys() - known)):
        raise ValueError(
            f"{path} has {', '.join(new)}, which this version of dsl_jax does not know: use "
            "the one that wrote it, or a later one"
        )
    try:
        return Trained(**values)
    except TypeError as error:
        raise DamagedFile(path, error, TRAIN_AGAIN) from error


def to_json(results: Mapping[str, Result]) -> dict[str, dict[str, Any]]:
    """Results by name, as plain data."""
    return {name: dataclasses.asdict(result) for name, result in results.items()}


def from_json(values: Mapping[str, Mapping[str, Any]]) -> dict[str, Result]:
    """The results that `to_json` made, also after a way through JSON."""
    found: dict[str, Result] = {}
    for name, row in values.items():
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}
        found[name] = Result(**fields)
    return found
