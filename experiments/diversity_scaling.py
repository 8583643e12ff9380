"""Diversity of independent searches of one image: figure 3 of the paper.

    python experiments/diversity_scaling.py --dataset=cifar10

Every image is searched many times with different random numbers. Of each layer the runs' best
candidates are kept in which the true class has a probability above 0.5; the effective number of
different ones, N_eff, is measured over those of the first 1, 2, 4 ... runs. Beside the paper's
measure stand the one of order 1 (the Vendi score), and both with the features centred. Settings,
each --sweep.NAME=VALUE: num_images, num_runs, images_a_point.
"""

import dataclasses
from dataclasses import dataclass

import command_line
import jax
import numpy as np
import sweeps

from dsl_jax import devices, measures, plots
from dsl_jax.config import Preset
from dsl_jax.pipeline import SEARCH, make_stages, purpose_key
from dsl_jax.progress import progress_bar
from dsl_jax.search import search

KEPT_ABOVE = np.log(0.5)  # log-likelihood of the true class


@dataclass(frozen=True)
class Settings(sweeps.Settings):
    """What is swept: the first num_images training images, each searched num_runs times."""

    num_seeds: int | None = 1
    num_images: int = 48
    num_runs: int = 32
    images_a_point: int = 12


SCALES = {
    "smoke": Settings(num_images=4, num_runs=4, images_a_point=2),
    "laptop": Settings(),
    "paper": Settings(num_images=1000, num_runs=128, images_a_point=50),
}

MEASURES = {
    "n_eff": measures.effective_solutions,
    "vendi": measures.vendi_score,
    "n_eff_centered": lambda reps: measures.effective_solutions(measures.centered(reps)),
    "vendi_centered": lambda reps: measures.vendi_score(measures.centered(reps)),
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
            sweeps.search_point(
                f"images-{rows[0]}-{rows[-1]}",
                {"first_image": rows[0]},
                config,
                len(rows) * settings.num_runs,
            )
        )

    def measure(point, dataset, _):
        start = point.columns["first_image"]
        rows = np.arange(start, min(start + settings.images_a_point, settings.num_images))
        stages = make_stages(point.config, dataset, config.seed)
        key = purpose_key(config.seed, SEARCH)
        runs = progress_bar(settings.num_runs, unit="run", description=point.name, show=True)
        found = []
        for run in range(settings.num_runs):
            found.append(
                jax.device_get(
                    search(
                        jax.random.fold_in(key, run),
                        stages,
                        dataset.normalize(dataset.train.images[rows]),
                        dataset.train.labels[rows],
                        point.config.search,
                        ids=dataset.train.ids[rows],
                        mesh=devices.device_mesh(),
                    )
                )
            )
            runs.update()
        runs.close()
        return [
            {"layer": layer, "image": int(dataset.train.ids[rows[i]]), **row}
            for layer in range(len(stages))
            for i in range(len(rows))
            for row in measure_runs(
                np.stack([run.representations[layer][i] for run in found]),
                np.array([run.fitness[layer][i, -1] for run in found]),
            )
        ]

    return sweeps.Sweep(points, measure, draw, table)


def measure_runs(candidates: np.ndarray, fitness: np.ndarray) -> sweeps.Rows:
    """Measures of the kept candidates of the first 1, 2, 4 ... runs; None where none is kept.

    candidates: [runs, ...]; fitness: [runs], their log-likelihoods.
    """
    numbers = [2**power for power in range(len(fitness).bit_length()) if 2**power < len(fitness)]
    rows = []
    for runs in [*numbers, len(fitness)]:
        kept = candidates[:runs][fitness[:runs] > KEPT_ABOVE]
        values = {
            name: float(measure(kept)) if len(kept) else None for name, measure in JITTED.items()
        }
        rows.append({"runs": runs, "kept": len(kept), **values})
    return rows


JITTED = {name: jax.jit(measure) for name, measure in MEASURES.items()}


def draw(rows: sweeps.Rows):
    """Each measure against the number of runs, a curve a layer."""
    panels = []
    for name, title in NAMES.items():
        lines = {
            sweeps.layer_name(layer): sweeps.curve(
                sweeps.select(rows, layer=layer), "runs", name, sweeps.standard_error
            )
            for layer in sweeps.values_of(rows, "layer")
        }
        panels.append(
            plots.Panel(lines, "independent runs", "different solutions", title, "log", "log")
        )
    images = len(sweeps.values_of(rows, "image"))
    caption = (
        f"Effective number of different solutions, mean over those of {images} training images "
        f"of {rows[0]['dataset']} of which a run was kept; bars: standard error."
    )
    return {"diversity": (plots.plot_curves(panels, legend="layer"), caption)}


def table(rows: sweeps.Rows) -> str:
    """All measures over all runs."""
    runs = max(row["runs"] for row in rows)
    images = len(sweeps.values_of(rows, "image"))
    lines = []
    for layer in sweeps.values_of(rows, "layer"):
        chosen = sweeps.select(rows, layer=layer, runs=runs)
        kept = [row["kept"] for row in chosen]
        texts = []
        for name in NAMES:
            values = [row[name] for row in chosen if row[name] is not None]
            error = sweeps.standard_error(values) if values else np.nan
            texts.append(f"{np.mean(values) if values else np.nan:.4g} ± {error:.2g}")
        share = f"{sum(kept) / (images * runs):.1%}"
        lines.append([sweeps.layer_name(layer), share, np.count_nonzero(kept), *texts])
    header = ["layer", "runs kept", "images", *NAMES.values()]
    return f"{runs} runs of {images} images (mean ± standard error):\n\n" + sweeps.markdown(
        header, lines
    )


def run_all() -> None:
    """The sweep, as the command line says."""
    sweeps.run("diversity_scaling", SCALES, define)


if __name__ == "__main__":
    command_line.start(run_all)
