"""A training that diverges is a result: the others of its run go on, and are evaluated."""

import copy
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from dsl_jax import pipeline
from dsl_jax.config import RunConfig
from dsl_jax.data.dataset import Dataset
from dsl_jax.progress import progress_bar
from dsl_jax.runs.comparison import compared, evaluate_training
from dsl_jax.runs.folder import RunFolder
from dsl_jax.runs.results import Result
from dsl_jax.runs.steps import Search, Training, needs_of, steps

Failures = dict[tuple[int, str], str]  # by seed and step, what was wrong


class Ended(NamedTuple):
    """How a training of a seed ended: by its result, or by a failure.

    result: with this seed's accuracies; its costs are those of all seeds that it was made for.
    training: that of the run, or of a result its like: kind, variant, groups, cycle.
    """

    seed: int
    name: str
    training: Training | Result
    result: Result | None
    failure: str | None


def run_to_the_end(config: RunConfig, folder: Path, dataset: Dataset) -> list[Ended]:
    """The whole run without probes, as far as it can be had; the test split is read at its end."""
    try:
        results = pipeline.run(config, folder, dataset, probes=False)
    except FloatingPointError as error:
        print(f"{error}; the others go on", flush=True)
        run_folder = RunFolder(folder, config)
        failures = train_what_can_be(run_folder, dataset)
        return list(_evaluated(run_folder, dataset, failures))
    return [
        Ended(seed, name, result, _of_seed(result, number), None)
        for name, result in results.items()
        for number, seed in enumerate(config.seeds)
    ]


def train_what_can_be(run_folder: RunFolder, dataset: Dataset) -> Failures:
    """Searches and trains all that is not done yet; what goes on from a failure fails with it."""
    failures: Failures = {}
    for seed in run_folder.config.seeds:
        for step in steps(run_folder.config):
            needs = needs_of(step)
            broken = next((name for name in needs if (seed, name) in failures), None)
            if broken is not None:
                failures[seed, step.name] = failures[seed, broken]
                continue
            try:
                if isinstance(step, Search):
                    pipeline.search_targets(run_folder, dataset, seed, step, False, True)
                else:
                    pipeline.train(run_folder, dataset, seed, step, True)
            except FloatingPointError as error:
                failures[seed, step.name] = str(error)
                print(f"{step.name} of seed {seed}: {error}", flush=True)
    return failures


def _evaluated(run_folder: RunFolder, dataset: Dataset, failures: Failures) -> Iterator[Ended]:
    """What `comparison.evaluate_all` compares, of that what was trained; and what was not."""
    for training, is_best in compared(run_folder, failures):
        for seed in run_folder.config.seeds:
            failure, result = failures.get((seed, training.name)), None
            if failure is None:
                alone = copy.copy(run_folder)
                alone.config = dataclasses.replace(run_folder.config, seed=seed, num_seeds=1)
                bar = progress_bar(1, unit="network", description="evaluation", show=False)
                result = evaluate_training(alone, dataset, training, is_best, bar)
            yield Ended(seed, training.name, training, result, failure)


def _of_seed(result: Result, number: int) -> Result:
    """A result with the accuracies of one of its seeds."""
    fields = ("test_accuracy", "test_loss", "validation_accuracy")
    return dataclasses.replace(result, **{x: (getattr(result, x)[number],) for x in fields})
