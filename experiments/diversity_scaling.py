"""Diversity of independent searches of one image: figure 3 of the paper.

    python experiments/diversity_scaling.py --dataset=cifar10

Every image is searched many times with different random numbers. Of each layer the runs' best
candidates are kept in which the true class has a probability above 0.5; the effective number of
different ones, N_eff, is measured over those of the first 1, 2, 4 ... runs. Beside the paper's
measure stand the one of order 1 (the Vendi score), and both with the features centred (then two
candidates always count as one: they differ along a line). Settings, each --sweep.NAME=VALUE
(laptop's): num_images (48), num_runs (32), images_a_point (12).

The command took 5 minutes on 2 CPU cores, another job beside it: N_eff 11.7, 6.8 and 2.7 of 32 in
layers 0, 1 and 2 (docs/reproduction.md).
"""

import dataclasses
from dataclasses import dataclass

import command_line
import jax
import numpy as np
import sweep_points
import sweep_rows
import sweeps

from dsl_jax import measures, plots
from dsl_jax.config import Preset
from dsl_jax.networks import SEARCH, make_stages, purpose_key
from dsl_jax.progress import progress_bar

KEPT_ABOVE = np.log(0.5)  # log-likelihood of the true class


@dataclass(frozen=True)
class Settings(sweeps.Settings):
    """What is swept: the first num_images training images, each searched num_runs times."""

    num_seeds: int | None = 1
    num_images: int = 48
    num_runs: int = 32
    images_a_point: int = 12

    def __post_init__(self):
        for name in ("num_images", "num_runs", "images_a_point"):
            if getattr(self, name) < 1:
                raise ValueError(f"sweep.{name} is {getattr(self, name)}: it must be at least 1")


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


def define(config: Preset, settings: Settings) -> sweeps.Sweep:
    """A point for every few images; a candidate is the best of its run."""
    sweeps.only_one_seed(config, "diversity_scaling")
    config = dataclasses.replace(config, search=dataclasses.replace(config.search, target="best"))
    points = []
    for start in range(0, settings.num_images, settings.images_a_point):
        rows = range(start, min(start + settings.images_a_point, settings.num_images))
        points.append(
            sweep_points.search_point(
                f"images-{rows[0]}-{rows[-1]}",
                {"first_image": rows[0], "last_image": rows[-1], "of_runs": settings.num_runs},
                config,
                len(rows) * settings.num_runs,
            )
        )

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

    return sweeps.Sweep(points, measure, draw, table)


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


def draw(rows: sweep_rows.Rows):
    """Each measure against the number of runs, a curve a layer."""
    panels = []
    for name, title in NAMES.items():
        lines = {
            sweep_rows.layer_name(layer): sweep_rows.curve(
                sweep_rows.select(rows, layer=layer), "runs", name, sweep_rows.standard_error
            )
            for layer in sweep_rows.values_of(rows, "layer")
        }
        panels.append(
            plots.Panel(lines, "independent runs", "different solutions", title, "log", "log")
        )
    images = len(sweep_rows.values_of(rows, "image"))
    caption = (
        f"Effective number of different solutions, mean over those of {images} training images "
        f"of {rows[0]['dataset']} of which a run was kept; bars: standard error. Two centred "
        "solutions are always one."
    )
    return {"diversity": (plots.plot_curves(panels, legend="layer"), caption)}


def table(rows: sweep_rows.Rows) -> str:
    """All measures over all runs."""
    runs = max(row["runs"] for row in rows)
    images = len(sweep_rows.values_of(rows, "image"))
    lines = []
    for layer in sweep_rows.values_of(rows, "layer"):
        chosen = sweep_rows.select(rows, layer=layer, runs=runs)
        kept = [row["kept"] for row in chosen]
        texts = []
        for name in NAMES:
            values = [row[name] for row in chosen if row[name] is not None]
            error = sweep_rows.standard_error(values) if values else np.nan
            texts.append(f"{np.mean(values) if values else np.nan:.4g} ± {error:.2g}")
        share = f"{sum(kept) / (images * runs):.1%}"
        lines.append([sweep_rows.layer_name(layer), share, np.count_nonzero(kept), *texts])
    header = ["layer", "runs kept", "images", *NAMES.values()]
    return f"{runs} runs of {images} images (mean ± standard error):\n\n" + sweep_rows.markdown(
        header, lines
    )


def run_all() -> None:
    """The sweep, as the command line says."""
    fixed = ("search.target", "variants")
    sweeps.run("diversity_scaling", SCALES, define, fixed)


if __name__ == "__main__":
    command_line.start(run_all)
