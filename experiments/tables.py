"""Test accuracy of searched targets and of SGD: tables 1 and 2 of the paper.

    python experiments/tables.py --sweep.datasets=mnist,cifar10

For every dataset, with and without augmentation, and every seed: SGD, targets for all layers, and
targets for all but block 0. A dataset and seed is searched once; the augmented runs learn from the
same targets.

Settings, each --sweep.NAME=VALUE; in brackets laptop's:

    datasets         (that of --dataset)
    augment          (False,True)
    num_train        of which validation_size are held out (2500)
    validation_size  (500)
    num_seeds        (3)

The command with --config.sgd_groups='(2,)' took 27 minutes for MNIST without augmentation and 41
for CIFAR-10, on 2 CPU cores, another job beside it: 97.90 % against SGD's 97.71, and 48.67 against
44.69 (docs/reproduction.md). SGD alone, with all G (--config.variants="('sgd',)"), took 55 minutes
on one core: at its best G 97.50 and 47.33 %, augmented 98.13 and 54.55.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # for python -m and python -P
from common import command_line, sweep_points, sweep_rows, sweeps
from common.sweep_failures import run_to_the_end

from dsl_jax import presets
from dsl_jax.config import RunConfig
from dsl_jax.reports import plots


@dataclass(frozen=True)
class Settings(sweeps.Settings):
    """What is swept. datasets: none for that of --dataset."""

    datasets: tuple[str, ...] = ()
    augment: tuple[bool, ...] = (False, True)


SCALES = {
    "smoke": Settings(num_seeds=1),
    "laptop": Settings(num_train=2500, validation_size=500, num_seeds=3),
    "paper": Settings(),
}


def define(config: RunConfig, settings: Settings) -> sweeps.Sweep:
    """A point for every dataset, plain or augmented."""
    if settings.datasets and command_line.DATASET.present:
        raise ValueError("--dataset has no effect beside --sweep.datasets: leave one of them out")
    points = []
    for dataset in settings.datasets or (config.dataset,):
        for augment in settings.augment:
            change = presets.with_augmentation if augment else (lambda config: config)
            points.append(
                sweep_points.run_point(
                    f"{dataset}-{'augmented' if augment else 'plain'}",
                    {"augment": augment},
                    sweeps.configure(settings, dataset, change),
                    is_searched=augment == settings.augment[0],
                )
            )
    return sweeps.Sweep(points, measure, draw, table)


def measure(point: sweeps.Point, dataset, folder) -> sweep_rows.Rows:
    """The whole run of a dataset, its test split read once, at its end: a row a seed and method."""
    sweep_points.open_run(point, folder)
    rows = []
    for seed, name, training, result, failure in run_to_the_end(point.config, folder, dataset):
        row = {
            "seed": seed,
            "training": name,
            "groups": training.groups,
            "is_same_g": training.groups == point.config.learner_groups,
            "is_best_sgd": result is not None and result.best_by_validation,
        }
        if result is None:
            rows.append(row | {"failure": failure})
            continue
        accuracies = {
            "test_accuracy": result.test_accuracy[0],
            "validation_accuracy": result.validation_accuracy[0],
        }
        rows.append(row | accuracies)
    return rows


def table(rows: sweep_rows.Rows) -> str:
    """Mean and standard deviation, and the differences from both SGD baselines."""
    lines = []
    for dataset, augment, training in dict.fromkeys(map(_key, rows)):
        here = sweep_rows.select(rows, dataset=dataset, augment=augment)
        ours = sweep_rows.select(here, training=training)
        baselines = ("is_same_g", "is_best_sgd")
        if training.startswith("sgd"):
            differences = [""] * len(baselines)
        else:
            differences = [
                sweep_rows.difference(*sweep_rows.paired(ours, _sgd(here, name), "test_accuracy"))
                for name in baselines
            ]
        percent = sweep_rows.mean_percent(ours, "test_accuracy")
        name = training_name((sweep_rows.ended(ours) or ours)[0])
        lines.append([dataset, "yes" if augment else "no", name, percent, *differences])
    header = [
        "dataset",
        "augmented",
        "method",
        "accuracy",
        "minus SGD's, same G",
        "minus best SGD's",
    ]
    return (
        f"{sweep_rows.paired_note(rows)} The best SGD is that of the G with the best validation "
        "accuracy.\n\n" + sweep_rows.markdown(header, lines)
    )


def _key(row):
    return row["dataset"], row["augment"], row["training"]


def _sgd(rows, baseline):
    """The rows of SGD that a column marks."""
    return [row for row in rows if row["training"].startswith("sgd") and row[baseline]]


def training_name(row) -> str:
    """As the table calls a training."""
    marks = {"is_same_g": "the searched targets' G", "is_best_sgd": "best by validation"}
    marks = [mark for column, mark in marks.items() if row[column]]
    name = sweep_rows.training_name(row["training"])
    return f"{name} ({', '.join(marks)})" if row["training"].startswith("sgd") else name


def label(row) -> str:
    """As the figure calls a training."""
    return sweep_rows.training_name(row["training"]) + (", augmented" if row["augment"] else "")


def draw(rows: sweep_rows.Rows):
    """A dot plot a dataset."""
    figures = {}
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        labelled = [row | {"label": label(row)} for row in sweep_rows.select(rows, dataset=dataset)]
        dots = sweep_rows.dots(labelled, "label", "test_accuracy", lambda x: x.startswith("SGD"))
        figures[f"accuracy_{dataset}"] = (
            plots.plot_accuracy(dots),
            f"Test accuracy on {dataset}; a mark for each seed.",
        )
    return figures


def run_all() -> None:
    """The sweep, as the command line says."""
    sweeps.run("tables", SCALES, define, fixed=("dataset", "learn.augment", "sgd.augment"))


if __name__ == "__main__":
    command_line.start(run_all)
