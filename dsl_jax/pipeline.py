"""The whole method: search representations, learn them, compare with SGD (paper 3 and 4)."""

import contextlib
import logging
import os
import platform
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from dsl_jax.config import TARGET_CONTROLS, CycleConfig, LearnConfig, RunConfig, SearchConfig
from dsl_jax.data.dataset import Dataset, Split
from dsl_jax.devices import device_mesh, search_mesh
from dsl_jax.evolution.dead import check_layers_change
from dsl_jax.evolution.rules import check_config
from dsl_jax.jobs import first_says, is_first, wait_for_first
from dsl_jax.keys import CHOICE, SEARCH, TRAINING, purpose_key
from dsl_jax.learning.batches import exact_batch_size
from dsl_jax.learning.checks import check_crop
from dsl_jax.learning.evaluation import logits_of
from dsl_jax.learning.result import Measure
from dsl_jax.learning.train import learn, learn_sgd
from dsl_jax.networks.convnet import ConvNet, representation_shapes
from dsl_jax.runs.classes import search_per_class, targets_per_class
from dsl_jax.runs.comparison import evaluate_all
from dsl_jax.runs.controlled import control_key, control_of, stages_of
from dsl_jax.runs.data import check_identity, keep_identity, load_run_data
from dsl_jax.runs.folder import RunFolder, find_targets, open_complete
from dsl_jax.runs.lock import alone
from dsl_jax.runs.loggers import Logger
from dsl_jax.runs.results import Result, Trained
from dsl_jax.runs.sampled import check_sampler, learn_sampler_once, sampled_targets
from dsl_jax.runs.steps import FIRST_TARGETS, Search, Training, searches, steps, trainings
from dsl_jax.runs.untrained import make_network, make_stages, network_arguments
from dsl_jax.runs.verify import repair_run
from dsl_jax.targets.controls import shuffled_labels
from dsl_jax.targets.fill import search_to_store
from dsl_jax.targets.overlay import Overlay
from dsl_jax.targets.store import TargetStore
from dsl_jax.values import one_of

PHASES = ("all", "search", "learn", "report")

logger = logging.getLogger(__name__)


def run(
    config: RunConfig,
    folder: str | os.PathLike,
    dataset: Dataset | None = None,
    *,
    requested: str | None = None,
    phase: str = "all",
    repair: bool = False,
    probes: bool = True,
    progress: bool = True,
    loggers: Sequence[Logger] = (),
) -> dict[str, Result]:
    """Runs the method and keeps everything in `folder`; goes on where it was interrupted.

    For each seed: an untrained network becomes stages; every training image's representations are
    searched; learners are trained on them, and the same network by SGD. With `config.cycles` the
    trained network is searched, and trained further, again and again. The test split is read
    once, when all are trained. Where this process has several devices, they share the work; so do
    the processes of a job of `jax.distributed`, each of which calls this with the same arguments.

    Args:
      config: what to run.
      folder: the run's folder.
      dataset: the data, which may be one's own; None: loaded as the configuration says. Its folder
        keeps what they are, and refuses others.
      requested: the dataset that was asked for, where this one took its place.
      phase: "search": the searches that can be done now, the first and those of networks that are
        trained already; "learn": all that comes after the first search, later cycles included, up
        to the evaluation; "report": evaluate what is trained; "all".
      repair: read all that is there, and do again what is damaged; see `runs.verify`.
      probes: also evaluate linear classifiers on pixels and on the untrained network.
      progress: show bars.
      loggers: what receives the records besides the folder's metrics.jsonl (see `runs.loggers`);
        the first process's alone are used.

    Returns:
      The results by name of training; empty after "search" and "learn" unless the run had ended
      before.

    Raises:
      ValueError: the folder holds another run, or one on other data, or the processes of a job
        cannot share a batch equally.
      FileNotFoundError: the targets that a phase needs are not there.
    """
    one_of("phase", phase, PHASES)
    progress = progress and is_first()
    if dataset is not None:
        check_data(config, dataset)
    run_folder = RunFolder(folder, config, requested, loggers)
    if repair:  # not what is whole: the stores would be read once more
        repair = first_says(
            lambda: any(damage.mend for damage in repair_run(run_folder.folder, progress))
        )
    if not repair and first_says(lambda: run_folder.results() is not None):
        if dataset is not None:
            check_identity(run_folder.folder, dataset)
        return run_folder.results() or {}
    if dataset is None:
        dataset = load_run_data(run_folder.folder, config)
        check_data(config, dataset)
    keep_identity(run_folder.folder, dataset)
    for search in searches(config) if phase != "report" else ():
        if search.first is not None:
            for seed in config.seeds:
                check_sampler(dataset, seed, search.first, config.sampler)
    if phase in ("all", "learn"):
        for seed in config.seeds:
            for training in trainings(config):  # what cannot be learned is refused now
                if run_folder.finished(f"seed_{seed}/{training.name}") is None:
                    shared_mesh(dataset, training.config)
    for seed in config.seeds if phase != "report" else ():
        for step in steps(config):
            if isinstance(step, Search) and is_due(run_folder, seed, step, phase):
                search_targets(run_folder, dataset, seed, step, repair, progress)
            elif isinstance(step, Training) and phase != "search":
                train(run_folder, dataset, seed, step, progress)
    if phase in ("search", "learn"):
        return {}
    if is_first():
        with alone(run_folder.folder, "evaluates it"):
            if run_folder.results() is None:  # else another process was first
                run_folder.keep_results(evaluate_all(run_folder, dataset, probes, progress))
    wait_for_first("evaluation")
    return run_folder.results() or {}


def check_data(config: RunConfig, dataset: Dataset) -> None:
    """Raises ValueError for data that cannot be run on; warns of settings that they do not have."""
    if not len(dataset.validation.images):
        raise ValueError(
            f"{dataset.name} has no validation images, which choose the epoch: give a "
            "validation_size of at least 1"
        )
    held_out = len(dataset.validation.images)
    theirs = (dataset.name, len(dataset.train.images) + held_out, held_out)
    for name, value in zip(("dataset", "num_train", "validation_size"), theirs, strict=True):
        if (ours := getattr(config, name)) not in (None, value):
            logger.warning(
                "config.%s is %r, but that of the data that were handed over is %r, which counts",
                name,
                ours,
                value,
            )
    shapes = representation_shapes(dataset.image_shape, config.widths, dataset.num_classes)
    for step in steps(config):
        if isinstance(step, Search):
            check_config(step.config)
            check_layers_change(shapes, step.config)
        else:
            check_crop(dataset, step.config)


# --------------------------------------------------------------------------------------------
# Search
# --------------------------------------------------------------------------------------------


def open_targets(
    run_folder: RunFolder, seed: int, names: tuple[str, ...] = (FIRST_TARGETS,)
) -> TargetStore | Overlay:
    """The targets of a seed, later ones over earlier ones.

    Raises:
      FileNotFoundError: there are none, or not yet those of all images.
    """
    found = [find_targets(run_folder.folder, seed, name) for name in names[1:]]
    first = open_complete(run_folder.folder / f"seed_{seed}" / names[0])
    later = [store for store in found if isinstance(store, TargetStore)]
    return Overlay([first, *later]) if later else first


def is_due(run_folder: RunFolder, seed: int, step: Search, phase: str) -> bool:
    """Whether a search is one of those that `run` does in this phase."""
    if phase == "search":
        network = f"seed_{seed}/{step.network}"
        return step.network is None or run_folder.finished(network) is not None
    return phase == "all" or step.network is not None


def search_targets(
    run_folder: RunFolder, dataset: Dataset, seed: int, step: Search, repair: bool, progress: bool
) -> None:
    """Searches the images of a step that are not yet in its store; without any, there is none."""
    started, process = time.monotonic(), f"{platform.node()}-{uuid.uuid4().hex[:8]}"

    def note_seconds(*_: int) -> None:
        run_folder.note_search(seed, step.name, process, time.monotonic() - started)

    if step.shared is not None:
        search_per_class(run_folder, dataset, seed, step, progress, note_seconds)
        return
    stages, split = stages_and_images(run_folder, dataset, seed, step)
    if not len(split.images):
        return
    search_split(
        run_folder.folder / f"seed_{seed}" / step.name,
        purpose_key(seed, SEARCH, step.cycle),
        stages,
        dataset,
        split,
        step.config,
        chunk_size=run_folder.config.chunk_size,
        progress=progress and (step.name if step.cycle > 1 else "search"),
        repair=repair,
        on_chunk=note_seconds,
    )
    if step.first is not None:
        learn_sampler_once(run_folder, dataset, seed, stages, progress)


def search_split(
    path: Path,
    key: jax.Array,
    stages: Sequence[Callable],
    dataset: Dataset,
    split: Split,
    config: SearchConfig,
    **options: Any,
) -> TargetStore:
    """`search_to_store` of some images of a dataset, on this process's devices."""
    return search_to_store(
        path,
        key,
        stages,
        split.images,
        split.labels,
        config,
        dataset=dataset.name,
        ids=split.ids,
        mesh=search_mesh(),
        preprocess=dataset.normalize,
        **options,
    )


def stages_and_images(
    run_folder: RunFolder, dataset: Dataset, seed: int, step: Search
) -> tuple[Sequence[Callable], Split]:
    """The network that a step searches, as stages, and the images."""
    stages, split = stages_of(run_folder, dataset, seed, step), dataset.train
    if step.shuffled:
        key = control_key(seed, "shuffled_labels", step.cycle)
        split = split._replace(labels=shuffled_labels(key, split.labels))
    if step.network is None:
        return stages, split.rows(slice(step.first))
    rows = _chosen_before(run_folder.folder / f"seed_{seed}" / step.name, dataset.train.ids)
    if rows is None:
        key, chosen = purpose_key(seed, CHOICE, step.cycle), step.chosen or CycleConfig()
        network = run_folder.network(f"seed_{seed}/{step.network}")
        rows = choose_images(key, network, dataset, chosen)
    return stages, split.rows(rows)


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
    run_folder: RunFolder,
    dataset: Dataset,
    seed: int,
    step: Training,
    progress: bool,
    measure: Measure | None = None,
) -> None:
    """Trains one network, unless it is trained, and keeps it with its history.

    Where another process trains it already, waits for it. The processes of a job train it together.
    """
    name = f"seed_{seed}/{step.name}"

    def is_trained() -> bool:
        return run_folder.finished(name) is not None

    if first_says(is_trained):
        return
    folder = run_folder.training(name)
    with alone(folder, "trains it") if is_first() else contextlib.nullcontext():
        if not first_says(is_trained):
            _train(run_folder, dataset, seed, step, progress, measure)


def _train(
    run_folder: RunFolder,
    dataset: Dataset,
    seed: int,
    step: Training,
    progress: bool,
    measure: Measure | None,
) -> None:
    """`train`, where no process outside the job does."""
    config, name = run_folder.config, f"seed_{seed}/{step.name}"
    if step.start is None:
        network = make_network(config, dataset, seed, step.groups)
    else:
        network = run_folder.network(f"seed_{seed}/{step.start}")
    num_images, learning = len(dataset.train.images), step.config
    options: dict[str, Any] = {
        "mesh": shared_mesh(dataset, learning),
        "checkpoints": run_folder.checkpoints(name),
        "measure": measure,
        "on_epoch": lambda record: run_folder.log({"training": name, **record}),
        "progress": progress and f"{step.name} (G={step.groups})",
    }
    key = purpose_key(seed, TRAINING, step.cycle)
    if step.variant == "sgd":
        learned = learn_sgd(key, network, dataset, learning, **options)
    else:
        targets = targets_of(run_folder, dataset, seed, step, progress)
        learned = learn(key, network, dataset, targets, learning, **options)
    best = learned.best_epoch
    trained = Trained(
        variant=step.variant,
        groups=step.groups,
        cycle=step.cycle,
        network=network_arguments(config, dataset, step.groups),
        best_epoch=best["epoch"],
        validation_accuracy=best["validation_accuracy"],
        images_left_out=num_images - best["images"],
        seconds=sum(epoch["seconds"] for epoch in learned.history),
        history=learned.history,
    )
    if is_first():
        run_folder.finish(name, learned.network, trained)
    wait_for_first(name)


def targets_of(
    run_folder: RunFolder, dataset: Dataset, seed: int, step: Training, progress: bool
) -> Any:
    """What a training learns: what was searched, or what a control puts in its place."""
    if step.shared is not None:
        stages = make_stages(run_folder.config, dataset, seed)
        return targets_per_class(run_folder.config, run_folder.folder, stages, seed, step)
    if step.sampler is not None:
        return sampled_targets(run_folder, dataset, seed, step, progress)
    targets = open_targets(run_folder, seed, step.targets)
    if step.kind not in TARGET_CONTROLS:
        return targets
    shuffled = None
    if step.shuffled is not None:
        shuffled = open_targets(run_folder, seed, (*step.targets[:-1], step.shuffled))
    return control_of(run_folder, dataset, seed, step, targets, shuffled)


def shared_mesh(dataset: Dataset, config: LearnConfig) -> Mesh | None:
    """The devices that share a training's batches. Raises ValueError, see `device_mesh`."""
    count = len(dataset.train.images)
    return device_mesh(exact_batch_size(count, config.batch_size, config.batch_multiple))
