"""What searched targets carry: a ladder of controls, on the same images, networks and seeds.

    python experiments/what_targets_carry.py --dataset=cifar10

Learned are the searched targets, and in their place those of another image of the class, the
class's means, the natural representations, and these moved by what the search of a class has in
common or by a random code of the class; beside them SGD. The test split is read at the end of each
point, and the class that each network gives each test image is kept: intervals are over seeds and
test images.

Settings, each --sweep.NAME=VALUE; in brackets laptop's:

    groups           G of the learners (2)
    controls         (all but shuffled_labels)
    best_sgd         SGD at its own best, chosen before on validation images, such as
                     "learner_groups=3;sgd.learning_rate=0.1" (none)
    more             further searches, such as "weak:search.layers[0].mutation_strength=0.1|..."
                     (none)
    num_train        of which validation_size are held out (the preset's)
    validation_size  (the preset's)
    num_seeds        (3)
"""

import dataclasses
import sys
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).parent))  # for python -m and python -P
from common import command_line, sweep_points, sweep_rows, sweeps
from common.overrides import (
    is_of,
    override,
    parse_assignments,
    parse_options,
    refuse_fields,
)
from common.predictions import (
    differences,
    in_text,
    keep_predictions,
    minus,
    over,
    with_predictions,
)
from common.sweep_failures import run_to_the_end

from dsl_jax.config import TARGET_CONTROLS, RunConfig
from dsl_jax.data.dataset import Dataset
from dsl_jax.pipeline import open_targets
from dsl_jax.reports import plots
from dsl_jax.reports.carried import HEADER
from dsl_jax.reports.titles import training_title
from dsl_jax.runs.controlled import searched_naturals
from dsl_jax.runs.folder import RunFolder, read_predictions
from dsl_jax.runs.steps import trainings
from dsl_jax.targets.decomposition import decompose

CONTROLS = TARGET_CONTROLS[:-1]  # the last needs a search of its own
PRESETS_OWN = "preset"  # the search that the preset makes
BEST_SGD = "SGD at its best"
FIXED = ("learner_groups", "sgd_groups", "target_controls", "searched")
COSTS = ("candidates", "search_seconds", "seconds")


@dataclass(frozen=True)
class Settings(sweeps.Settings):
    """What is swept."""

    groups: tuple[int, ...] = (2,)
    controls: tuple[str, ...] = CONTROLS
    best_sgd: str = ""
    more: str = ""


SCALES = {
    "smoke": Settings(num_train=160, validation_size=40, num_seeds=1, groups=(1,)),
    "laptop": Settings(num_seeds=3),
    "paper": Settings(num_seeds=3),
}


def define(config: RunConfig, settings: Settings) -> sweeps.Sweep:
    """A point a search, G and seed; their searches are made once."""
    config = dataclasses.replace(config, target_controls=settings.controls)
    more = parse_options(settings.more, "sweep.more")
    refuse_fields(more, "sweep.more", *FIXED, "seed", "num_seeds", "learn.variant")
    if PRESETS_OWN in more:
        raise ValueError(
            f"sweep.more: {PRESETS_OWN} is the preset's own search: choose another name"
        )
    options = {PRESETS_OWN: {}} | more
    points, searched = [], set()
    for seed in config.seeds:
        for option, assignments in options.items():
            for groups in settings.groups:
                chosen = dataclasses.replace(
                    override(config, assignments, "sweep.more"),
                    seed=seed,
                    num_seeds=1,
                    learner_groups=groups,
                    sgd_groups=(groups,),
                )
                name = f"{option}-g{groups}-seed_{seed}"
                columns = {"search": option, "learner_groups": groups, "seed": seed}
                digest = sweep_points.search_digest(chosen), seed
                is_new = digest not in searched
                points.append(sweep_points.run_point(name, columns, chosen, is_searched=is_new))
                searched.add(digest)
        if settings.best_sgd:
            points.append(best_sgd(config, settings, seed))
    return sweeps.Sweep(points, measure, draw, table, with_predictions)


def best_sgd(config: RunConfig, settings: Settings, seed: int) -> sweeps.Point:
    """SGD alone, with settings of its own."""
    config = dataclasses.replace(
        config, seed=seed, num_seeds=1, variants=("sgd",), target_controls=(), cycles=1
    )
    assignments = parse_assignments(settings.best_sgd, "sweep.best_sgd")
    for path in assignments:
        if not is_of(path, ("learner_groups", "sgd")):
            raise ValueError(
                f"sweep.best_sgd: {path} has no effect: set learner_groups and sgd.FIELD"
            )
    config = override(config, assignments, "sweep.best_sgd")
    config = dataclasses.replace(config, sgd_groups=(config.learner_groups,))
    columns = {"search": BEST_SGD, "learner_groups": config.learner_groups, "seed": seed}
    return sweep_points.run_point(f"best_sgd-seed_{seed}", columns, config)


def measure(point: sweeps.Point, dataset: Dataset, folder: Path) -> sweep_rows.Rows:
    """A whole run: a row a training, and a file with what each says of each test image."""
    config, seed = point.config, point.config.seed
    run_folder = sweep_points.open_run(point, folder)
    ended = run_to_the_end(config, folder, dataset)
    rows, kept = [], {}
    trained = {name for _, name, _, result, _ in ended if result is not None}
    shares = shares_of(run_folder, dataset, seed, trained)
    for _, name, training, result, failure in ended:
        row = {
            "training": name,
            "title": training_title(name, training, config.cycles),
            "kind": training.kind,
            "variant": training.variant,
            "cycle": training.cycle,
        }
        if result is None:
            rows.append(row | {"failure": failure})
            continue
        kept[name] = read_predictions(folder / f"seed_{seed}" / name)
        row |= {column: getattr(result, column) for column in COSTS} | {
            "test_accuracy": result.test_accuracy[0],
            "validation_accuracy": result.validation_accuracy[0],
            "predictions": f"points/{point.name}.npz",
        }
        rows.append(row | shares.get(name, {}))
    keep_predictions(folder, dataset, kept)
    return rows


def shares_of(
    run_folder: RunFolder, dataset: Dataset, seed: int, trained: Container[str]
) -> dict[str, dict[str, float]]:
    """What the targets of each of the method's trainings are made of: columns, by training.

    trained: those that did not diverge; what is missing of the others may be their targets.
    """
    found: dict[tuple[str, ...], dict[str, float]] = {}
    steps = trainings(run_folder.config)
    methods = [step for step in steps if step.role == "method" and step.name in trained]
    for training in methods:
        if training.targets in found:
            continue
        targets = open_targets(run_folder, seed, training.targets)
        naturals, labels = searched_naturals(
            run_folder, dataset, seed, training.targets[-1], targets
        )
        found[training.targets] = {
            f"{field}_{block}": round(value, 5)
            for block, one in enumerate(decompose(targets, naturals, labels, dataset.num_classes))
            for field, value in one._asdict().items()
        }
    return {training.name: found.get(training.targets, {}) for training in methods}


# --------------------------------------------------------------------------------------------
# What is drawn
# --------------------------------------------------------------------------------------------


class Ladder(NamedTuple):
    """What is compared: rows of the searched targets, and of all else, by name.

    others: the controls, SGD of the same G and as many epochs, and SGD at its best, where there.
    """

    title: str
    searched: sweep_rows.Rows
    others: dict[str, sweep_rows.Rows]
    sgd: sweep_rows.Rows
    best_sgd: sweep_rows.Rows


def ladders(rows: sweep_rows.Rows) -> Iterator[Ladder]:
    """One for each search, G, variant and cycle."""
    columns = ("search", "learner_groups", "variant", "cycle")
    best = sweep_rows.select(rows, search=BEST_SGD)
    for place in dict.fromkeys(tuple(row[c] for c in columns) for row in rows):
        search, groups, variant, cycle = place
        if variant == "sgd":
            continue
        title = f"G = {groups}, {variant.replace('_', ' ')}"
        title += f", cycle {cycle}" if cycle > 1 else ""
        title += f", search {search}" if search != PRESETS_OWN else ""
        chosen = sweep_rows.select(rows, **dict(zip(columns, place, strict=True)))
        as_long = "sgd" if cycle == 1 else "long_sgd"
        sgd = sweep_rows.select(rows, search=search, learner_groups=groups, kind=as_long)
        searched = sweep_rows.select(chosen, kind="cycle")
        if not searched:  # they diverged: there is nothing to compare with
            continue
        kinds = [kind for kind in sweep_rows.values_of(chosen, "kind") if kind != "cycle"]
        controls = [sweep_rows.select(chosen, kind=kind) for kind in kinds]
        others = {one[0]["title"]: one for one in [*controls, sgd] if one}
        others |= {BEST_SGD: best} if best else {}
        yield Ladder(title, searched, others, sgd, best)


def table(rows: sweep_rows.Rows) -> str:
    """A table a ladder; what the targets are made of."""
    header = [
        "learned",
        "test",
        "validation",
        "minus searched",
        "minus SGD",
        "minus SGD at its best",
    ]
    parts = []
    for title, searched, others, sgd, best in ladders(rows):
        lines = []
        for name, one in [(searched[0]["title"], searched), *others.items()]:
            baselines = (
                [searched, sgd, best] if one is not sgd and one is not best else [searched, [], []]
            )
            lines.append(
                [
                    name,
                    sweep_rows.mean_percent(one, "test_accuracy"),
                    sweep_rows.mean_percent(one, "validation_accuracy"),
                    *("" if one is other else in_text(minus(one, other)) for other in baselines),
                ]
            )
        parts += [f"**{title}**", sweep_rows.markdown(header, lines)]
    note = (
        "Accuracies in percent, mean ± standard deviation over seeds. Differences of test accuracy "
        f"in points, with their 95 % interval over {over(rows)}."
    )
    return "\n\n".join([note, *parts, *carried(rows)])


def carried(rows: sweep_rows.Rows) -> list[str]:
    """What targets are made of, a line a block; of a first search for all that learn from it."""
    lines, places = [], {}
    for row in rows:
        if "cosine_0" in row:
            later = (row["title"], row["learner_groups"]) if row["cycle"] > 1 else ("", "")
            places.setdefault((row["search"], row["cycle"], *later), []).append(row)
    for (search, cycle, title, groups), some in places.items():
        name = f"{search}, {title}, G = {groups}" if cycle > 1 else search
        for block in range(sum(column.startswith("cosine_") for column in some[0])):
            columns = ("natural", "class_displacement", "rest", "cosine")
            means = [float(np.mean([row[f"{c}_{block}"] for row in some])) for c in columns]
            lines.append(
                [name, f"block {block}", *(f"{x:.1%}" for x in means[:3]), f"{means[3]:.2f}"]
            )
    if not lines:
        return []
    note = "Shares of the targets' variance (`dsl_jax.targets.decomposition`), means over seeds:"
    return [note, sweep_rows.markdown(["search", *HEADER], lines)]


def draw(rows: sweep_rows.Rows) -> dict[str, tuple[Figure, str]]:
    """A figure a ladder: how far each control is from the searched targets."""
    figures = {}
    for number, ladder in enumerate(ladders(rows)):
        if known := differences(ladder.others, ladder.searched):
            what = "test accuracy minus that of searched targets"
            caption = f"{rows[0]['dataset']}, {ladder.title}: {what}."
            figures[f"ladder_{number}"] = (plots.plot_differences({"": {"": known}}), caption)
    return figures


def run_all() -> None:
    """The sweep, as the command line says."""
    sweeps.run("what_targets_carry", SCALES, define, fixed=FIXED, has_cycles=True)


if __name__ == "__main__":
    command_line.start(run_all)
