"""Targets from a search of every image: once, or once more in networks that have learned from it.

A network that has learned from an image need not move to give it its label. So, to be cross-fitted,
the images are dealt out among folds, and each is searched in a network that has learned from the
other folds alone. All networks begin alike and learn the same first targets. So what they make of
an image is alike, and one network can learn what was searched in several.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from common import plan, sweep_points, sweeps
from dsl_jax import pipeline
from dsl_jax.config import RunConfig
from dsl_jax.data.dataset import Dataset
from dsl_jax.devices import search_mesh
from dsl_jax.keys import CHOICE, SEARCH, purpose_key
from dsl_jax.networks.frozen import frozen_stages
from dsl_jax.runs.controlled import control_key
from dsl_jax.runs.lock import alone
from dsl_jax.runs.steps import FIRST_TARGETS, Search, later_cycle
from dsl_jax.targets import controls
from dsl_jax.targets.fill import search_to_store
from dsl_jax.targets.layout import estimated_bytes
from dsl_jax.targets.overlay import Overlay
from dsl_jax.targets.store import TargetStore


def check(config: RunConfig, folds: int) -> None:
    """Raises ValueError where the second search is one of some images alone, or for one fold."""
    later = later_cycle(config, 2)
    if later.images != "all" or later.share < 1:
        raise ValueError(
            f"config.later_cycles[0] has images={later.images!r}, share={later.share}: here all "
            "images are searched once more, so leave these out"
        )
    if folds < 2:
        raise ValueError(f"sweep.folds is {folds}: it must be at least 2")


def as_second_cycle(point: sweeps.Point, folds: int, is_searched: bool) -> sweeps.Point:
    """A point of one cycle, and one training, as one of two; with the second search's cost, if it
    makes it."""
    config = dataclasses.replace(point.config, cycles=2)
    if is_searched:
        images, validation = plan.image_counts(config)
        step = Search("targets", later_cycle(config, 2).search, network="learner")
        candidates, seconds = plan.search_cost(config, images, step)
        learned = images * max(1, folds - 1)  # by all the networks together
        seconds += plan.learning_seconds(point.config, learned, folds * validation)
        generations = [layer.generations for layer in step.config.layers]
        disk = estimated_bytes(plan.representation_shapes(config), images, generations)
        point = point._replace(
            candidates=point.candidates + candidates,
            seconds=point.seconds + seconds,
            disk_bytes=point.disk_bytes + disk,
        )
    return point._replace(config=config)


def targets_of(point: sweeps.Point, dataset: Dataset, folder: Path, folds: int) -> Any:
    """A target for each training image: its own, or with "permuted" another's of its class.

    Args:
      point: its columns name the method and the variant of learning.
      dataset: the point's.
      folder: the point's; beside it is kept what several need.
      folds: in how many networks the images are searched once more; 0: not again.
    """
    seed = point.config.seed
    run_folder = sweep_points.open_run(point, folder)
    step = Search(FIRST_TARGETS, point.config.search)
    pipeline.search_targets(run_folder, dataset, seed, step, False, True)
    found = pipeline.open_targets(run_folder, seed)
    if folds:
        found = searched_again(point, dataset, found, folder.parent, folds)
    if not point.columns["method"].endswith("permuted"):
        return found
    key = control_key(seed, "permuted", 2 if folds else 1)
    return controls.permuted(key, found, dataset.train.labels)


def searched_again(
    point: sweeps.Point, dataset: Dataset, first: TargetStore, folder: Path, folds: int
) -> Overlay:
    """What the second search finds for all training images.

    Args:
      point, dataset: as above.
      first: the first targets of all training images.
      folder: of the sweep's points.
      folds: networks that share the images; one alone searches those that it has learned from.
    """
    config = point.config
    digest = sweep_points.again_digest(config)
    parts = deal_out(purpose_key(config.seed, CHOICE, 2), len(dataset.train.images), folds)
    found = []
    for number, rows in enumerate(parts, 1):
        path = folder / f"again-{digest}-seed_{config.seed}" / f"{number}_of_{folds}"
        found.append(search_part(point, dataset, first, rows, path))
    return Overlay([first, *found])


def deal_out(key: jax.Array, count: int, parts: int) -> list[np.ndarray]:
    """Rows 0 .. count - 1 at random in parts of equal size, or one more; each part in order."""
    rows = np.asarray(jax.random.permutation(key, count))
    return [np.sort(part) for part in np.array_split(rows, parts)]


def search_part(
    point: sweeps.Point, dataset: Dataset, first: TargetStore, rows: np.ndarray, path: Path
) -> TargetStore:
    """Searches some training images in a network that has learned from the others, if there are
    others; several processes share the search."""
    config, train = point.config, dataset.train
    others = np.setdiff1d(np.arange(len(train.images)), rows)
    seen = dataset
    if len(others):
        seen = dataclasses.replace(dataset, train=jax.tree.map(lambda x: x[others], train))
    searched = jax.tree.map(lambda x: x[rows], train)
    learning = dataclasses.replace(config.learn, variant=point.columns["variant"])
    name = f"{point.name}, network {path.name.replace('_', ' ')}"
    with alone(path, "trains it"):
        learned = sweep_points.train_network(
            point, seen, first, learning, path / "checkpoints", progress=name
        )
    return search_to_store(
        path / "targets",
        purpose_key(config.seed, SEARCH, 2),
        frozen_stages(learned.network),
        searched.images,
        searched.labels,
        later_cycle(config, 2).search,
        dataset=dataset.name,
        ids=searched.ids,
        chunk_size=config.chunk_size,
        mesh=search_mesh(),
        preprocess=dataset.normalize,
        progress=name,
    )
