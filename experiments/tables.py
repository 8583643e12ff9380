"""Test accuracy of searched targets and of SGD: tables 1 and 2 of the paper.

    python experiments/tables.py --sweep.datasets="('mnist','cifar10')"

For every dataset, with and without augmentation, and every seed: SGD, targets for all layers, and
targets for all but block 0. A dataset and seed is searched once; the augmented runs learn from the
same targets. Settings, each --sweep.NAME=VALUE: datasets (default: --dataset), augment, num_seeds,
num_train, validation_size.
"""

import dataclasses
from dataclasses import dataclass
from types import SimpleNamespace

import command_line
import numpy as np
import sweeps
from scipy import stats

from dsl_jax import pipeline, plots, presets
from dsl_jax.config import Preset


@dataclass(frozen=True)
class Settings(sweeps.Settings):
    """What is swept. datasets: none for that of --dataset."""

    datasets: tuple[str, ...] = ()
    augment: tuple[bool, ...] = (False, True)


SCALES = {
    "smoke": Settings(num_seeds=2),
    "laptop": Settings(num_train=2500, validation_size=500, num_seeds=3),
    "paper": Settings(),
}


def define(config: Preset, settings: Settings) -> sweeps.Sweep:
    """A point for every dataset, plain or augmented."""
    points = []
    for dataset in settings.datasets or (config.dataset,):
        for augment in settings.augment:
            chosen = for_dataset(config, dataset)
            points.append(
                sweeps.run_point(
                    f"{dataset}-{'augmented' if augment else 'plain'}",
                    {"augment": augment},
                    presets.with_augmentation(chosen) if augment else chosen,
                    is_searched=augment == settings.augment[0],
                )
            )
    return sweeps.Sweep(points, measure, draw, table)


def for_dataset(config: Preset, dataset: str) -> Preset:
    """The configuration with another dataset, and with what its preset changes for that one."""
    if dataset == config.dataset:
        return config
    ours = presets.get_preset(config.name, config.dataset)
    theirs = presets.get_preset(config.name, dataset)
    changed = {
        field.name: getattr(theirs, field.name)
        for field in dataclasses.fields(Preset)
        if getattr(theirs, field.name) != getattr(ours, field.name)
        and getattr(config, field.name) == getattr(ours, field.name)
    }
    return dataclasses.replace(config, **changed | {"dataset": dataset})


def measure(point: sweeps.Point, dataset, folder) -> sweeps.Rows:
    """The whole run of a dataset, its test split read once, at its end: a row a seed and method."""
    sweeps.open_run(point, folder)
    results = pipeline.run(point.config, folder, dataset)
    rows = []
    for name, result in results.items():
        if result["groups"] is None:
            continue  # the probes: the main job reports them
        for number, accuracy in enumerate(result["test_accuracy"]):
            rows.append(
                {
                    "seed": point.config.seed + number,
                    "training": name,
                    "groups": result["groups"],
                    "is_same_g": result["groups"] == point.config.learner_groups,
                    "test_accuracy": accuracy,
                    "validation_accuracy": result["validation_accuracy"][number],
                }
            )
    return rows


def table(rows: sweeps.Rows) -> str:
    """Mean and standard deviation, and the difference from SGD at the same G."""
    lines = []
    for dataset, augment, training in dict.fromkeys(map(_key, rows)):
        accuracy = _accuracies(rows, dataset, augment, training)
        sgd = _accuracies(rows, dataset, augment, _paired_sgd(rows, dataset, augment))
        difference = ""
        if not training.startswith("sgd") and sgd:
            low, high = paired_interval(accuracy, sgd)
            mean = np.mean(accuracy) - np.mean(sgd)
            difference = f"{100 * mean:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]"
        spread = f" ± {100 * np.std(accuracy, ddof=1):.2f}" if len(accuracy) > 1 else ""
        mean = f"{100 * np.mean(accuracy):.2f}{spread}"
        lines.append(
            [dataset, "yes" if augment else "no", sweeps.training_name(training), mean, difference]
        )
    seeds = len({row["seed"] for row in rows})
    return (
        f"Test accuracy in percent, mean ± standard deviation of {seeds} seeds; its difference "
        "from SGD with the same G in points, with the 95 % interval of Student's t over the seeds' "
        "paired differences:\n\n"
        + sweeps.markdown(["dataset", "augmented", "method", "accuracy", "against SGD"], lines)
    )


def paired_interval(ours: list[float], theirs: list[float]) -> tuple[float, float]:
    """95 % interval of the mean difference of paired values; NaN for a single pair."""
    differences = np.subtract(ours, theirs)
    if len(differences) < 2:
        return np.nan, np.nan
    half = stats.t.ppf(0.975, len(differences) - 1) * stats.sem(differences)
    return differences.mean() - half, differences.mean() + half


def _key(row):
    return row["dataset"], row["augment"], row["training"]


def _accuracies(rows, *key):
    return [row["test_accuracy"] for row in rows if _key(row) == key]


def _paired_sgd(rows, dataset, augment) -> str:
    """The name of SGD at the same G."""
    names = [
        row["training"]
        for row in rows
        if _key(row)[:2] == (dataset, augment)
        and row["training"].startswith("sgd")
        and row["is_same_g"]
    ]
    return names[0] if names else ""


def draw(rows: sweeps.Rows):
    """A dot plot a dataset."""
    figures = {}
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        keys = [key for key in dict.fromkeys(map(_key, rows)) if key[0] == dataset]
        dots = [
            SimpleNamespace(
                name=f"{sweeps.training_name(training)}{', augmented' if augment else ''}",
                test_accuracy=_accuracies(rows, dataset, augment, training),
                is_reference=training.startswith("sgd"),
            )
            for _, augment, training in keys
        ]
        figures[f"accuracy_{dataset}"] = (
            plots.plot_accuracy(dots),
            f"Test accuracy on {dataset}; a mark for each seed.",
        )
    return figures


def run_all() -> None:
    """The sweep, as the command line says."""
    sweeps.run("tables", SCALES, define)


if __name__ == "__main__":
    command_line.start(run_all)
