"""What makes a searched target learnable: fitness, learnable share, accuracy and cost of each way.

    python experiments/learnable.py --dataset=mnist_5k

A way of making targets changes fields of the preset. For each, a network learns the targets of the
training images; then the validation images are searched alike, and the share of their targets'
variance that the network's representations explain is measured, layer by layer: what a target has
that can be predicted from an image. No test image is read.

Settings, each --sweep.NAME=VALUE; in brackets laptop's:

    options          names, see OPTIONS and FACTORS (all that change something)
    num_train        of which validation_size are held out (2500)
    validation_size  (500)
    num_seeds        (1)
"""

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))  # for python -m and python -P
from common import command_line, sweep_points, sweep_rows, sweeps
from common.overrides import override
from common.sizes import with_generations

from dsl_jax import measures
from dsl_jax.config import RunConfig
from dsl_jax.evolution.operators import normalize
from dsl_jax.learning.evaluation import representations_of
from dsl_jax.reports import plots
from dsl_jax.runs import steps
from dsl_jax.runs.folder import RunFolder, search_seconds
from dsl_jax.values import one_of

MOST_IMAGES = 500  # of the validation images, searched


# With a learning rate for biases there, networks stay at chance (docs/choices.md).
NOT_NORMALIZED = {"normalize_blocks": "False", "learn.bias_rate_factor": "0"}
OPTIONS = {
    "preset": {},
    "target_best": {"search.target": "best"},
    "two_searches": {"search.num_searches": "2"},
    "four_searches": {"search.num_searches": "4"},
    "stop_at_0.9": {"search.stop_probability": "0.9"},
    "stop_at_0.6": {"search.stop_probability": "0.6"},
    "smoothing_noise": {"search.smoothing": "noise"},
    "smoothing_child": {"search.smoothing": "child"},
    "pre_gelu": {"representation": "pre_gelu"},
    "not_normalized": NOT_NORMALIZED,
    "not_normalized_matching": NOT_NORMALIZED | {"learn.matching": "normalized"},
    "SimpleGA": {"search.strategy": "SimpleGA"},
    "DifferentialEvolution": {"search.strategy": "DifferentialEvolution"},
    "SNES": {"search.strategy": "SNES"},
    "Open_ES": {"search.strategy": "Open_ES"},
    "Sep_CMA_ES": {"search.strategy": "Sep_CMA_ES"},
}
FACTORS = {"half_the_generations": 0.5, "twice_the_generations": 2.0}


@dataclass(frozen=True)
class Settings(sweeps.Settings):
    """What is swept."""

    options: tuple[str, ...] = (*OPTIONS, *FACTORS)


SCALES = {
    "smoke": Settings(options=("preset", "SNES")),
    "laptop": Settings(num_train=2500, validation_size=500, num_seeds=1),
    "paper": Settings(),
}


def define(config: RunConfig, settings: Settings) -> sweeps.Sweep:
    """A point an option and seed."""
    config = dataclasses.replace(config, variants=("all_layers",))
    points, searched = [], set()
    for name in settings.options:
        one_of("option", name, Settings.options)
        chosen = changed(config, name)
        if chosen == config and name != "preset":
            continue
        for seed in config.seeds:
            columns = {"option": name, "seed": seed}
            one = dataclasses.replace(chosen, seed=seed, num_seeds=1)
            digest = sweep_points.search_digest(one), seed
            is_new = digest not in searched
            point = sweep_points.run_point(f"{name}-{seed}", columns, one, is_searched=is_new)
            points.append(sweep_points.with_validation_search(point, MOST_IMAGES))
            searched.add(digest)
    return sweeps.Sweep(points, measure, draw, table)


def changed(config: RunConfig, option: str) -> RunConfig:
    """The configuration with an option."""
    if option in FACTORS:
        search = with_generations(config.search, FACTORS[option])
        return dataclasses.replace(config, search=search)
    return override(config, OPTIONS[option])


def measure(point: sweeps.Point, dataset, folder) -> sweep_rows.Rows:
    """Searches, trains, searches validation images; one row."""
    config, seed = point.config, point.config.seed
    (row,) = sweep_points.validation_rows(point, dataset, folder)
    if row.get("failure"):
        return [row]
    split, searched = sweep_points.search_validation(config, dataset, seed, MOST_IMAGES)
    (training,) = steps.trainings(config)
    network = RunFolder(folder, config).network(f"seed_{seed}/{training.name}")
    ours = representations_of(network, dataset, split)
    if config.learn.matching == "normalized":  # what was trained to match
        ours = [jax.vmap(normalize)(h) for h in ours]
    shares = {
        f"learnable_{layer}": float(measures.explained_variance(ours[layer], targets))
        for layer, targets in enumerate(searched[:-1])
    }
    return [row | shares | {"search_seconds": search_seconds(folder, seed)}]


def describe(option: str) -> str:
    """What an option changes."""
    if option in FACTORS:
        return f"all generations x {FACTORS[option]:g}"
    return "; ".join(f"{field}={value}" for field, value in OPTIONS[option].items())


def table(rows: sweep_rows.Rows) -> str:
    """A row an option, means over the seeds."""
    lines = []
    for option in sweep_rows.values_of(rows, "option"):
        chosen = sweep_rows.select(rows, option=option)

        def means(beginning, rows=chosen):
            rows = [row for row in rows if any(name.startswith(beginning) for name in row)]
            names = [name for name in rows[0] if name.startswith(beginning)] if rows else []
            return [float(np.mean([row[name] for row in rows])) for name in names]

        lines.append(
            [
                option,
                describe(option),
                ", ".join(f"{value:.3f}" for value in means("cross_entropy_")),
                ", ".join(f"{value:.3f}" for value in means("learnable_")),
                sweep_rows.percentages(chosen, "validation_accuracy"),
                ", ".join(f"{seconds:.0f}" for seconds in means("search_seconds")),
            ]
        )
    header = ["option", "changes", "cross-entropy after each layer", "learnable share of each"]
    return (
        "Mean cross-entropy (nats) of the best candidates of the training images; share of the "
        "variance of the validation images' targets that the trained network explains, block by "
        "block; validation accuracy of the best epoch, a number a seed; seconds of the search, "
        "compilation included (0: the targets were there).\n\n"
        + sweep_rows.markdown([*header, "accuracy", "search, s"], lines)
    )


def draw(rows: sweep_rows.Rows):
    """A dot an option."""
    dots = sweep_rows.dots(rows, "option", "validation_accuracy")
    caption = f"Validation accuracy on {rows[0]['dataset']}, {sweep_rows.seeds_note(rows)}."
    return {"learnable": (plots.plot_accuracy(dots, "validation"), caption)}


def run_all() -> None:
    """The sweep, as the command line says."""
    fixed = ("variants", "sgd_groups", "target_controls", "searched")
    sweeps.run("learnable", SCALES, define, fixed=fixed)


if __name__ == "__main__":
    command_line.start(run_all)
