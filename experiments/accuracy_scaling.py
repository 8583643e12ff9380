"""Accuracy after learning against the size of the search: figure 4 of the paper.

    python experiments/accuracy_scaling.py --dataset=mnist

Populations are in the paper's proportions of parents, explorers and refiners, 20 : 100 : 120; the
generations of all layers grow by one factor. Every point is searched and learned anew, and judged
on the validation images at its best epoch; no test image is read.

Settings, each --sweep.NAME=VALUE; in brackets laptop's:

    populations      multiples of 12 (12,24,48,96,192)
    factors          on the generations (0.0,0.25,0.5,1.0,2.0,4.0)
    population       with which the factors are swept (96)
    num_train        of which validation_size are held out (2000)
    validation_size  (1000)
    num_seeds        (1)

The command took 30 minutes on 2 CPU cores, another job beside it: 27.7 % without any search, 93.4
to 96.8 % from a quarter to four times laptop's generations. On CIFAR-10, 38 minutes on one core,
it is 21.1 %, and 34.6 to 45.1 % (docs/reproduction.md).
"""

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))  # for python -m and python -P
from common import command_line, curves, sweep_points, sweep_rows, sweeps
from common.sizes import POPULATION, Size, columns, sizes

from dsl_jax.config import RunConfig


@dataclass(frozen=True)
class Settings(sweeps.Settings):
    """What is swept. Factor 0 searches nothing: the best of the noisy images, propagated."""

    populations: tuple[int, ...] = (12, 24, 48, 96, 192)
    factors: tuple[float, ...] = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
    population: int = 96


SCALES = {
    "smoke": Settings(populations=(12, 24), factors=(0.0, 1.0), population=24),
    "laptop": Settings(num_train=2000, validation_size=1000),
    "paper": Settings(
        num_seeds=1,
        populations=(24, 60, 120, 240, 480),
        factors=(0.0, 0.1, 0.25, 0.5, 1.0),
        population=240,
    ),
}


def define(config: RunConfig, settings: Settings) -> sweeps.Sweep:
    """A point for every population, and one for every factor."""
    points = [
        sweep_points.run_point(
            size.name,
            columns(size, config.search),
            dataclasses.replace(config, search=size.of(config.search), variants=("all_layers",)),
        )
        for size in sizes(settings.populations, settings.factors, settings.population)
    ]

    def draw(rows):
        full = columns(Size(settings.population), config.search)["generations"]
        by_population = sweep_rows.select(rows, factor=1.0)
        by_factor = sweep_rows.select(rows, population=settings.population)
        unsearched = [
            row["validation_accuracy"] for row in sweep_rows.select(by_factor, factor=0.0)
        ]
        by_factor = [row for row in by_factor if row["factor"]]  # the other would dwarf the rest
        panels = [
            _panel(by_population, "population", "population", f"generations {full}", "log"),
            _panel(by_factor, "factor", f"factor on the generations {full}",
                   f"population {settings.population}", "log"),
        ]  # fmt: skip
        caption = (
            f"Validation accuracy of the best epoch, {rows[0]['dataset']}, "
            f"{sweep_rows.seeds_note(rows)}."
        )
        if unsearched:
            caption += f" Without any search: {np.mean(unsearched):.1%}."
        return {"accuracy_scaling": (curves.plot_curves(panels), caption)}

    return sweeps.Sweep(points, sweep_points.validation_rows, draw, table)


def _panel(rows, along, label, title, scale):
    percent = [row | {"percent": 100 * row["validation_accuracy"]} for row in rows]
    lines = {sweep_rows.training_name("all_layers"): sweep_rows.curve(percent, along, "percent")}
    return curves.Panel(lines, label, "validation accuracy, %", title, scale)


def table(rows: sweep_rows.Rows) -> str:
    """A row a point: what was searched, how fit the targets are, how well they teach."""
    lines = []
    for population, factor in dict.fromkeys((row["population"], row["factor"]) for row in rows):
        chosen = sweep_rows.select(rows, population=population, factor=factor)
        means = [
            float(np.mean([row[f"cross_entropy_{layer}"] for row in chosen])) for layer in range(4)
        ]
        accuracies = sweep_rows.percentages(chosen, "validation_accuracy", 2)
        lines.append([population, chosen[0]["generations"], *means, accuracies])
    header = ["population", "generations", *map(sweep_rows.layer_name, range(4)), "accuracy"]
    return (
        "Mean cross-entropy (nats) of the best after each layer; best validation accuracy, a "
        "number a seed:\n\n" + sweep_rows.markdown(header, lines)
    )


def run_all() -> None:
    """The sweep, as the command line says."""
    fixed = (*POPULATION, "variants", "target_controls", "searched")
    sweeps.run("accuracy_scaling", SCALES, define, fixed=fixed)


if __name__ == "__main__":
    command_line.start(run_all)
