"""Targets that are searched anew before each epoch, from what the network makes of the images then.

    python experiments/refresh.py --dataset=cifar10

A search of few generations is a small step from a block's own representation; the network learns it
for an epoch, then it is searched again (`dsl_jax.refreshed`). Methods:

    own             each image with what was searched for it
    permuted        with what was searched for another image of its class
    permuted_steps  with its own representation, moved as that of another of its class was
    unrelated       searched by a fitness that has nothing to do with the label
                    (`dsl_jax.evolution.fitness.unrelated`), then moved on or back to the mean
                    cosine to the network's own representation that a search of the first 200 images
                    by log-probability leaves
    sgd             SGD

All but SGD learn the head from labels, as a search all but gives them. What a target has in common
with a step against the gradient of the loss is measured in each epoch.

Settings, each --sweep.NAME=VALUE; in brackets laptop's:

    methods          (all)
    generations      of each block (3)
    strength         of the search's noise (0.1)
    num_train        of which validation_size choose the epoch (3000)
    validation_size  (1000)
    num_seeds        (3)
"""

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).parent))  # for python -m and python -P
from common import command_line, curves, plan, sweep_points, sweep_rows, sweeps
from common.predictions import in_text, keep_predictions, minus, over, with_predictions
from common.refreshing import Targets

from dsl_jax.config import RunConfig, SearchConfig
from dsl_jax.data.dataset import Dataset
from dsl_jax.evolution.fitness import unrelated
from dsl_jax.learning.result import LearnResult
from dsl_jax.runs.steps import Search
from dsl_jax.values import one_of

METHODS = ("own", "permuted", "permuted_steps", "unrelated", "sgd")
TITLES = {
    "own": "searched anew",
    "permuted": "another image's of the class",
    "permuted_steps": "own representation, another image's step",
    "unrelated": "searched by an unrelated fitness, as far",
    "sgd": "SGD",
}


@dataclass(frozen=True)
class Settings(sweeps.Settings):
    """What is compared, and how far a target may go."""

    methods: tuple[str, ...] = METHODS
    generations: int = 3
    strength: float = 0.1


SCALES = {
    "smoke": Settings(num_train=120, validation_size=40, generations=1),
    "laptop": Settings(num_train=3000, validation_size=1000, num_seeds=3),
    "paper": Settings(validation_size=4000, num_seeds=3),
}


def define(config: RunConfig, settings: Settings) -> sweeps.Sweep:
    """A point for each seed and method."""
    for name in settings.methods:
        one_of("sweep.methods", name, METHODS)
    variants = [variant for variant in config.variants if variant != "sgd"]
    if len(variants) != 1:
        raise ValueError(f"config.variants is {config.variants}: give one, as ('all_layers','sgd')")
    if not config.normalize_blocks:
        raise ValueError(
            "config.normalize_blocks is False: targets are normalised, so that they are near the "
            "network's own representations only where blocks end so; set it to True"
        )
    points = []
    for seed in config.seeds:
        for method in settings.methods:
            chosen = dataclasses.replace(
                config,
                seed=seed,
                num_seeds=1,
                variants=("sgd",) if method == "sgd" else tuple(variants),
                sgd_groups=(config.learner_groups,),
                search=short(config.search, settings, method),
            )
            columns = {"method": method, "seed": seed}
            name = f"{method}-seed_{seed}"
            point = sweep_points.run_point(name, columns, chosen, is_searched=False)
            if method != "sgd":
                point = with_cost_of_epochs(point)
            points.append(point._replace(disk_bytes=0))
    return sweeps.Sweep(points, measure, draw, table, with_predictions)


def short(search: SearchConfig, settings: Settings, method: str) -> SearchConfig:
    """A method's search: few generations of one strength, explorers twice as far."""
    *blocks, logits = (
        dataclasses.replace(layer, mutation_strength=settings.strength) for layer in search.layers
    )
    layers = tuple(
        dataclasses.replace(layer, generations=settings.generations, exploration_boost=2.0)
        for layer in blocks
    )
    logits = dataclasses.replace(logits, generations=0)
    fitness = search.fitness if method != "unrelated" else unrelated
    return dataclasses.replace(search, layers=(*layers, logits), fitness=fitness)


def with_cost_of_epochs(point: sweeps.Point) -> sweeps.Point:
    """The point with the cost of a search before each epoch."""
    epochs, images = point.config.learn.epochs, plan.image_counts(point.config)[0]
    step = Search("targets", point.config.search, network="learner")
    candidates, seconds = plan.search_cost(point.config, images, step)
    seconds = epochs * (seconds - plan.COMPILE_SECONDS_PER_SEARCH) + plan.COMPILE_SECONDS_PER_SEARCH
    return sweep_points.with_more(point, epochs * candidates, seconds)


# --------------------------------------------------------------------------------------------
# A training
# --------------------------------------------------------------------------------------------


def measure(point: sweeps.Point, dataset: Dataset, folder: Path) -> sweep_rows.Rows:
    """A row for the network, and one an epoch; a file with what it says of each test image."""
    config, method = point.config, point.columns["method"]
    targets, learning = None, config.sgd
    if method != "sgd":
        learning = dataclasses.replace(config.learn, variant=config.variants[0])
        path = folder / f"along_gradient-{sweep_points.point_digest(point)}.json"
        targets = Targets(point, dataset, path)
    learned, said = sweep_points.train(point, dataset, targets, learning, folder)
    keep_predictions(folder, dataset, {method: said})
    cosines = {} if targets is None else targets.cosines()
    return rows_of(point, learned, said == dataset.test.labels, cosines)


def rows_of(
    point: sweeps.Point,
    learned: LearnResult,
    is_right: np.ndarray,
    cosines: dict[str, list[float]],
) -> sweep_rows.Rows:
    """The row of the network, with its test accuracy, and those of its epochs."""
    method, best = point.columns["method"], learned.best_epoch
    rows: sweep_rows.Rows = [
        {
            "training": method,
            "epoch": 0,
            "best_epoch": best["epoch"],
            "validation_accuracy": best["validation_accuracy"],
            "test_accuracy": float(np.mean(is_right)),
            "predictions": f"points/{point.name}.npz",
        }
    ]
    for record in learned.history:
        row = {"training": method, "epoch": record["epoch"]}
        row |= {name: record.get(name) for name in ("validation_accuracy", "train_loss", "seconds")}
        for block, value in enumerate(cosines.get(str(record["epoch"]), ())):
            row[f"along_gradient_{block}"] = round(value, 5)
        rows.append(row)
    return rows


# --------------------------------------------------------------------------------------------
# What is drawn
# --------------------------------------------------------------------------------------------


def blocks_of(rows: sweep_rows.Rows) -> list[str]:
    """The columns of the cosines, one a block."""
    return sorted({name for row in rows for name in row if name.startswith("along_gradient_")})


def table(rows: sweep_rows.Rows) -> str:
    """A line a method: accuracy, its differences, and the cosines."""
    networks = sweep_rows.select(rows, epoch=0)
    trained = {m: found for m in METHODS if (found := sweep_rows.select(networks, method=m))}
    others = [method for method in trained if method != "own"]
    lines, steps = [], []
    for method, ours in trained.items():
        lines.append(
            [
                TITLES[method],
                sweep_rows.mean_percent(ours, "test_accuracy"),
                sweep_rows.mean_percent(ours, "validation_accuracy"),
                *(in_text(minus(ours, trained[m])) if method == "own" else "" for m in others),
            ]
        )
        epochs = [row for row in sweep_rows.select(rows, method=method) if row["epoch"]]
        for column in blocks_of(epochs):
            _, means, _ = sweep_rows.curve(epochs, "epoch", column)
            values = (means[0], np.mean(means), means[-1])
            block = f"block {column.rpartition('_')[2]}"
            steps.append([TITLES[method], block, *(f"{x:.3f}" for x in values)])
    controls = ["minus SGD" if m == "sgd" else f"minus {m.replace('_', ' ')}" for m in others]
    header = ["learned", "test", "validation", *controls]
    note = (
        "Accuracies in percent, mean ± standard deviation over seeds. Differences of test accuracy "
        f"in points, with their 95 % interval over {over(rows)}."
    )
    cosines = (
        "Mean cosine of what a target has more than the network's own representation and minus the "
        "gradient of the loss there:"
    )
    parts = [note, sweep_rows.markdown(header, lines)]
    if steps:
        header = ["targets", "of", "first epoch", "mean", "last epoch"]
        parts += [cosines, sweep_rows.markdown(header, steps)]
    return "\n\n".join(parts)


def draw(rows: sweep_rows.Rows) -> dict[str, tuple[Figure, str]]:
    """By epoch: validation accuracy of each method, and the cosines of the method's targets."""
    epochs = [row | {"percent": percent(row)} for row in rows if row["epoch"]]
    methods = [m for m in METHODS if sweep_rows.select(epochs, method=m)]
    accuracy = {
        TITLES[m]: sweep_rows.curve(sweep_rows.select(epochs, method=m), "epoch", "percent")
        for m in methods
    }
    panels = [curves.Panel(accuracy, "epoch", "validation accuracy, %", "accuracy")]
    own = sweep_rows.select(epochs, method="own")
    cosines = {
        f"{TITLES['own']}, block {number}": sweep_rows.curve(own, "epoch", column)
        for number, column in enumerate(blocks_of(own))
    }
    if cosines:
        panels.append(curves.Panel(cosines, "epoch", "cosine", "along minus the gradient"))
    caption = f"Targets searched anew before each epoch, {rows[0]['dataset']}"
    return {"refresh": (curves.plot_curves(panels), f"{caption}, {sweep_rows.seeds_note(rows)}.")}


def percent(row: dict[str, Any]) -> float | None:
    """Validation accuracy in percent, of an epoch that was validated."""
    accuracy = row["validation_accuracy"]
    return None if accuracy is None else 100 * accuracy


def run_all() -> None:
    """The sweep, as the command line says."""
    fixed = ("sgd_groups", "target_controls", "searched")
    fixed += tuple(
        f"search.{x}" for x in ("layers", "fitness", "initial_noise", "stop_probability")
    )

    def change(config: RunConfig) -> RunConfig:
        # A preset's rate is for targets that stay: with 6 this diverges (docs/single_images.md).
        learn = dataclasses.replace(
            config.learn, learning_rate=min(config.learn.learning_rate, 2.0)
        )
        return dataclasses.replace(config, variants=("all_layers", "sgd"), learn=learn)

    sweeps.run("refresh", SCALES, define, fixed=fixed, change=change)


if __name__ == "__main__":
    command_line.start(run_all)
