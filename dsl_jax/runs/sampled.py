"""A run's sampler: learned once from the search of some images, and kept beside their targets."""

import time
from pathlib import Path

import numpy as np

from dsl_jax.config import SamplerConfig
from dsl_jax.data.dataset import Dataset
from dsl_jax.evolution.fitness import Stages
from dsl_jax.evolution.shared_targets import SharedTargets
from dsl_jax.files import read_as, write_json
from dsl_jax.keys import SAMPLER, purpose_key
from dsl_jax.networks.sampler import Sampler
from dsl_jax.runs.controlled import shared_control, training_rows
from dsl_jax.runs.folder import RunFolder, open_complete
from dsl_jax.runs.lock import alone
from dsl_jax.runs.steps import FIRST_TARGETS, Training
from dsl_jax.runs.untrained import make_stages
from dsl_jax.targets.sampling import learn_sampler, split_rows
from dsl_jax.targets.shared_files import load_targets, save_targets


def sampled_targets(
    run_folder: RunFolder, dataset: Dataset, seed: int, step: Training, progress: bool
) -> Sampler | SharedTargets:
    """What a training learns: what the sampler proposes, or for a control what is common to a
    class, or a random code in its place."""
    stages = make_stages(run_folder.config, dataset, seed)
    learn_sampler_once(run_folder, dataset, seed, stages, progress)
    sampler = load_targets(sampler_file(run_folder.folder, seed), stages)
    assert isinstance(sampler, Sampler)
    return sampler if step.role == "method" else shared_control(seed, step.kind, sampler.shared)


def learn_sampler_once(
    run_folder: RunFolder, dataset: Dataset, seed: int, stages: Stages, progress: bool
) -> None:
    """Learns a seed's sampler from what was searched in these stages, unless it is kept already."""
    folder = run_folder.folder
    path = sampler_file(folder, seed)
    with alone(path.parent, "learns the sampler"):
        if not path.exists():
            started = time.monotonic()
            found = open_complete(path.parent / FIRST_TARGETS)
            rows = training_rows(dataset, found)
            learned = learn_sampler(
                purpose_key(seed, SAMPLER),
                stages,
                found,
                dataset.normalize(dataset.train.images[rows]),
                dataset.train.labels[rows],
                dataset.num_classes,
                run_folder.config.sampler,
                progress=progress,
            )
            shares = [errors.tolist() for errors in learned.unexplained]
            write_json(_errors_file(folder, seed), {"unexplained": shares})
            save_targets(path, learned.targets)
            seconds = time.monotonic() - started
            run_folder.note_search(seed, FIRST_TARGETS, "sampler", seconds)


def check_sampler(dataset: Dataset, seed: int, count: int, config: SamplerConfig) -> None:
    """Raises ValueError where a sampler could not learn from the first images, once searched."""
    labels = np.asarray(dataset.train.labels[:count])
    split_rows(purpose_key(seed, SAMPLER), labels, dataset.num_classes, config)


def sampler_file(folder: Path, seed: int) -> Path:
    """Where a seed's sampler is kept; `dsl.load_targets` reads it."""
    return folder / f"seed_{seed}" / "sampler.npz"


def unexplained(folder: Path, seed: int) -> list[list[float]]:
    """`LearnedSampler.unexplained` of a seed's sampler, block by block; [] if it is not there.

    Raises DamagedFile.
    """
    path, remedy = _errors_file(folder, seed), "--repair deletes it"
    return read_as(path, lambda kept: kept["unexplained"], remedy) or []


def _errors_file(folder: Path, seed: int) -> Path:
    return sampler_file(folder, seed).with_suffix(".json")
