"""What of a run's folder is damaged, found by reading all of it, and how it is mended.

Not looked at are report and pictures, which are drawn again from the rest, and files that are not
the run's. What is not there yet is no damage.
"""

import contextlib
import functools
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from dsl_jax.config import RunConfig, to_dict
from dsl_jax.files import DamagedFile, read_json, write_text
from dsl_jax.keys import SEARCH, purpose_key
from dsl_jax.plain_data import differences
from dsl_jax.progress import progress_bar
from dsl_jax.runs.class_files import MANIFEST, MANIFEST_REMEDY, class_files, load_class
from dsl_jax.runs.data import read_identity
from dsl_jax.runs.folder import (
    PREDICTIONS,
    forget_results,
    read_config,
    read_predictions,
    read_results,
)
from dsl_jax.runs.loggers import record_of
from dsl_jax.runs.results import read_trained, to_json
from dsl_jax.runs.saved import damaged_checkpoints, load_network
from dsl_jax.runs.steps import is_per_class, searches
from dsl_jax.targets import layout
from dsl_jax.targets.shared_files import read_targets
from dsl_jax.targets.store import TargetStore

logger = logging.getLogger(__name__)


class Damage(NamedTuple):
    """Something of a run that is not as it was written.

    what: says which file, what is wrong with it, and what can be done.
    mend: removes it, so that a run does that part again; None: it cannot be done again.
    """

    what: str
    mend: Callable[[], Any] | None = None

    def __str__(self) -> str:
        return self.what


def verify_run(folder: str | os.PathLike, progress: bool = False) -> list[Damage]:
    """Reads every file of a run, finished or not, and compares checksums and fingerprints.

    Args:
      folder: the run's; nothing in it is changed.
      progress: show a bar.

    Returns:
      What is damaged, [] if all is well.

    Raises:
      ValueError: the folder holds no run.
    """
    folder = Path(folder).expanduser()
    if not (folder / "config.json").exists() and not any(folder.glob("seed_*/")):
        raise ValueError(
            f"{folder} holds no run: give the folder of one (of main.py: --output_dir)"
        )
    config, found = _verify_config(folder)
    searched = sorted(folder.glob("seed_*/targets*/"))
    stores = {path: _num_chunks(path) for path in searched if not is_per_class(path.name)}
    per_class = [path for path in searched if path not in stores]
    classes = [file for path in per_class for file in class_files(path)]
    trainings = sorted(set(folder.glob("seed_*/*/")) - set(searched))
    samplers = sorted(folder.glob("seed_*/sampler.npz"))
    count = sum(stores.values()) + len(classes) + len(samplers) + len(trainings) + 1
    with progress_bar(count, unit="part", description="verify", show=progress) as bar:
        for path in stores:
            found += _verify_store(path, config, bar.update)
        for path in per_class:
            found += _verify_json(path / MANIFEST, MANIFEST_REMEDY)
        for path in classes:
            found += _verify_archive(path, load_class)
            bar.update()
        for path in samplers:
            found += _verify_archive(path, read_targets)
            bar.update()
        for path in trainings:
            found += _verify_training(path)
            bar.update()
        found += _verify_notes(folder)
        bar.update()
    return found


def repair_run(folder: str | os.PathLike, progress: bool = False) -> list[Damage]:
    """Removes what `verify_run` finds damaged, so that the next run does exactly that again.

    Returns:
      What was found. What cannot be done again stays as it is.
    """
    found = verify_run(folder, progress)
    for damage in found:
        logger.warning("%s", damage)
        if damage.mend is not None:
            damage.mend()
    return found


# --------------------------------------------------------------------------------------------
# The parts of a run
# --------------------------------------------------------------------------------------------


def _verify_config(folder: Path) -> tuple[RunConfig | None, list[Damage]]:
    """config.json and data.json."""
    config, found = None, []
    try:
        if (config := read_config(folder)) is None:
            found.append(Damage(f"{folder / 'config.json'} is missing: restore it from a copy"))
    except DamagedFile as error:
        found.append(Damage(str(error)))
    try:
        if read_identity(folder) is None and config is not None:
            found.append(
                Damage(
                    f"{folder / 'data.json'} is missing, so the data are not checked: restore it "
                    "from a copy"
                )
            )
    except DamagedFile as error:
        found.append(Damage(str(error)))
    return config, found


def _num_chunks(path: Path) -> int:
    """How many chunks a store has; 0: it cannot be opened."""
    try:
        return TargetStore.open(path).num_chunks
    except (FileNotFoundError, ValueError):
        return 0


def _verify_store(
    path: Path, config: RunConfig | None, on_chunk: Callable[[], Any]
) -> Iterator[Damage]:
    """The targets of a search."""
    try:
        if layout.read_manifest(layout.open_kvstore(path), path) is None:
            return  # a search that was stopped before its first file
    except ValueError as error:
        yield Damage(str(error))
        return
    try:
        store = TargetStore.open(path, "a")
    except ValueError as error:
        yield Damage(str(error), _left_to_the_search)
        return
    if config is not None and (lines := _other_search(store, config, path)):
        yield Damage(f"{path} holds the targets of another search: {'; '.join(lines)}")
    for chunk, line in store.faults(on_chunk):
        yield Damage(f"{path}: {line}; {layout.REPAIR}", functools.partial(store.discard, chunk))


def _verify_archive(path: Path, load: Callable[[Path], Any]) -> Iterator[Damage]:
    """What was found for a class, or a sampler."""
    try:
        load(path)
    except DamagedFile as error:
        yield Damage(str(error), path.unlink)
    except OSError as error:
        yield _unread(path, error)


def _unread(path: Path, error: OSError) -> Damage:
    """What the system does not let be read: it may be whole, and stays."""
    return Damage(f"{path} cannot be read ({error}): whether it is damaged is not known")


def _left_to_the_search() -> None:
    """`search_to_store(repair=True)` writes ids and descriptions again."""


def _other_search(store: TargetStore, config: RunConfig, path: Path) -> list[str]:
    """In what a store's fingerprint is not that of the run's search of this name."""
    fingerprint = store.manifest["fingerprint"]
    seed = int(path.parent.name.removeprefix("seed_"))
    for step in searches(config):
        if step.name == path.name:
            key = np.asarray(jax.random.key_data(purpose_key(seed, SEARCH, step.cycle))).tolist()
            ours = {"config": to_dict(step.config), "key": key}
            return differences(
                ours, {"config": to_dict(store.config), "key": fingerprint["key"][1]}
            )
    return ["the run has no search of this name"]


def _verify_training(folder: Path) -> Iterator[Damage]:
    """Result, network, predictions and checkpoints of a training."""

    def train_again() -> None:
        (folder / "result.json").unlink(missing_ok=True)
        forget_results(folder.parents[1])
        shutil.rmtree(folder / "model", ignore_errors=True)

    try:
        if (trained := read_trained(folder)) is not None:
            load_network(folder, trained)
    except DamagedFile as error:
        yield Damage(str(error), train_again)
    except OSError as error:
        yield _unread(folder, error)
    try:
        read_predictions(folder)
    except DamagedFile as error:

        def evaluate_again() -> None:
            (folder / PREDICTIONS).unlink()
            forget_results(folder.parents[1])

        yield Damage(str(error), evaluate_again)
    except OSError as error:
        yield _unread(folder / PREDICTIONS, error)
    for path, reason in damaged_checkpoints(folder / "checkpoints").items():
        again = "training goes on from the one before, or from the start"
        yield Damage(
            f"{path} is damaged ({reason}): {again}", functools.partial(shutil.rmtree, path)
        )


def _verify_json(
    path: Path, remedy: str, mend: Callable[[], Any] | None = None
) -> Iterator[Damage]:
    """A JSON file, which need not be there."""
    try:
        read_json(path, remedy)
    except DamagedFile as error:
        yield Damage(str(error), mend)


def _verify_notes(folder: Path) -> Iterator[Damage]:
    """Notes of searches, log and results."""
    for path in sorted([*folder.glob("seed_*/search-*.json"), *folder.glob("seed_*/sampler.json")]):
        yield from _verify_json(path, "what it says is left out", path.unlink)
    try:
        read_results(folder)
    except DamagedFile as error:
        yield Damage(str(error), functools.partial(forget_results, folder))
    yield from _verify_log(folder)


def _verify_log(folder: Path) -> Iterator[Damage]:
    """metrics.jsonl, which must say what the trainings and the results say that are done."""
    path = folder / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    done, found = _records_of_what_is_done(folder), {}
    for line in lines:
        if line.endswith(b"\n") and (record := record_of(line)) is not None:
            subject = _subject(record)
            if record == done.get(subject, record):
                found[subject] = line
    missing = [record for subject, record in done.items() if subject not in found]
    if len(found) == len(lines) and not missing:
        return
    kept = b"".join(found.values()).decode()
    kept += "".join(json.dumps(record) + "\n" for record in missing)
    yield Damage(
        f"{path}: {len(lines) - len(found)} of {len(lines)} lines are damaged or double, and "
        f"{len(missing)} are missing: they can be written again",
        functools.partial(write_text, path, kept),
    )


def _records_of_what_is_done(folder: Path) -> dict[tuple, dict[str, Any]]:
    """What the log must hold, by subject; what cannot be read says nothing here."""
    records: list[dict[str, Any]] = []
    for path in sorted(folder.glob("seed_*/*/")):
        with contextlib.suppress(DamagedFile):
            if (trained := read_trained(path)) is not None:
                name = str(path.relative_to(folder))
                records += [{"training": name, **epoch} for epoch in trained.history]
    with contextlib.suppress(DamagedFile):
        for name, row in to_json(read_results(folder) or {}).items():
            records.append({"result": name, **row})
    return {_subject(record): json.loads(json.dumps(record)) for record in records}


def _subject(record: Mapping[str, Any]) -> tuple:
    """What a record is about: an epoch of a training, a search, or a result."""
    names = ("training", "epoch", "search", "targets", "result")
    return tuple(record.get(name) for name in names)
