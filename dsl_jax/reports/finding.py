"""What came out of a run and how sure it is, in two or three sentences."""

import itertools
from pathlib import Path

import numpy as np

from dsl_jax.config import RunConfig
from dsl_jax.data.dataset import Dataset
from dsl_jax.reports.intervals import (
    Interval,
    in_percent,
    of_paired_seeds,
    of_paired_seeds_and_images,
)
from dsl_jax.reports.titles import training_title
from dsl_jax.runs.folder import read_predictions
from dsl_jax.runs.results import Result


def best_method(results: dict[str, Result]) -> str | None:
    """The name of the method's training that is best by validation; None in a run of SGD alone."""
    methods = [name for name, result in results.items() if result.role == "method"]
    return max(methods, key=lambda name: sum(results[name].validation_accuracy), default=None)


def finding(config: RunConfig, folder: Path, dataset: Dataset, results: dict[str, Result]) -> str:
    """The best method by validation against SGD of the same network, on the test images."""
    ours = best_method(results)
    if ours is None:
        return ""
    mean = 100 * sum(results[ours].test_accuracy) / config.num_seeds
    title = training_title(ours, results[ours], config.cycles)
    count = f"{len(dataset.test.images):,} test images"
    text = f"{title[0].upper()}{title[1:]}: {mean:.2f} % of {count} right"
    longer = f"sgd_g{config.learner_groups}_long"  # as many epochs as all cycles together
    is_longer = results[ours].cycle > 1 and longer in results
    theirs = longer if is_longer else f"sgd_g{config.learner_groups}"
    if theirs not in results:
        return f"{text}."
    mean = 100 * sum(results[theirs].test_accuracy) / config.num_seeds
    epochs = ""
    if is_longer:
        is_last = results[ours].cycle == config.cycles
        epochs = f" and {'as many epochs' if is_last else f'the epochs of {config.cycles} cycles'}"
    elif results[ours].cycle > 1:
        epochs = " and the epochs of one cycle"
    text += f"; SGD with the same network{epochs}: {mean:.2f} %."
    difference, over = _difference(config, folder, dataset, results, ours, theirs)
    if not np.isnan(difference.low):
        verdict = "differs significantly" if difference.excludes_0 else "is not distinguishable"
        text += (
            f" The difference, {in_percent(difference, sign=True)} points (95 % interval over "
            f"{over}), {verdict} from 0."
        )
        if config.num_seeds == 1:
            text += " This is one seed: another seed may differ by more than that."
    return text


def _difference(
    config: RunConfig,
    folder: Path,
    dataset: Dataset,
    results: dict[str, Result],
    ours: str,
    theirs: str,
) -> tuple[Interval, str]:
    """With what it is over: seeds and test images, or seeds alone if predictions were not kept."""
    seeds = f"{config.num_seeds} seeds"
    right: dict[str, list[np.ndarray]] = {ours: [], theirs: []}
    for name, seed in itertools.product(right, config.seeds):
        predictions = read_predictions(folder / f"seed_{seed}" / name)
        if predictions is None:
            pair = results[ours].test_accuracy, results[theirs].test_accuracy
            return of_paired_seeds(*pair), seeds
        right[name].append(np.equal(predictions, dataset.test.labels))
    over = "the test images" if config.num_seeds == 1 else f"{seeds} and the test images"
    return of_paired_seeds_and_images(*map(np.stack, right.values())), over
