"""Cycles of search and learning against SGD and their controls, over paired seeds.

    python experiments/cycles.py --dataset=mnist_5k

Each seed is a whole run: search and learning, then search from the trained network and further
learning, and so on; the controls (see `config.RunConfig.controls`); SGD at the same G, and with
'--config.sgd_groups=(1,2)' also at the best of these by validation. The test split is read once, at
a seed's end. Any field of the method is set by --config, for instance --config.cycles=4
'--config.later_cycles[0].search.layers[0].generations=5'.

Settings, each --sweep.NAME=VALUE; in brackets laptop's:

    num_train        of which validation_size are held out (the preset's)
    validation_size  (the preset's)
    num_seeds        (5)
"""

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))  # for python -m and python -P
from common import command_line, curves, sweep_points, sweep_rows, sweeps
from common.sweep_failures import run_to_the_end

from dsl_jax.config import RunConfig
from dsl_jax.reports import plots
from dsl_jax.reports.titles import training_title

KNOWN = ("kind", "variant", "groups", "cycle")
COSTS = ("candidates", "search_seconds", "seconds")
BASELINES = {
    "sgd": "minus SGD's",
    "best_sgd": "minus SGD's at its best G",
    "long_sgd": "minus that of SGD for as many epochs",
}


@dataclass(frozen=True)
class Settings(sweeps.Settings):
    """What is swept: seeds."""


SCALES = {
    "smoke": Settings(num_train=160, validation_size=40, num_seeds=1),
    "laptop": Settings(num_seeds=5),
    "paper": Settings(num_seeds=3),
}
CYCLES = {"smoke": 2}
VARIANTS = ("all_layers", "sgd")


def with_cycles(config: RunConfig) -> RunConfig:
    """The preset with cycles, and what they are compared with."""
    return dataclasses.replace(config, cycles=CYCLES.get(config.name, 3), variants=VARIANTS)


def define(config: RunConfig, settings: Settings) -> sweeps.Sweep:
    """A point a seed, so that more seeds can join."""
    if "sgd_groups" not in command_line.assigned("config"):  # SGD's G is the learner's
        config = dataclasses.replace(config, sgd_groups=(config.learner_groups,))
    points = [
        sweep_points.run_point(
            f"seed_{seed}", {}, dataclasses.replace(config, seed=seed, num_seeds=1)
        )
        for seed in config.seeds
    ]
    return sweeps.Sweep(points, measure, draw, table)


def measure(point: sweeps.Point, dataset, folder) -> sweep_rows.Rows:
    """A whole run: a row a training; where SGD has more than one G, another for the best.

    One that diverged has its `failure` in place of results, and the others go on.
    """
    config = point.config
    rows = []
    for seed, name, training, result, failure in run_to_the_end(config, folder, dataset):
        row = {
            "seed": seed,
            "training": name,
            "title": training_title(name, training, config.cycles),
            **{column: getattr(training, column) for column in KNOWN},
        }
        if result is None:
            rows.append(row | {"failure": failure})
            continue
        row |= {column: getattr(result, column) for column in COSTS} | {
            "test_accuracy": result.test_accuracy[0],
            "validation_accuracy": result.validation_accuracy[0],
        }
        if result.groups == config.learner_groups:
            rows.append(row)
        if result.best_by_validation and len({config.learner_groups, *config.sgd_groups}) > 1:
            names = {"training": "best_sgd", "kind": "best_sgd"}
            rows.append(row | names | {"title": "SGD, the best G by validation"})
    return rows


def table(rows: sweep_rows.Rows) -> str:
    """Mean and deviation over seeds, paired differences, and what it cost."""
    lines = []
    baselines = {
        kind: title for kind, title in BASELINES.items() if sweep_rows.select(rows, kind=kind)
    }
    cycles = max(row["cycle"] for row in rows)
    for training in sweep_rows.values_of(rows, "training"):
        chosen = sweep_rows.select(rows, training=training)
        first = chosen[0]
        last = sweep_rows.select(rows, kind="cycle", variant=first["variant"], cycle=cycles)
        differences = [
            "" if first["variant"] == "sgd" else minus(chosen, sweep_rows.select(rows, kind=kind))
            for kind in baselines
        ]
        if cycles > 1:
            differences.append("" if first in last else minus(last, chosen))
        percent = sweep_rows.mean_percent(chosen, "test_accuracy")
        lines.append([first["title"], percent, *differences, *costs_of(sweep_rows.ended(chosen))])
    header = ["method", "test accuracy", *baselines.values()]
    header += ["the last cycle's, minus this"] if cycles > 1 else []
    header += ["candidates", "search, minutes", "training, minutes"]
    return (
        f"{sweep_rows.paired_note(rows)} Candidates and minutes: of all that led to a network, a "
        "seed.\n\n" + sweep_rows.markdown(header, lines)
    )


def costs_of(rows: sweep_rows.Rows) -> tuple[str, str, str]:
    """Candidates, minutes of search and of training, means."""
    if not rows:
        return "", "", ""
    costs = [float(np.mean([row[name] for row in rows])) for name in COSTS]
    return f"{costs[0] / 1e6:.1f} M", f"{costs[1] / 60:.1f}", f"{costs[2] / 60:.1f}"


def minus(ours: sweep_rows.Rows, theirs: sweep_rows.Rows) -> str:
    """The difference in test accuracy, seed by seed."""
    return sweep_rows.difference(*sweep_rows.paired(ours, theirs, "test_accuracy"))


LINES = {
    "cycle": "searched again in each cycle",
    "first_targets": "control: the first targets again",
    "natural_targets": "control: no search of blocks",
}


def draw(rows: sweep_rows.Rows):
    """Test accuracy against cycle and candidates, a figure a variant; of one cycle, as dots."""
    if all(row["cycle"] == 1 for row in rows):
        dots = sweep_rows.dots(
            rows, "title", "test_accuracy", lambda title: title.startswith("SGD")
        )
        caption = f"Test accuracy on {rows[0]['dataset']}, {sweep_rows.seeds_note(rows)}."
        return {"cycles": (plots.plot_accuracy(dots), caption)}
    rows = [
        row | {"percent": 100 * row["test_accuracy"], "millions": row["candidates"] / 1e6}
        for row in rows
    ]
    baselines = sweep_rows.select(rows, variant="sgd")
    figures = {}
    for variant in sweep_rows.values_of(rows, "variant"):
        if variant == "sgd":
            continue
        kept = sweep_rows.select(rows, variant=variant)
        by_cycle, by_cost = {}, {}
        for kind, name in LINES.items():
            later = [row for row in kept if row["kind"] == kind and row["cycle"] > 1]
            if later:  # all begin with the first cycle
                line = sweep_rows.select(kept, training=variant) + later
                by_cycle[name] = sweep_rows.curve(line, "cycle", "percent")
                # Seeds may differ by a few candidates, where only some images are searched again.
                costs = sweep_rows.curve(line, "cycle", "millions")[1]
                by_cost[name] = (costs, *by_cycle[name][1:])
        if LINES["cycle"] not in by_cycle:  # all diverged
            continue
        for lines in (by_cycle, by_cost):
            ends = [lines[LINES["cycle"]][0][i] for i in (0, -1)]
            for title in sweep_rows.values_of(baselines, "title"):
                chosen = sweep_rows.select(baselines, title=title)
                level = float(np.mean([row["percent"] for row in chosen]))
                lines[title] = (ends, [level] * 2, [np.nan] * 2)
        panels = [
            curves.Panel(by_cycle, "cycle", "test accuracy, %"),
            curves.Panel(by_cost, "candidates evaluated, millions", "test accuracy, %"),
        ]
        caption = f"{rows[0]['dataset']}, {variant}: {sweep_rows.seeds_note(rows)}."
        figures[f"cycles_{variant}"] = (curves.plot_curves(panels), caption)
    return figures


def run_all() -> None:
    """The sweep, as the command line says."""
    sweeps.run("cycles", SCALES, define, has_cycles=True, change=with_cycles)


if __name__ == "__main__":
    command_line.start(run_all)
