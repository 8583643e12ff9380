"""Targets for all images from the search of a few, or of each class; points of a sweep share it."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from common import sweep_points, sweeps
from dsl_jax.config import RunConfig, SharedConfig
from dsl_jax.data.dataset import Dataset
from dsl_jax.evolution.shared import search_shared
from dsl_jax.evolution.shared_targets import SharedTargets
from dsl_jax.keys import SAMPLER, SEARCH, purpose_key
from dsl_jax.networks.sampler import Sampler
from dsl_jax.pipeline import search_split
from dsl_jax.runs.classes import first_of_each_class
from dsl_jax.runs.controlled import control_key
from dsl_jax.runs.lock import alone
from dsl_jax.runs.sampled import check_sampler
from dsl_jax.runs.untrained import make_stages
from dsl_jax.targets import controls
from dsl_jax.targets.reading import Naturals
from dsl_jax.targets.sampling import learn_sampler
from dsl_jax.targets.shared_files import load_targets, save_targets
from dsl_jax.targets.store import TargetStore


def targets_of(
    point: sweeps.Point, dataset: Dataset, folder: Path, count: int, of_a_class: dict[str, Any]
) -> Any:
    """What a method without a search of every image learns: `SharedTargets` or a `Sampler`.

    Args:
      point: its columns name the method.
      dataset: the point's.
      folder: of the sweep's points, where what several of them need is kept.
      count: images that are searched each for itself, the first ones.
      of_a_class: fields of the `SharedConfig`, for a search per class; if the cosines are not among
        them, it has those that the search of the few images leaves.
    """
    config, seed, method = point.config, point.config.seed, point.columns["method"]
    stages = make_stages(config, dataset, seed)
    if method == "sampler":
        return sampler(config, dataset, stages, folder, count)
    few = config, dataset, stages, folder, count
    if method in ("class_part", "channel_code"):
        found = part_of_few(*few)
    else:
        shared = SharedConfig(**of_a_class)
        if "cosines" in of_a_class:
            whose = "_".join(("cosines", *map(str, shared.cosines)))
        else:
            left = tuple(map(float, part_of_few(*few).cosines))
            shared, whose = dataclasses.replace(shared, cosines=left), str(count)
        how = (f"{name}_{value}" for name, value in of_a_class.items() if name != "cosines")
        found = search_classes(config, dataset, stages, folder, shared, "-".join((whose, *how)))
    if method.endswith("code"):
        return controls.with_code(control_key(seed, "channel_code", 1), found, "channel")
    return found


def part_of_few(
    config: RunConfig, dataset: Dataset, stages: Any, folder: Path, count: int
) -> SharedTargets:
    """What the targets of the first images have in common within a class."""
    split = sweep_points.first_images(dataset, 0, count)
    found = search_few(config, dataset, stages, folder, count)
    naturals = Naturals(stages, split.images, dataset.normalize)
    return controls.class_part_targets(stages, found, naturals, split.labels, dataset.num_classes)


def sampler(config: RunConfig, dataset: Dataset, stages: Any, folder: Path, count: int) -> Sampler:
    """The sampler that learns from the search of the first images; kept."""
    check_sampler(dataset, config.seed, count, config.sampler)
    path = folder / f"sampler-{sampler_digest(config)}-{count}-{config.seed}.npz"
    with absent(path) as is_absent:
        if is_absent:
            split = sweep_points.first_images(dataset, 0, count)
            learned = learn_sampler(
                purpose_key(config.seed, SAMPLER),
                stages,
                search_few(config, dataset, stages, folder, count),
                dataset.normalize(split.images),
                split.labels,
                dataset.num_classes,
                config.sampler,
                progress=True,
            )
            save_targets(path, learned.targets)
    return load_targets(path, stages)


def sampler_digest(config: RunConfig) -> str:
    """Names all that a sampler depends on, but for the seed and the number of images."""
    return sweep_points.search_digest(dataclasses.replace(config, searched="sampler"))


def started(point: sweeps.Point, dataset: Dataset, folder: Path, count: int) -> Any:
    """A target for each training image, whose search began with what the sampler makes of it; or
    with the method "started_permuted" that of another image of its class.

    Arguments are those of `targets_of`.
    """
    config, seed = point.config, point.config.seed
    stages = make_stages(config, dataset, seed)
    found = search_split(
        folder / f"started-{sampler_digest(config)}-{count}-{seed}",
        purpose_key(seed, SEARCH),
        stages,
        dataset,
        dataset.train,
        config.search,
        starts=sampler(config, dataset, stages, folder, count).of,
        chunk_size=config.chunk_size,
        progress=True,
    )
    if point.columns["method"] == "started":
        return found
    return controls.permuted(control_key(seed, "permuted", 1), found, dataset.train.labels)


def search_few(
    config: RunConfig, dataset: Dataset, stages: Any, folder: Path, count: int
) -> TargetStore:
    """What the search of the first images finds; it is kept, also where it is interrupted.

    Raises:
      ValueError: none of these images is of some class.
    """
    split = sweep_points.first_images(dataset, 0, count)
    if absent := np.setdiff1d(np.arange(dataset.num_classes), split.labels).tolist():
        raise ValueError(
            f"none of the {count} images that are searched is of the classes {absent}: set "
            "--sweep.searched_images higher"
        )
    name = f"few-{sweep_points.search_digest(config)}-{count}-{config.seed}"
    key = purpose_key(config.seed, SEARCH)
    return search_split(
        folder / name,
        key,
        stages,
        dataset,
        split,
        config.search,
        chunk_size=config.chunk_size,
        progress=True,
    )


def search_classes(
    config: RunConfig,
    dataset: Dataset,
    stages: Any,
    folder: Path,
    shared: SharedConfig,
    how: str,
) -> SharedTargets:
    """What one search per class finds; kept. how: its settings, in the file's name."""
    path = folder / f"per_class-{sweep_points.search_digest(config)}-{how}-{config.seed}.npz"
    with absent(path) as is_absent:
        if is_absent:
            split = first_of_each_class(dataset.train, shared.images_per_class)
            found = search_shared(
                purpose_key(config.seed, SEARCH),
                stages,
                dataset.normalize(split.images),
                split.labels,
                config.search,
                shared,
                progress=True,
            )
            save_targets(path, found.targets)
    return load_targets(path, stages)


@contextlib.contextmanager
def absent(path: Path) -> Iterator[bool]:
    """Whether a file that is searched for is not there; other processes wait till it is."""
    with alone(path.parent / ".locks" / path.stem, "searches it"):
        yield not path.exists()
