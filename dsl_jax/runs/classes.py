"""A run's search per class: each class kept in a file of its own, so that nothing is lost."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dsl_jax.config import RunConfig, to_dict
from dsl_jax.data.dataset import Dataset, Split
from dsl_jax.devices import search_mesh
from dsl_jax.evolution.fitness import Stages
from dsl_jax.evolution.shared import (
    OneClass,
    candidates_per_class,
    class_searches,
    join_classes,
    run_searches,
)
from dsl_jax.evolution.shared_targets import SharedTargets
from dsl_jax.files import read_json, write_json
from dsl_jax.keys import SEARCH, purpose_key
from dsl_jax.runs.class_files import (
    MANIFEST,
    MANIFEST_REMEDY,
    class_file,
    class_files,
    open_classes,
    save_class,
)
from dsl_jax.runs.controlled import shared_control
from dsl_jax.runs.folder import RunFolder
from dsl_jax.runs.lock import LOCK, alone, if_free
from dsl_jax.runs.steps import Search, Training
from dsl_jax.runs.untrained import make_stages
from dsl_jax.targets.fingerprint import check_same_search, make_manifest

logger = logging.getLogger(__name__)


def search_per_class(
    run_folder: RunFolder,
    dataset: Dataset,
    seed: int,
    step: Search,
    progress: bool,
    on_class: Callable[[], None],
) -> None:
    """Searches the classes that are not kept yet; several processes share them.

    on_class: called when this process has kept one.

    Raises:
      ValueError: what is kept are classes of another search.
    """
    config, folder = run_folder.config, run_folder.folder / f"seed_{seed}" / step.name
    shared = step.shared
    assert shared is not None
    files = [class_file(folder, n) for n in range(dataset.num_classes * shared.clusters)]
    is_complete = all(path.exists() for path in files)
    split = first_of_each_class(dataset.train, shared.images_per_class)
    key, stages = purpose_key(seed, SEARCH, step.cycle), make_stages(config, dataset, seed)
    images, labels = dataset.normalize(split.images), split.labels
    found = [] if is_complete else class_searches(key, stages, images, labels, step.config, shared)
    manifest = make_manifest(
        key,
        stages,
        np.asarray(images).__getitem__,
        np.asarray(labels),
        split.ids,
        step.config,
        dataset=dataset.name,
        chunk_size=1,
    )
    manifest["fingerprint"]["shared"] = to_dict(shared)
    keep_manifest(folder, manifest)
    if is_complete:
        return
    locks, each = folder / "locks", list(zip(files, found, strict=True))

    def keep(path: Path, search: OneClass, device: jax.Device | None) -> None:
        if not path.exists():
            save_class(path, search(device), candidates_per_class(step.config, shared))
            on_class()

    def keep_if_free(path: Path, search: OneClass, device: jax.Device | None) -> None:
        with if_free(locks / path.stem / LOCK) as is_ours:
            if is_ours:
                keep(path, search, device)

    def keep_after_others(path: Path, search: OneClass, device: jax.Device | None) -> None:
        with alone(locks / path.stem, "searches it"):
            keep(path, search, device)

    mesh = search_mesh()
    run_searches([partial(keep_if_free, *one) for one in each], mesh, progress)
    run_searches([partial(keep_after_others, *one) for one in each], mesh)


def keep_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Notes what a search is, if none is noted; what is kept of an older version is not compared.

    Raises:
      ValueError: the folder holds classes of another search; what differs is named.
    """
    path = folder / MANIFEST
    if not path.exists():
        if class_files(folder):
            logger.warning("%s is of an older version: its search is not compared", folder)
            return
        write_json(path, manifest, only_new=True)  # else it is that of another process
    check_same_search(manifest, read_json(path, MANIFEST_REMEDY), folder)


def first_of_each_class(split: Split, count: int) -> Split:
    """The images that `search_shared` takes, in order: a whole data set need not be normalised."""
    labels = np.asarray(split.labels)
    rows = np.concatenate([np.flatnonzero(labels == c)[:count] for c in np.unique(labels)])
    return split.rows(np.sort(rows))


def targets_per_class(
    config: RunConfig, folder: Path, stages: Stages, seed: int, step: Training
) -> SharedTargets:
    """What a training learns: what was found, or for a control a random code in its place.

    Args:
      config, folder, seed: of the run.
      stages: those that were searched.
      step: the training.

    Raises:
      FileNotFoundError: not all classes have been searched.
    """
    shared = step.shared
    assert shared is not None
    kept = open_classes(path := folder / f"seed_{seed}" / step.targets[0])
    if missing := kept.missing(shared.clusters):
        there = len(kept.classes)
        raise FileNotFoundError(
            f"{path} has {there} of {there + missing} classes and clusters: run phase 'search' "
            "first, which goes on with it"
        )
    found = join_classes(stages, kept.classes, config.search, shared).targets
    return found if step.role == "method" else shared_control(seed, step.kind, found)
