"""What the method leaves open: each option against the preset, on validation images.

    python experiments/choices.py --dataset=mnist

An option changes fields of the configuration; those that the preset has already are left out.
Options that search alike share their targets. No test image is read.

Settings, each --sweep.NAME=VALUE; in brackets laptop's:

    options          names, see OPTIONS (all)
    more             further ones, such as "rate_2:learn.learning_rate=2;learn.epochs=20|..." (none)
    num_train        of which validation_size are held out (2000)
    validation_size  (1000)
    num_seeds        (2)

With --num_seeds=1 the command took 43 minutes on 2 CPU cores, another job beside it: what is
smoothed matters most, 95.7 % against 81.7 % with the child smoothed (docs/choices.md).
"""

import dataclasses
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))  # for python -m and python -P
from common import command_line, sweep_points, sweep_rows, sweeps
from common.overrides import override, parse_options, refuse_fields
from common.unused import NEEDS_OF_ONE, check_used

from dsl_jax.config import RunConfig
from dsl_jax.reports import plots
from dsl_jax.runs import steps
from dsl_jax.values import one_of

NOT_NORMALIZED = {"normalize_blocks": "False"}
NO_BIASES = NOT_NORMALIZED | {"learn.bias_rate_factor": "0"}
SGD = {"variants": "('sgd',)"}
OPTIONS = {
    "preset": {},
    "skip_block_0": {"variants": "('skip_block_0',)"},
    "smoothing_noise": {"search.smoothing": "noise"},
    "smoothing_noise_rescaled": {"search.smoothing": "noise_rescaled"},
    "smoothing_child": {"search.smoothing": "child"},
    "target_best": {"search.target": "best"},
    "target_parent_mean": {"search.target": "parent_mean"},
    "normalized": {"normalize_blocks": "True"},
    "not_normalized": NOT_NORMALIZED,
    "not_normalized_bias_rate_1": NOT_NORMALIZED | {"learn.bias_rate_factor": "1"},
    "not_normalized_bias_rate_0": NO_BIASES,
    "not_normalized_bias_rate_0_rate_1": NO_BIASES | {"learn.learning_rate": "1"},
    "not_normalized_bias_rate_0_matching": NO_BIASES | {"learn.matching": "normalized"},
    "pre_gelu": {"representation": "pre_gelu"},
    "statistics_batch": {"learn.evaluation_statistics": "batch"},
    "initial_noise_0": {"search.initial_noise": "0"},
    "initial_noise_0.3": {"search.initial_noise": "0.3"},
    "groups_1": {"learner_groups": "1"},
    "groups_3": {"learner_groups": "3"},
    "lambda_0.003": {"learn.head_weight": "0.003"},
    "lambda_0.3": {"learn.head_weight": "0.3"},
    "rate_1": {"learn.learning_rate": "1"},
    "rate_8": {"learn.learning_rate": "8"},
    "bias_rate_1": {"learn.bias_rate_factor": "1"},
    "sgd": SGD,
    "sgd_rate_0.02": SGD | {"sgd.learning_rate": "0.02"},
    "sgd_rate_0.2": SGD | {"sgd.learning_rate": "0.2"},
    "sgd_bias_rate_16": SGD | {"sgd.bias_rate_factor": "16"},
}


@dataclass(frozen=True)
class Settings(sweeps.Settings):
    """What is swept."""

    options: tuple[str, ...] = tuple(OPTIONS)
    more: str = ""


SCALES = {
    "smoke": Settings(options=("preset", "target_best", "lambda_0.3", "sgd")),
    "laptop": Settings(num_train=2000, validation_size=1000, num_seeds=2),
    "paper": Settings(),
}


def define(config: RunConfig, settings: Settings) -> sweeps.Sweep:
    """A point an option."""
    for name in settings.options:
        one_of("option", name, tuple(OPTIONS))
    options = {name: OPTIONS[name] for name in settings.options}
    more = parse_options(settings.more, "sweep.more")
    refuse_fields(more, "sweep.more", "sgd_groups", "learn.variant")
    for name, assignments in more.items():
        if name in OPTIONS or name == "targets":
            raise ValueError(f"sweep.more: the name {name} is taken")
        options[name] = assignments
    base = dataclasses.replace(config, variants=("all_layers",))
    points, searched = [], set()
    for name, assignments in options.items():
        chosen = override(base, assignments, f"sweep.more: {name}")
        check_used(assignments, [chosen], NEEDS_OF_ONE, where=f"sweep.more: {name}: ")
        if assignments and chosen == base and "preset" in options:
            continue  # the preset once more
        chosen = dataclasses.replace(chosen, sgd_groups=(chosen.learner_groups,))
        digest = sweep_points.search_digest(chosen)
        columns = {"option": name, "changes": "; ".join(f"{k}={v}" for k, v in assignments.items())}
        points.append(
            sweep_points.run_point(name, columns, chosen, is_searched=digest not in searched)
        )
        searched |= {digest} if steps.is_searched(chosen) else set()
    return sweeps.Sweep(points, sweep_points.validation_rows, draw, table)


def named(rows: sweep_rows.Rows) -> sweep_rows.Rows:
    """The rows, each with the `name` of its option, and of its training if that has several."""
    pairs = {(row["option"], row["training"]) for row in rows}
    trainings = Counter(option for option, _ in pairs)

    def name(option, training):
        return option if trainings[option] == 1 else f"{option}, {training}"

    return [row | {"name": name(row["option"], row["training"])} for row in rows]


def table(rows: sweep_rows.Rows) -> str:
    """A row an option, and training if it has several, as with cycles."""
    rows, lines = named(rows), []
    # Of several trainings the first.
    plain = sweep_rows.select(sweep_rows.ended(rows), option="preset")
    preset = {row["seed"]: row for row in reversed(plain)}
    for name in sweep_rows.values_of(rows, "name"):
        chosen = sweep_rows.select(rows, name=name)
        fitness = "none"
        if "cross_entropy_0" in chosen[0]:
            layers = [column for column in chosen[0] if column.startswith("cross_entropy_")]
            means = [np.mean([row[column] for row in chosen]) for column in layers]
            fitness = ", ".join(f"{mean:.3f}" for mean in means)
        best, last = (
            sweep_rows.percentages(chosen, column)
            for column in ("validation_accuracy", "last_accuracy")
        )
        differences = [
            row["validation_accuracy"] - preset[row["seed"]]["validation_accuracy"]
            for row in sweep_rows.ended(chosen)
            if row["seed"] in preset and row is not preset[row["seed"]]
        ]
        difference = f"{100 * np.mean(differences):+.1f}" if differences else ""
        lines.append([name, chosen[0]["changes"], fitness, best, difference, last])
    header = ["option", "changes", "cross-entropy after each layer", "best epoch"]
    return (
        "Mean cross-entropy (nats) of the first search's best candidates; validation accuracy, a "
        "number a seed; the best epoch's, minus the preset's, in points, mean over seeds:\n\n"
        + sweep_rows.markdown([*header, "minus the preset's", "last epoch"], lines)
    )


def draw(rows: sweep_rows.Rows):
    """A line an option."""
    dots = sweep_rows.dots(
        named(rows), "name", "validation_accuracy", lambda name: name.startswith("sgd")
    )
    where, seeds = rows[0]["dataset"], sweep_rows.seeds_note(rows)
    caption = f"Validation accuracy on {where}, best epoch, {seeds}."
    return {"choices": (plots.plot_accuracy(dots, "validation"), caption)}


def run_all() -> None:
    """The sweep, as the command line says."""
    sweeps.run("choices", SCALES, define, fixed=("variants", "sgd_groups"))


if __name__ == "__main__":
    command_line.start(run_all)
