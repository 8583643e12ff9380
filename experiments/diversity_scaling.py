"""Diversity of independent searches of one image: figure 3 of the paper.

    python experiments/diversity_scaling.py --dataset=cifar10

Every image is searched many times with different random numbers. Of each layer the runs' best
candidates are kept in which the true class has a probability above 0.5; the effective number of
different ones, N_eff, is measured over those of the first 1, 2, 4 ... runs. Beside the paper's
measure stand the one of order 1 (the Vendi score), and both with the features centred (then two
candidates always count as one: they differ along a line).

Settings, each --sweep.NAME=VALUE; in brackets laptop's:

    num_images      (48)
    num_runs        searches of each (32)
    images_a_point  searched, and kept, together (12)
    populations     sizes of the search: multiples of 12, such as 24,48,96,192 (none)
    factors         likewise, on the generations of all layers, such as 0.5,1,2 (none)
    population      with which the factors are swept (96)

Without populations and factors the preset's search is made, and no other.

The command took 5 minutes on 2 CPU cores, another job beside it: N_eff 11.7, 6.8 and 2.7 of 32 in
layers 0, 1 and 2. With --sweep.populations=24,48,96,192 --sweep.factors=0.5,1,2,4 it took 26
minutes on one core: N_eff falls from 14.7 to 5.8 in layer 1 as the population grows
(docs/reproduction.md).
"""

import dataclasses
import functools
import sys
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))  # for python -m and python -P
from common import command_line, curves, sweep_points, sweep_rows, sweeps
from common.sizes import POPULATION, columns, sizes

from dsl_jax import measures
from dsl_jax.config import RunConfig
from dsl_jax.keys import SEARCH, purpose_key
from dsl_jax.progress import progress_bar
from dsl_jax.runs.untrained import make_stages
from dsl_jax.values import at_least

KEPT_ABOVE = np.log(0.5)  # log-likelihood of the true class


@dataclass(frozen=True)
class Settings(sweeps.Settings):
    """What is swept: the first num_images training images, each searched num_runs times."""

    num_seeds: int | None = 1
    num_images: int = 48
    num_runs: int = 32
    images_a_point: int = 12
    populations: tuple[int, ...] = ()
    factors: tuple[float, ...] = ()
    population: int = 96

    def __post_init__(self):
        at_least(1, self, "num_images", "num_runs", "images_a_point")


SCALES = {
    "smoke": Settings(num_images=4, num_runs=4, images_a_point=2),
    "laptop": Settings(),
    "paper": Settings(num_images=1000, num_runs=128, images_a_point=50),
}

MEASURES = {
    "n_eff": measures.effective_solutions,
    "vendi": measures.vendi_score,
    "n_eff_centered": lambda reps, where: measures.effective_solutions(
        measures.centered(reps, where), where
    ),
    "vendi_centered": lambda reps, where: measures.vendi_score(
        measures.centered(reps, where), where
    ),
}
NAMES = {
    "n_eff": "N_eff (the paper's)",
    "vendi": "order 1 (Vendi score)",
    "n_eff_centered": "N_eff, features centred",
    "vendi_centered": "order 1, features centred",
}
Y_LABEL = "different solutions"


def sizes_of(config: RunConfig, settings: Settings) -> dict[str, tuple[dict, RunConfig]]:
    """By the beginning of a point's name: its columns, and the search in this size."""
    if not (settings.populations or settings.factors):
        return {"": ({}, config)}  # the preset's
    sweeps.refuse_overrides(*POPULATION)
    swept = {settings.population, *settings.populations}, {1.0, *settings.factors} - {0}
    if max(map(len, swept)) == 1:
        raise ValueError("one size of the search is no sweep: give more populations or factors")
    return {
        f"{size.name}-": (
            columns(size, config.search),
            dataclasses.replace(config, search=size.of(config.search)),
        )
        for size in sizes(settings.populations, settings.factors, settings.population)
    }


def points_of(config: RunConfig, settings: Settings) -> list[sweeps.Point]:
    """A point for every size of the search and every few images."""
    points = []
    for beginning, (size_columns, sized) in sizes_of(config, settings).items():
        for start in range(0, settings.num_images, settings.images_a_point):
            rows = range(start, min(start + settings.images_a_point, settings.num_images))
            place = {"first_image": rows[0], "last_image": rows[-1], "of_runs": settings.num_runs}
            name = f"{beginning}images-{rows[0]}-{rows[-1]}"
            searched = len(rows) * settings.num_runs
            point = sweep_points.search_point(name, size_columns | place, sized, searched)
            points.append(point)
    return points


def define(config: RunConfig, settings: Settings) -> sweeps.Sweep:
    """A point for every few images; a candidate is the best of its run."""
    sweeps.only_one_seed(config, "diversity_scaling")
    sweep_points.check_first_images(config, settings.num_images)
    config = dataclasses.replace(config, search=dataclasses.replace(config.search, target="best"))

    def measure(point, dataset, _):
        split = sweep_points.first_images(
            dataset, point.columns["first_image"], point.columns["last_image"] + 1
        )
        stages = make_stages(point.config, dataset, config.seed)
        key = purpose_key(config.seed, SEARCH)
        bar = progress_bar(settings.num_runs, unit="run", description=point.name, show=True)
        found = []
        with bar:
            for run in range(settings.num_runs):
                run_key = jax.random.fold_in(key, run)
                found.append(
                    sweep_points.search_images(
                        run_key, stages, dataset, split, point.config, progress=False
                    )
                )
                bar.update()
        return [
            {"layer": layer, "image": int(split.ids[i]), **row}
            for layer in range(len(stages))
            for i in range(len(split.ids))
            for row in measure_runs(
                np.stack([run.representations[layer][i] for run in found]),
                np.array([run.fitness[layer][i, -1] for run in found]),
            )
        ]

    drawn = functools.partial(draw, settings.population)
    return sweeps.Sweep(
        points_of(config, settings), measure, drawn, table, unused=sweeps.LEARNING_FIELDS
    )


def measure_runs(candidates: np.ndarray, fitness: np.ndarray) -> sweep_rows.Rows:
    """Measures of the kept candidates of the first 1, 2, 4 ... runs; None where none is kept.

    candidates: [runs, ...]; fitness: [runs], their log-likelihoods.
    """
    total = len(fitness)
    numbers = [*(2**power for power in range(total.bit_length()) if 2**power < total), total]
    kept = fitness > KEPT_ABOVE
    masks = kept & (np.arange(total) < np.array(numbers)[:, None])
    values = _measure_all(candidates, masks)
    return [
        {
            "runs": runs,
            "kept": int(mask.sum()),
            **{name: float(values[name][i]) if mask.any() else None for name in MEASURES},
        }
        for i, (runs, mask) in enumerate(zip(numbers, masks, strict=True))
    ]


@jax.jit
def _measure_all(candidates, masks):
    """Every measure of the candidates in each of the masks [m, runs]."""
    return {
        name: jax.vmap(measure, (None, 0))(candidates, masks) for name, measure in MEASURES.items()
    }


def draw(population: int, rows: sweep_rows.Rows):
    """Each measure against the number of runs and, where that was swept, the size of the search."""
    images = len(sweep_rows.values_of(rows, "image"))
    caption = (
        f"Effective number of different solutions, mean over those of {images} training images "
        f"of {rows[0]['dataset']} of which a run was kept; bars: standard error."
    )
    if "population" not in rows[0]:
        panels = [
            curves.Panel(
                _lines(rows, "runs", name), "independent runs", Y_LABEL, title, "log", "log"
            )
            for name, title in NAMES.items()
        ]
        figure = curves.plot_curves(panels, legend="layer")
        return {"diversity": (figure, f"{caption} Two centred solutions are always one.")}
    last = [row for row in rows if row["runs"] == row["of_runs"]]
    by_population = sweep_rows.select(last, factor=1.0)
    by_factor = [row for row in sweep_rows.select(last, population=population) if row["factor"]]
    full = by_population[0]["generations"]
    axes = (
        ("population", "population", by_population, f"generations {full}"),
        ("factor", f"factor on generations {full}", by_factor, f"population {population}"),
    )
    panels = [
        curves.Panel(
            _lines(kept, along, name), label, Y_LABEL, f"{NAMES[name]},\n{fixed}", "log", "log"
        )
        for name in ("n_eff", "n_eff_centered")
        for along, label, kept, fixed in axes
        if len(sweep_rows.values_of(kept, along)) > 1
    ]
    caption += f" {rows[0]['of_runs']} runs."
    return {"diversity_size": (curves.plot_curves(panels, legend="layer"), caption)}


def _lines(rows, along, name):
    """A curve a layer."""
    return {
        sweep_rows.layer_name(layer): sweep_rows.curve(
            sweep_rows.select(rows, layer=layer), along, name, sweep_rows.standard_error
        )
        for layer in sweep_rows.values_of(rows, "layer")
    }


def table(rows: sweep_rows.Rows) -> str:
    """All measures over all runs, a row a layer of each size of the search."""
    runs = max(row["runs"] for row in rows)
    images = len(sweep_rows.values_of(rows, "image"))
    lines = []
    size = ("population", "generations") if "population" in rows[0] else ()
    for where in dict.fromkeys(tuple(row[name] for name in (*size, "layer")) for row in rows):
        chosen = sweep_rows.select(
            rows, runs=runs, **dict(zip((*size, "layer"), where, strict=True))
        )
        kept = [row["kept"] for row in chosen]
        texts = []
        for name in NAMES:
            values = [row[name] for row in chosen if row[name] is not None]
            texts.append(_mean_and_error(values))
        share = f"{sum(kept) / (images * runs):.1%}"
        *searched, layer = where
        layer = sweep_rows.layer_name(layer)
        lines.append([*searched, layer, share, np.count_nonzero(kept), *texts])
    header = [*size, "layer", "runs kept", "images", *NAMES.values()]
    return f"{runs} runs of {images} images (mean ± standard error):\n\n" + sweep_rows.markdown(
        header, lines
    )


def _mean_and_error(values: list[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.4g}" if values else ""
    return f"{np.mean(values):.4g} ± {sweep_rows.standard_error(values):.2g}"


def run_all() -> None:
    """The sweep, as the command line says."""
    sweeps.run("diversity_scaling", SCALES, define, fixed=("search.target",))


if __name__ == "__main__":
    command_line.start(run_all)
