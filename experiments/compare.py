"""Trainings of a kept sweep compared: test accuracy of one minus that of others, with its interval.

    python experiments/compare.py --folder=results/full-cifar10 --where=size=46000 \\
        --ours=method=per_class,variant=all_layers --theirs=method=searched,variant=all_layers

The rows and predictions that an experiment has kept are read, and nothing is computed. Rows are
chosen by what is in their columns (`rows` in any file of the folder's points/ has them), and by
their folder's name: COLUMN=VALUE or folder=NAME, with a comma between several. A title may stand
before, TITLE:COLUMN=VALUE. A | between two trainings means their mean, seed by seed. Intervals are
over the test images and the seeds that both have. With two places, --change tells how far each
number is greater in the first than in the second.
"""

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import flags

sys.path.insert(0, str(Path(__file__).parent))  # for python -m and python -P
from common import command_line, sweep_rows
from common.alike import check_alike
from common.predictions import change, check_images, in_text, minus, read_points

from dsl_jax.reports import intervals

MEASURED = ("right", "test_accuracy")  # of a training, on the test images

FOLDERS = flags.DEFINE_multi_string("folder", [], "Of a sweep; several are read as one.")
OURS = flags.DEFINE_multi_string("ours", [], "What is compared, once for each training.")
THEIRS = flags.DEFINE_multi_string("theirs", [], "With what, once for each training.")
WHERE = flags.DEFINE_multi_string("where", [""], "What holds for both, once for each place.")
CHANGE = flags.DEFINE_bool("change", False, "Of two places, also the first minus the second.")


class Choice(NamedTuple):
    """What it is called, and the text in the columns of each training whose mean is meant."""

    title: str
    trainings: list[dict[str, str]]


def parse_choice(given: str, flag: str) -> Choice:
    """A choice as on the command line.

    Raises:
      ValueError: it is none.
    """
    title, _, several = given.rpartition(":")
    trainings = [parse_columns(conditions, flag) for conditions in several.split("|")]
    return Choice(title or " and ".join(", ".join(one.values()) for one in trainings), trainings)


def parse_columns(conditions: str, flag: str) -> dict[str, str]:
    """The text that columns have. Raises likewise."""
    columns = {}
    for condition in filter(None, conditions.split(",")):
        name, equals, value = condition.partition("=")
        if not equals:
            raise ValueError(f"{flag} has {condition!r}: write COLUMN=VALUE")
        if name in columns:
            raise ValueError(f"{flag} has {name} twice: a column has one value")
        columns[name] = value
    return columns


def chosen(rows: sweep_rows.Rows, columns: dict[str, str], flag: str) -> sweep_rows.Rows:
    """The rows with these values, as text.

    Raises:
      ValueError: there are none.
    """
    for name, value in columns.items():
        known = {str(row[name]): None for row in rows if name in columns_of(row)}
        if not known:
            names = ", ".join(dict.fromkeys(name for row in rows for name in columns_of(row)))
            raise ValueError(f"{flag}: there is no column {name!r} among {names}")
        rows = [row for row in rows if str(row.get(name)) == value]
        if not rows:
            raise ValueError(f"{flag}: no {name} is {value!r}, but {', '.join(known)}")
    return rows


def columns_of(row: sweep_rows.Row) -> sweep_rows.Row:
    """What a row can be chosen by: not what else is kept of its training."""
    return {name: x for name, x in row.items() if isinstance(x, str | int | float)}


def seeds_of_one(rows: sweep_rows.Rows, flag: str) -> sweep_rows.Rows:
    """The rows.

    Raises:
      ValueError: two have the same seed, so that it is not clear which is meant; or they differ
        in more than their seed; or what they say of the test images was not kept.
    """
    if lacking := [row for row in sweep_rows.ended(rows) if "right" not in row]:
        raise ValueError(
            f"{flag} chooses trainings of {lacking[0]['folder']}, which has kept no predictions "
            "of the test images, by which trainings are compared"
        )
    first: dict[int, sweep_rows.Row] = {}
    for row in rows:
        other = first.setdefault(row["seed"], row)
        if other is not row:
            names = [n for n, x in row.items() if type(x) in (str, int) and x != other.get(n)]
            unlike = "; ".join(f"{n}: {other.get(n)}, {row[n]}" for n in names)
            raise ValueError(
                f"{flag} chooses two trainings of seed {row['seed']}: add one of {unlike}"
            )
    check_alike([row["point"] for row in rows], flag)
    return rows


def mean_of(trainings: list[sweep_rows.Rows]) -> sweep_rows.Rows:
    """The rows; of several trainings the mean of the seeds that all have.

    Raises:
      ValueError: they are of other test images, or no seed has them all.
    """
    if len(trainings) == 1:
        return trainings[0]
    check_images(*trainings)
    by_seed = [{row["seed"]: row for row in sweep_rows.ended(rows)} for rows in trainings]
    of_all = [seed for seed in by_seed[0] if all(seed in rows for rows in by_seed)]
    if not of_all:
        raise ValueError(
            f"no seed has all trainings whose mean is meant: {seeds_in_text(trainings)}"
        )
    return [
        by_seed[0][seed]
        | {name: np.mean([rows[seed][name] for rows in by_seed], axis=0) for name in MEASURED}
        for seed in of_all
    ]


def difference(ours: sweep_rows.Rows, theirs: sweep_rows.Rows) -> intervals.Interval:
    """`minus`, over the seeds that both have.

    Raises:
      ValueError: there are none, or they are of other test images.
    """
    found = minus(ours, theirs)
    if found is None:
        raise ValueError(f"no seed is in both that are compared: {seeds_in_text([ours, theirs])}")
    return found


def seeds_in_text(trainings: list[sweep_rows.Rows]) -> str:
    """The seeds of each, as in "1, 2 and 3"."""
    seeds = [sorted(row["seed"] for row in sweep_rows.ended(rows)) for rows in trainings]
    return " and ".join(", ".join(map(str, some)) or "none" for some in seeds)


def table(
    rows: sweep_rows.Rows,
    ours: list[Choice],
    theirs: list[Choice],
    where: list[Choice],
    with_change: bool = False,
) -> str:
    """Of each of ours the accuracy, and what it is minus each of theirs.

    With one `where` these are columns, and each of ours has a line; else a `where` has a column,
    and with two of them `with_change` adds one of the first minus the second.
    """

    def of(choice: Choice, flag: str) -> list[sweep_rows.Rows]:
        there = [chosen(rows, place.trainings[0], "where") for place in where]
        return [
            mean_of([seeds_of_one(chosen(some, one, flag), flag) for one in choice.trainings])
            for some in there
        ]

    others = [of(one, "theirs") for one in theirs]
    lines, columns = [], ["test accuracy", *(f"minus {one.title}" for one in theirs)]
    for one in ours:
        mine = of(one, "ours")
        cells = [[sweep_rows.mean_percent(m, "test_accuracy") for m in mine]]
        for other in others:
            cells.append([in_text(difference(m, o)) for m, o in zip(mine, other, strict=True)])
        if len(where) == 1:
            lines.append([one.title, *(cell for (cell,) in cells)])
        else:
            if with_change:
                changes = [difference(*mine), *(change(mine, other) for other in others)]
                cells = [[*line, in_text(x)] for line, x in zip(cells, changes, strict=True)]
            names = [one.title, *(f"{one.title} {column}" for column in columns[1:])]
            lines += [[name, *line] for name, line in zip(names, cells, strict=True)]
    places = [place.title for place in where]
    places += [f"{places[0]} minus {places[1]}"] if with_change else []
    header = [places[0] or "training", *columns] if len(where) == 1 else [columns[0], *places]
    return sweep_rows.markdown(header, lines)


def run_all() -> None:
    """What the command line says."""
    command_line.computes_nothing()
    for flag in (FOLDERS, OURS, THEIRS):
        if not flag.value:
            raise ValueError(f"{flag.name} is empty: --help has an example")
    ours, theirs, where = (
        [parse_choice(given, flag.name) for given in flag.value] for flag in (OURS, THEIRS, WHERE)
    )
    if CHANGE.value and len(where) != 2:
        raise ValueError(f"change is from one place to another: where has {len(where)}, not 2")
    if any(len(place.trainings) > 1 for place in where):
        raise ValueError("where tells which rows: a | between trainings is for ours and theirs")
    rows = [
        row | {"folder": folder.name, "point": point}
        for folder in map(Path, FOLDERS.value)
        for point in read_points(folder)
        for row in point["rows"]
    ]
    print(table(rows, ours, theirs, where, CHANGE.value))


if __name__ == "__main__":
    command_line.start(run_all)
