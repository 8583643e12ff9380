"""Fitness against the size of the search: figure 2 of the paper.

    python experiments/fitness_scaling.py --dataset=cifar10

Each layer is evolved alone (the others have no generations), with populations in the paper's
proportions of parents, explorers and refiners, 20 : 100 : 120. One search of the most generations
gives all smaller numbers. BatchNorm statistics are measured, as ever, on the candidates that the
search will make, so the frozen network differs a little with the layer that evolves, and with what
is smoothed.

Settings, each --sweep.NAME=VALUE; in brackets laptop's:

    num_images   (60)
    populations  multiples of 12 (24,60,120,240)
    generations  the most (100)
    layers       (0,1,2,3)
    smoothings   (noise,child)

The command with --config.normalize_blocks=False took 17 minutes on 2 CPU cores, another job beside
it: with noise smoothed and 240 candidates 1.98 to 0.31 nats in layer 0 (docs/reproduction.md).
"""

import dataclasses
import itertools
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))  # for python -m and python -P
from common import command_line, curves, sweep_points, sweep_rows, sweeps
from common.sizes import PARTS, POPULATION, with_population

from dsl_jax.config import RunConfig, SearchConfig
from dsl_jax.keys import SEARCH, purpose_key
from dsl_jax.runs.untrained import make_stages
from dsl_jax.values import at_least

PAPER_POPULATION = 240


@dataclass(frozen=True)
class Settings(sweeps.Settings):
    """What is swept. num_images: of the training images, the first."""

    num_seeds: int | None = 1
    num_images: int = 60
    populations: tuple[int, ...] = (24, 60, 120, 240)
    generations: int = 100
    layers: tuple[int, ...] = (0, 1, 2, 3)
    smoothings: tuple[str, ...] = ("noise", "child")

    def __post_init__(self):
        for name in ("populations", "layers", "smoothings"):
            if not getattr(self, name):
                raise ValueError(f"sweep.{name} is empty")
        at_least(1, self, "num_images", "generations")


SCALES = {
    "smoke": Settings(num_images=8, populations=(12, 24), generations=6, smoothings=("noise",)),
    "laptop": Settings(),
    "paper": Settings(num_images=1000, populations=(24, 60, 120, 240, 480), generations=300),
}


def alone(config: SearchConfig, layer: int, generations: int) -> SearchConfig:
    """The search with generations in one layer only."""
    layers = tuple(
        dataclasses.replace(schedule, generations=generations if number == layer else 0)
        for number, schedule in enumerate(config.layers)
    )
    return dataclasses.replace(config, layers=layers)


def points_of(config: RunConfig, settings: Settings) -> list[sweeps.Point]:
    """A point for every smoothing, layer and population."""
    points = []
    for smoothing, layer, population in itertools.product(
        settings.smoothings, settings.layers, settings.populations
    ):
        search = with_population(alone(config.search, layer, settings.generations), population)
        search = dataclasses.replace(search, smoothing=smoothing)
        columns = {
            "smoothing": smoothing,
            "layer": layer,
            "population": population,
            "images": settings.num_images,
        }
        chosen = dataclasses.replace(config, search=search)
        name = f"{smoothing}-layer{layer}-{population}"
        points.append(sweep_points.search_point(name, columns, chosen, settings.num_images))
    return points


def define(config: RunConfig, settings: Settings) -> sweeps.Sweep:
    """The sweep of these points; those of one smoothing and layer share their stages."""
    sweeps.only_one_seed(config, "fitness_scaling")
    sweep_points.check_first_images(config, settings.num_images)
    for layer in settings.layers:
        if not 0 <= layer < len(config.search.layers):
            raise ValueError(f"sweep.layers: {layer} is not among 0 to {len(config.widths)}")
    last_stages = {}

    def stages_of(point, dataset):
        search = with_population(point.config.search, PARTS)  # it plays no part in them
        chosen = dataclasses.replace(point.config, search=search)
        if chosen not in last_stages:
            last_stages.clear()
            last_stages[chosen] = make_stages(chosen, dataset, config.seed)
        return last_stages[chosen]

    def measure(point, dataset, _):
        found = sweep_points.search_images(
            purpose_key(config.seed, SEARCH),
            stages_of(point, dataset),
            dataset,
            sweep_points.first_images(dataset, 0, settings.num_images),
            point.config,
            progress=True,
        )
        # A logarithm of a softmax may round to a little above 0.
        trace = np.maximum(-np.float64(found.fitness[point.columns["layer"]]), 0)
        return [
            {
                "generation": int(generation),
                "cross_entropy": float(trace[:, generation].mean()),
                "standard_error": sweep_rows.standard_error(trace[:, generation]),
            }
            for generation in generations_shown(settings.generations)
        ]

    return sweeps.Sweep(
        points_of(config, settings), measure, draw, table, unused=sweeps.LEARNING_FIELDS
    )


def generations_shown(most: int) -> list[int]:
    """0, and numbers evenly spaced on a logarithmic axis up to the last."""
    return [0, *np.unique(np.geomspace(1, most, 12).round().astype(int)).tolist()]


def draw(rows: sweep_rows.Rows):
    """Against population, and against generations, for each smoothing."""
    figures = {}
    last = max(row["generation"] for row in rows)
    populations = sorted(sweep_rows.values_of(rows, "population"))
    largest = max([n for n in populations if n <= PAPER_POPULATION] or populations[:1])
    for smoothing in sweep_rows.values_of(rows, "smoothing"):
        chosen = sweep_rows.select(rows, smoothing=smoothing)
        panels = [
            _panel(chosen, "population", "log", f"after {last} generations", generation=last),
            _panel(chosen, "generation", "symlog", f"population {largest}", population=largest),
        ]
        caption = (
            f"Best cross-entropy, mean over {chosen[0]['images']} training images of "
            f"{chosen[0]['dataset']}, bars: standard error. What is smoothed: {smoothing}."
        )
        figures[f"fitness_{smoothing}"] = (curves.plot_curves(panels, legend="evolved"), caption)
    return figures


def _panel(rows, along, scale, title, **fixed):
    rows = sorted(sweep_rows.select(rows, **fixed), key=lambda row: row[along])
    lines = {}
    for layer in sorted(sweep_rows.values_of(rows, "layer")):
        line = sweep_rows.select(rows, layer=layer)
        columns = (along, "cross_entropy", "standard_error")
        lines[sweep_rows.layer_name(layer)] = tuple([row[name] for row in line] for name in columns)
    label = "best cross-entropy, nats\n(lower is better)"
    return curves.Panel(lines, along, label, title, scale)


def table(rows: sweep_rows.Rows) -> str:
    """Cross-entropy before, and after the last generation, of each population."""
    last = max(row["generation"] for row in rows)
    populations = sorted(sweep_rows.values_of(rows, "population"))
    lines = []
    for smoothing, layer in dict.fromkeys((row["smoothing"], row["layer"]) for row in rows):
        chosen = sweep_rows.select(rows, smoothing=smoothing, layer=layer)
        known = {(row["generation"], row["population"]): row["cross_entropy"] for row in chosen}
        cells = [(0, max(populations)), *((last, population) for population in populations)]
        name = sweep_rows.layer_name(layer)
        lines.append([smoothing, name, *(known.get(cell, "") for cell in cells)])
    header = ["smoothed", "evolved", "before", *(f"population {n}" for n in populations)]
    return (
        f"Mean best cross-entropy (nats) over {rows[0]['images']} images, before (largest "
        f"population) and after {last} generations:\n\n" + sweep_rows.markdown(header, lines)
    )


def run_all() -> None:
    """The sweep, as the command line says."""
    fixed = (*POPULATION, "search.num_searches", "search.layers", "search.smoothing")
    sweeps.run("fitness_scaling", SCALES, define, fixed)


if __name__ == "__main__":
    command_line.start(run_all)
