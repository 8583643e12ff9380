"""The whole method: search representations, learn them, compare with SGD (paper 3 and 4)."""

import os
import platform
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dsl_jax.config import CycleConfig, RunConfig, one_of
from dsl_jax.data.dataset import Dataset
from dsl_jax.data.load import load_dataset
from dsl_jax.devices import device_mesh
from dsl_jax.keys import CHOICE, SEARCH, TRAINING, purpose_key
from dsl_jax.learning.batches import exact_batch_size
from dsl_jax.learning.evaluation import logits_of
from dsl_jax.learning.train import Measure, learn, learn_sgd
from dsl_jax.networks.convnet import ConvNet
from dsl_jax.networks.frozen import frozen_stages
from dsl_jax.runs.comparison import evaluate_all
from dsl_jax.runs.folder import RunFolder, find_targets
from dsl_jax.runs.loggers import Logger
from dsl_jax.runs.steps import FIRST_TARGETS, Search, Training, is_searched, steps
from dsl_jax.runs.untrained import make_network, make_stages, network_arguments
from dsl_jax.targets.fill import search_to_store
from dsl_jax.targets.overlay import Overlay
from dsl_jax.targets.store import TargetStore

STAGES = ("all", "search", "learn", "report")


def run(
    config: RunConfig,
    folder: str | os.PathLike,
    dataset: Dataset | None = None,
    *,
    requested: str | None = None,
    stage: str = "all",
    repair: bool = False,
    probes: bool = True,
    progress: bool = True,
    loggers: Sequence[Logger] = (),
) -> dict[str, Any]:
    """Runs the method and keeps everything in `folder`; goes on where it was interrupted.

    For each seed: an untrained network becomes stages; every training image's representations are
    searched; learners are trained on them, and the same network by SGD. With `config.cycles` the
    trained network is searched, and trained further, again and again. The test split is read
    once, when all are trained. Where this process has several devices, they share the work.

    Args:
      config: what to run.
      folder: the run's folder.
      dataset: the data; None: loaded as the configuration says.
      requested: the dataset that was asked for, where this one took its place.
      stage: "search": the searches that can be done now, the first and those of networks that are
        trained already; "learn": all that comes after the first search, later cycles included, up
        to the evaluation; "report": evaluate what is trained; "all".
      repair: search damaged chunks of the targets again.
      probes: also evaluate linear classifiers on pixels and on the untrained network.
      progress: show bars.
      loggers: what receives the records besides the folder's metrics.jsonl (see `loggers`).

    Returns:
      The results by name of training (empty after "search" and "learn"): groups, and a
      test_accuracy, test_loss and validation_accuracy a seed.

    Raises:
      ValueError: the folder holds another run, or what a stage needs is not there.
    """
    one_of("stage", stage, STAGES)
    record = RunFolder(folder, config, requested, loggers)
    if (results := record.read("results")) is not None:
        return results
    if dataset is None:
        dataset = load_dataset(
            config.dataset, num_train=config.num_train, validation_size=config.validation_size
        )
    seeds = range(config.seed, config.seed + config.num_seeds)
    for seed in seeds if stage != "report" else ():
        for step in steps(config):
            if isinstance(step, Search) and is_due(record, seed, step, stage):
                search_targets(record, dataset, seed, step, repair, progress)
            elif isinstance(step, Training) and stage != "search":
                train(record, dataset, seed, step, progress)
    if stage in ("search", "learn"):
        return {}
    results = evaluate_all(record, dataset, seeds, probes, progress)
    record.write("results", results)
    return results


# --------------------------------------------------------------------------------------------
# Search
# --------------------------------------------------------------------------------------------


def open_targets(
    record: RunFolder, seed: int, names: tuple[str, ...] = (FIRST_TARGETS,)
) -> TargetStore | Overlay | None:
    """The targets of a seed, later ones over earlier ones; None in a run of SGD alone."""
    if not is_searched(record.config):
        return None
    first = TargetStore.open(record.folder / f"seed_{seed}" / names[0])
    later = [find_targets(record.folder, seed, name) for name in names[1:]]
    stores = [store for store in later if store is not None]
    return Overlay([first, *stores]) if stores else first


def is_due(record: RunFolder, seed: int, step: Search, stage: str) -> bool:
    """Whether a search is one of those that `run` does in this stage."""
    if stage == "search":
        return step.network is None or record.finished(f"seed_{seed}/{step.network}") is not None
    return stage == "all" or step.name != FIRST_TARGETS


def search_targets(
    record: RunFolder, dataset: Dataset, seed: int, step: Search, repair: bool, progress: bool
) -> None:
    """Searches the images of a step that are not yet in its store; without any, there is none."""
    split, started = dataset.train, time.monotonic()
    process = f"{platform.node()}-{uuid.uuid4().hex[:8]}"
    if step.network is None:
        stages = make_stages(record.config, dataset, seed)
    else:
        network = record.network(f"seed_{seed}/{step.network}")
        stages = frozen_stages(network)
        if step.chosen is not None:
            rows = _chosen_before(record.folder / f"seed_{seed}" / step.name, split.ids)
            if rows is None:
                key = purpose_key(seed, CHOICE, step.cycle)
                rows = choose_images(key, network, dataset, step.chosen)
            split = jax.tree.map(lambda array: array[rows], split)
    if not len(split.images):
        return

    def note_seconds(_: int) -> None:
        record.note_search(seed, step.name, process, time.monotonic() - started)

    search_to_store(
        record.folder / f"seed_{seed}" / step.name,
        purpose_key(seed, SEARCH, step.cycle),
        stages,
        split.images,
        split.labels,
        step.config,
        dataset=dataset.name,
        ids=split.ids,
        chunk_size=record.config.chunk_size,
        mesh=device_mesh(),
        preprocess=dataset.normalize,
        progress=progress and (step.name if step.cycle > 1 else "search"),
        repair=repair,
        on_chunk=note_seconds,
    )


def _chosen_before(path: Path, ids: np.ndarray) -> np.ndarray | None:
    """The rows with which an interrupted search began; rounding may choose others elsewhere."""
    try:
        return np.flatnonzero(np.isin(ids, TargetStore.open(path).ids))
    except (FileNotFoundError, ValueError):  # not there, or stopped before its ids were
        return None


def choose_images(
    key: jax.Array, network: ConvNet, dataset: Dataset, cycle: CycleConfig
) -> np.ndarray:
    """The rows, in order, of the training images that a later cycle searches: [M] integers."""
    rows = np.arange(len(dataset.train.images))
    if cycle.images != "all":
        logits = logits_of(network, dataset, dataset.train)
        if cycle.images == "wrong":
            rows = np.flatnonzero(np.argmax(logits, axis=-1) != dataset.train.labels)
        else:
            own = jax.nn.log_softmax(logits)[rows, dataset.train.labels]
            rows = np.flatnonzero(np.exp(own) < cycle.confidence)
    count = round(cycle.share * len(rows))
    return np.sort(np.asarray(jax.random.permutation(key, rows))[:count])


# --------------------------------------------------------------------------------------------
# Learning
# --------------------------------------------------------------------------------------------


def train(
    record: RunFolder,
    dataset: Dataset,
    seed: int,
    step: Training,
    progress: bool,
    measure: Measure | None = None,
) -> None:
    """Trains one network, unless it is trained, and keeps it with its history."""
    config, name = record.config, f"seed_{seed}/{step.name}"
    if record.finished(name) is not None:
        return
    if step.start is None:
        network = make_network(config, dataset, seed, step.groups)
    else:
        network = record.network(f"seed_{seed}/{step.start}")
    batch_size, multiple = step.config.batch_size, step.config.batch_multiple
    key = purpose_key(seed, TRAINING, step.cycle)
    options: dict[str, Any] = {
        "mesh": device_mesh(exact_batch_size(len(dataset.train.images), batch_size, multiple)),
        "checkpoints": record.checkpoints(name),
        "measure": measure,
        "progress": f"{step.name} (G={step.groups})" if progress else None,
    }
    if step.variant == "sgd":
        learned = learn_sgd(key, network, dataset, step.config, **options)
    else:
        targets = open_targets(record, seed, step.targets)
        learned = learn(key, network, dataset, targets, step.config, **options)
    best = [epoch for epoch in learned.history if epoch.get("best_so_far")][-1]
    result = {
        "variant": step.variant,
        "groups": step.groups,
        "cycle": step.cycle,
        "network": network_arguments(config, dataset, step.groups),
        "best_epoch": best["epoch"],
        "validation_accuracy": best["validation_accuracy"],
        "images_left_out": len(dataset.train.images) - best["images"],
        "seconds": sum(epoch["seconds"] for epoch in learned.history),
        "history": learned.history,
    }
    record.finish(name, learned.network, result)
