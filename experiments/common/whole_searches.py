"""Targets from a search of every image: once, or once more in networks that have learned from it.

In a network that has learned from an image, the image's activations need hardly move to give the
label. So, to be cross-fitted, the images are dealt out among folds, and those of a fold are
searched in a network that has learned from the other folds alone. All these networks learn the same
first targets: where there is a target, what they make of an image is alike. So one network can
learn what was searched in several. It begins with the same weights as they did.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from common import plan, sweep_points, sweeps
from dsl_jax import pipeline
from dsl_jax.config import CycleConfig, RunConfig
from dsl_jax.data.dataset import Dataset
from dsl_jax.keys import CHOICE, purpose_key
from dsl_jax.runs.controlled import control_key, control_of
from dsl_jax.runs.steps import FIRST_TARGETS, Search, later_cycle, searches, trainings
from dsl_jax.targets import controls
from dsl_jax.targets.layout import estimated_bytes
from dsl_jax.targets.overlay import Overlay
from dsl_jax.targets.store import TargetStore


def check_later_cycles(config: RunConfig) -> None:
    """Raises ValueError where they say more than how all images are searched once more."""
    plain = CycleConfig(later_cycle(config, 2).search)
    if config.later_cycles != (plain,):
        raise ValueError(
            "config.later_cycles: here all images are searched once more, so give one cycle, and "
            "leave its images, confidence and share out"
        )


def as_second_cycle(point: sweeps.Point, networks: int, is_searched: bool) -> sweeps.Point:
    """A point of one cycle, and one training, as one of two; with the second search's cost, if it
    makes it.

    networks: that share the images; see `searched_again`.
    """
    config = dataclasses.replace(point.config, cycles=2, controls=())
    if is_searched:
        images, validation = plan.image_counts(config)
        step = Search("targets", later_cycle(config, 2).search, network="learner")
        candidates, seconds = plan.search_cost(config, images, step)
        learned = images * max(1, networks - 1)  # by all together
        seconds += plan.learning_seconds(point.config, learned, networks * validation)
        generations = [layer.generations for layer in step.config.layers]
        disk = estimated_bytes(plan.representation_shapes(config), images, generations)
        point = sweep_points.with_more(point, candidates, seconds, disk)
    return point._replace(config=config)


def targets_of(point: sweeps.Point, dataset: Dataset, folder: Path, networks: int) -> Any:
    """A target for each training image: its own, or what a control puts in its place.

    Args:
      point: its columns name the method.
      dataset: the point's.
      folder: the point's; beside it is kept what several need.
      networks: in how many networks the images are searched once more; 0: not again.
    """
    seed = point.config.seed
    run_folder = sweep_points.open_run(point, folder)
    step = Search(FIRST_TARGETS, point.config.search)
    pipeline.search_targets(run_folder, dataset, seed, step, False, True)
    found, method = pipeline.open_targets(run_folder, seed), point.columns["method"]
    if networks:
        found = searched_again(point, dataset, found, folder.parent, networks)
    if method.startswith("again_"):
        return control_of_again(point, dataset, found, folder.parent)
    if not method.endswith("permuted"):
        return found
    key = control_key(seed, "permuted", 2 if networks else 1)
    return controls.permuted(key, found, dataset.train.labels)


def searched_again(
    point: sweeps.Point, dataset: Dataset, first: TargetStore, folder: Path, networks: int
) -> Overlay:
    """What the second search finds for all training images.

    Args:
      point, dataset: as above.
      first: the first targets of all training images.
      folder: of the sweep's points.
      networks: that share the images; one alone searches those that it has learned from.
    """
    key = purpose_key(point.config.seed, CHOICE, 2)
    parts = deal_out(key, len(dataset.train.images), networks)
    found = []
    for number, rows in enumerate(parts, 1):
        print(f"    searched once more: network {number} of {networks}", flush=True)
        part = folder_of_part(point, folder, number, networks)
        found.append(search_part(point, dataset, rows, part))
    return Overlay([first, *found])


def folder_of_part(point: sweeps.Point, folder: Path, number: int, networks: int) -> Path:
    """Of one of the networks that share the second search; folder: of the sweep's points."""
    digest = sweep_points.config_digest(point.config)
    return folder / f"again-{digest}-{number}_of_{networks}"


def control_of_again(point: sweeps.Point, dataset: Dataset, found: Overlay, folder: Path) -> Any:
    """What a control puts in the place of what was found in one network; see `controlled`.

    folder: of the sweep's points.
    """
    run_folder = sweep_points.open_run(point, folder_of_part(point, folder, 1, 1))
    later = (s for s in trainings(point.config) if s.role == "method" and s.cycle == 2)
    kind = point.columns["method"].removeprefix("again_")
    step = next(later)._replace(kind=kind)
    return control_of(run_folder, dataset, point.config.seed, step, found, None)


def deal_out(key: jax.Array, count: int, parts: int) -> list[np.ndarray]:
    """Rows 0 .. count - 1 at random in parts of equal size, or one more; each part in order."""
    rows = np.asarray(jax.random.permutation(key, count))
    return [np.sort(part) for part in np.array_split(rows, parts)]


def search_part(
    point: sweeps.Point, dataset: Dataset, rows: np.ndarray, folder: Path
) -> TargetStore:
    """Searches some training images in a network that has learned from the others, if there are
    others. It is a run of two cycles in a folder of its own, that several processes may share."""
    seed = point.config.seed
    others = np.setdiff1d(np.arange(len(dataset.train.images)), rows)
    run_folder = sweep_points.open_run(point, folder)
    (search,) = (step for step in searches(point.config) if step.cycle == 2)
    (training,) = (step for step in trainings(point.config) if step.name == search.network)
    learned = some_of(dataset, others) if len(others) else dataset
    pipeline.train(run_folder, learned, seed, training, True)
    pipeline.search_targets(run_folder, some_of(dataset, rows), seed, search, False, True)
    return TargetStore.open(run_folder.folder / f"seed_{seed}" / search.name)


def some_of(dataset: Dataset, rows: np.ndarray) -> Dataset:
    """The dataset with some of its training images alone."""
    train = dataset.train.rows(rows)
    return dataclasses.replace(dataset, train=train)
