"""The controls of a run's targets: what is learned in their place, by name."""

import jax
import numpy as np

from dsl_jax.config import TARGET_CONTROLS
from dsl_jax.data.dataset import Dataset, rows_of
from dsl_jax.evolution.fitness import Stages
from dsl_jax.evolution.shared_targets import SharedTargets
from dsl_jax.keys import CONTROL, purpose_key
from dsl_jax.networks.frozen import frozen_stages
from dsl_jax.runs.folder import RunFolder
from dsl_jax.runs.steps import Search, Training, searches
from dsl_jax.runs.untrained import make_stages
from dsl_jax.targets import controls
from dsl_jax.targets.controls import class_statistics
from dsl_jax.targets.reading import Control, Naturals, Targets


def control_key(seed: int, kind: str, cycle: int) -> jax.Array:
    """The key of a control's random numbers."""
    key = jax.random.fold_in(purpose_key(seed, CONTROL), TARGET_CONTROLS.index(kind))
    return jax.random.fold_in(key, cycle)


def stages_of(run_folder: RunFolder, dataset: Dataset, seed: int, search: Search) -> tuple:
    """The network that a search searches, as stages."""
    if search.network is None:
        return make_stages(run_folder.config, dataset, seed)
    return frozen_stages(run_folder.network(f"seed_{seed}/{search.network}"))


def training_rows(dataset: Dataset, targets: Targets) -> np.ndarray:
    """Where the images of targets stand in the training split.

    Raises:
      ValueError: it lacks some of them.
    """
    rows = rows_of(dataset.train.ids, targets.ids)
    if missing := targets.ids[rows < 0].tolist():
        raise ValueError(
            f"the training split lacks {len(missing)} of {len(rows)} images with targets, ids "
            f"{missing[:5]} ..."
        )
    return rows


def naturals_of(stages: Stages, dataset: Dataset, targets: Targets) -> tuple[Naturals, np.ndarray]:
    """What a network makes of the images of targets, and these images' labels."""
    rows, split = training_rows(dataset, targets), dataset.train
    return Naturals(stages, split.images[rows], dataset.normalize), split.labels[rows]


def searched_naturals(
    run_folder: RunFolder, dataset: Dataset, seed: int, name: str, targets: Targets
) -> tuple[Naturals, np.ndarray]:
    """`naturals_of` the network that the search of this name searched."""
    search = next(step for step in searches(run_folder.config) if step.name == name)
    return naturals_of(stages_of(run_folder, dataset, seed, search), dataset, targets)


def shared_control(seed: int, kind: str, shared: SharedTargets) -> SharedTargets:
    """The control of a search for many images: what is common to a class, or a random code in the
    place of what was found."""
    if kind == "class_part":
        return shared
    return controls.with_code(control_key(seed, kind, 1), shared, kind.removesuffix("_code"))


def control_of(
    run_folder: RunFolder,
    dataset: Dataset,
    seed: int,
    step: Training,
    targets: Targets,
    shuffled: Targets | None,
) -> Control:
    """What a control's training learns.

    Args:
      run_folder, dataset, seed, step: of the training.
      targets: those that the method's training learns.
      shuffled: those that were searched for shuffled labels, for the control that needs them.
    """
    key = control_key(seed, step.kind, step.cycle)
    if shuffled is not None:
        return controls.with_blocks_of(shuffled, targets)
    if step.kind == "permuted":
        labels = dataset.train.labels[training_rows(dataset, targets)]
        return controls.permuted(key, targets, labels)
    naturals, labels = searched_naturals(run_folder, dataset, seed, step.targets[-1], targets)
    if step.kind == "natural":
        return controls.natural(targets, naturals)
    statistics = class_statistics(targets, naturals, labels, dataset.num_classes)
    if step.kind == "class_means":
        return controls.class_means(targets, labels, statistics)
    if step.kind == "class_part":
        directions = statistics.parts
    elif step.kind == "class_displacement":
        directions = statistics.displacements
    else:
        shapes = [block.shape[1:] for block in statistics.parts]
        code = step.kind.removesuffix("_code")
        directions = controls.random_code(key, shapes, dataset.num_classes, code)
    return controls.natural_plus(directions, statistics.cosines, targets, naturals, labels)
