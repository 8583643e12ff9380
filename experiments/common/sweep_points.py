"""What the points of sweeps have in common: their cost, searches of a few images, whole runs."""

import contextlib
import hashlib
import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from common import plan, sweep_failures, sweep_rows, sweeps
from dsl_jax import devices, keys, pipeline
from dsl_jax.config import LearnConfig, RunConfig, to_dict
from dsl_jax.data.dataset import Dataset, Split
from dsl_jax.evolution.image import SearchResult
from dsl_jax.evolution.images import choose_chunk_size, search
from dsl_jax.evolution.rules import check_config
from dsl_jax.learning.evaluation import evaluation_and_predictions
from dsl_jax.learning.result import LearnResult
from dsl_jax.learning.train import learn, learn_sgd
from dsl_jax.runs import steps, untrained
from dsl_jax.runs.folder import RunFolder, find_targets
from dsl_jax.runs.saved import Checkpoints


def search_point(
    name: str, columns: dict[str, Any], config: RunConfig, images: int
) -> sweeps.Point:
    """A point that searches so many images and trains nothing."""
    return sweeps.Point(name, columns, config, *plan.search_cost(config, images))


def run_point(
    name: str, columns: dict[str, Any], config: RunConfig, *, is_searched: bool = True
) -> sweeps.Point:
    """A point that is a whole run: search (unless another point's serves) and trainings.

    Raises:
      ValueError: a search's settings do not fit together, as an option may have left them.
    """
    for step in steps.searches(config):
        check_config(step.config)
    cost = plan.make_plan(config, is_searched=is_searched)
    seconds = cost.search_seconds + cost.learning_seconds
    return sweeps.Point(name, columns, config, cost.candidates, seconds, cost.disk_bytes)


def with_more(
    point: sweeps.Point, candidates: int, seconds: float, disk_bytes: int = 0
) -> sweeps.Point:
    """A point that costs so much more."""
    return point._replace(
        candidates=point.candidates + candidates,
        seconds=point.seconds + seconds,
        disk_bytes=point.disk_bytes + disk_bytes,
    )


def with_validation_search(point: sweeps.Point, most: int) -> sweeps.Point:
    """A point that also does `search_validation`."""
    images = min(most, plan.image_counts(point.config)[1])
    return with_more(point, *plan.search_cost(point.config, images))


def search_images(
    key: jax.Array,
    stages: Any,
    dataset: Dataset,
    split: Split,
    config: RunConfig,
    progress: bool,
    starts: Sequence[Any] | None = None,
) -> SearchResult:
    """`search` of a few images, shared equally by this process's devices; on the host."""
    mesh = devices.search_mesh()
    count = len(split.images)
    share = -(-count // (1 if mesh is None else mesh.size))
    images = dataset.normalize(split.images)
    most = config.chunk_size or choose_chunk_size(stages, images.shape[1:], config.search)
    found = search(
        key,
        stages,
        images,
        split.labels,
        config.search,
        ids=split.ids,
        starts=starts,
        chunk_size=min(share, most),
        mesh=mesh,
        progress=progress,
    )
    return jax.device_get(found)


def first_images(dataset: Dataset, start: int, stop: int) -> Split:
    """Some of the training images, by row.

    Raises:
      ValueError: there are fewer.
    """
    check_rows(start, stop, len(dataset.train.images))
    return dataset.train.rows(slice(start, stop))


def check_rows(start: int, stop: int, available: int) -> None:
    """Raises ValueError for training images that are not there."""
    if not 0 <= start < stop <= available:
        raise ValueError(
            f"images {start} to {stop - 1} are asked for, but there are {available} training "
            "images: set --sweep.num_images or --num_train"
        )


def check_first_images(config: RunConfig, count: int) -> None:
    """Raises ValueError where a dataset, of which nothing is read, has fewer training images."""
    check_rows(0, count, plan.image_counts(config)[0])


def first_rows(split: Split, most: int) -> Split:
    """The first images of a split, at most so many."""
    return split.rows(slice(most))


def search_validation(
    config: RunConfig, dataset: Dataset, seed: int, most: int
) -> tuple[Split, tuple[np.ndarray, ...]]:
    """The first validation images, searched as a seed's training images are."""
    split = first_rows(dataset.validation, most)
    stages = untrained.make_stages(config, dataset, seed)
    key = keys.purpose_key(seed, keys.SEARCH)
    found = search_images(key, stages, dataset, split, config, progress=True)
    return split, found.representations


# --------------------------------------------------------------------------------------------
# Points that are one training
# --------------------------------------------------------------------------------------------


def train(
    point: sweeps.Point, dataset: Dataset, targets: Any, learning: LearnConfig, folder: Path
) -> tuple[LearnResult, np.ndarray]:
    """Trains a point's network; it goes on where it was interrupted.

    Args:
      targets: as for `learn`; None: SGD.
      learning: how it is trained.
      folder: the point's.

    Returns:
      The training, and the class that its network gives each test image, read once: [N].
    """
    config, seed = point.config, point.config.seed
    network = untrained.make_network(config, dataset, seed, config.learner_groups)
    options: dict[str, Any] = {
        "mesh": pipeline.shared_mesh(dataset, learning),
        "checkpoints": Checkpoints(folder / f"checkpoints-{point_digest(point)}"),
        "progress": point.name,
    }
    key = keys.purpose_key(seed, keys.TRAINING)
    if targets is None:
        learned = learn_sgd(key, network, dataset, learning, **options)
    else:
        learned = learn(key, network, dataset, targets, learning, **options)
    _, predictions = evaluation_and_predictions(
        learned.network, dataset, dataset.test, learning.evaluation_statistics
    )
    return learned, predictions


# --------------------------------------------------------------------------------------------
# Points that are runs of the pipeline
# --------------------------------------------------------------------------------------------


def search_digest(config: RunConfig) -> str:
    """Names all of a configuration that a search depends on, but for the seed."""
    parts = to_dict(config)
    kept = ("dataset", "num_train", "validation_size", "widths", "normalize_blocks")
    kept += ("representation", "norm_epsilon", "search", "chunk_size")
    kept += {"per_class": ("searched", "shared"), "sampler": ("searched", "sampler")}.get(
        config.searched, ()
    )
    return _digest({name: parts[name] for name in kept})


def config_digest(config: RunConfig) -> str:
    """Names all of a configuration."""
    return _digest(to_dict(config))


def point_digest(point: sweeps.Point) -> str:
    """Names all that a point is: what an interrupted one has kept is not another's."""
    return _digest(point.identity())


def _digest(plain: dict[str, Any]) -> str:
    text = json.dumps(plain, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def open_run(point: sweeps.Point, folder: Path) -> RunFolder:
    """The run of a point; points of one search keep their targets in one place."""
    run_folder = RunFolder(folder, point.config)
    if not steps.is_searched(point.config):
        return run_folder
    first = [step.name for step in steps.searches(point.config) if step.network is None]
    for seed, name in itertools.product(point.config.seeds, first):
        within = f"seed_{seed}" if name == steps.FIRST_TARGETS else f"seed_{seed}_{name}"
        shared = folder.parent / "targets" / search_digest(point.config) / within
        shared.mkdir(parents=True, exist_ok=True)
        own = folder / f"seed_{seed}" / name
        own.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):  # also another process's
            own.symlink_to(os.path.relpath(shared, own.parent), target_is_directory=True)
    return run_folder


def validation_rows(point: sweeps.Point, dataset: Dataset, folder: Path) -> sweep_rows.Rows:
    """Searches and trains a point, and reads no test image: a row a seed and training.

    One that diverged has its `failure` in place of accuracies.
    """
    run_folder = open_run(point, folder)
    failures: sweep_failures.Failures = {}
    try:
        for phase in ("search", "learn"):
            pipeline.run(point.config, folder, dataset, phase=phase)
    except FloatingPointError:
        failures = sweep_failures.train_what_can_be(run_folder, dataset)
    rows = []
    for seed in point.config.seeds:
        first = next((step.name for step in steps.searches(point.config)), None)
        is_found = (seed, first) not in failures
        targets = find_targets(folder, seed, first) if first and is_found else None
        found = {} if targets is None else final_cross_entropies(targets.fitness())
        if not is_found:  # the columns are there all the same
            found = {f"cross_entropy_{n}": np.nan for n in range(len(point.config.search.layers))}
        for training in steps.trainings(point.config):
            row: dict[str, Any] = {"seed": seed, "training": training.name}
            if failure := failures.get((seed, training.name)):
                rows.append(row | found | {"failure": failure})
                continue
            trained = run_folder.finished(f"seed_{seed}/{training.name}")
            row |= {
                "validation_accuracy": trained.validation_accuracy,
                "last_accuracy": trained.history[-1]["validation_accuracy"],
                "best_epoch": trained.best_epoch,
            }
            rows.append(row | found)
    return rows


def final_cross_entropies(fitness: Sequence[Any]) -> dict[str, float]:
    """Mean cross-entropy (nats) at the end of every layer's evolution, by column."""
    return {
        f"cross_entropy_{layer}": max(0.0, -float(np.mean(values[:, -1])))
        for layer, values in enumerate(fitness)
    }
