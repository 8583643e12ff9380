"""Several ladders of controls side by side, in a table a variant and one picture.

    python experiments/ladders.py --ladder=results/carry-mnist_5k --ladder=results/carry-cifar10

Each folder is one that what_targets_carry.py has filled; its rows and predictions are read, and
nothing is computed. Of each the preset's own search is shown with the smallest G, a column a cycle.
--ladder=TITLE=FOLDER calls one something else than its data set and number of images;
--ladder=FOLDER+FOLDER joins the seeds of two that differ at most in what is compared.
--lines=ladders has a line a ladder; --compared and --variant choose what is shown, and --minus what
all else is set against, in place of the searched targets.
"""

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).parent))  # for python -m and python -P
import what_targets_carry
from common import command_line, plan, sweep_rows
from common.alike import check_alike
from common.predictions import differences, in_text, read_points
from what_targets_carry import PRESETS_OWN

from dsl_jax.config import from_dict
from dsl_jax.files import read_json, replacing, write_text
from dsl_jax.reports import plots
from dsl_jax.reports.intervals import Interval

SEARCHED = "searched targets"
LADDERS = flags.DEFINE_multi_string(
    "ladder", [], "FOLDER, FOLDER+FOLDER of other seeds, or TITLE= and these; once for each."
)
LINES = flags.DEFINE_enum(
    "lines", "targets", ["targets", "ladders"], "What has a line of its own in a table."
)
COMPARED = flags.DEFINE_multi_string(
    "compared", [], 'What to show, such as "permuted targets", once for each (all there is).'
)
VARIANT = flags.DEFINE_string("variant", None, "The only one to show, such as all_layers.")
MINUS = flags.DEFINE_string(
    "minus", SEARCHED, 'What all else is set against, such as "natural and channel code".'
)
OFF_THE_SCALE = "natural representations"  # of the picture


class Column(NamedTuple):
    """A ladder's cycle: what it is called, the candidates that its searches have evaluated for an
    image, by variant the accuracy of what all else is set against, as text, and how far all else is
    from it, by name."""

    title: str
    candidates: int
    accuracies: dict[str, str]
    differences: dict[str, dict[str, Interval]]


def read_ladder(folders: str, title: str | None = None, reference: str = SEARCHED) -> list[Column]:
    """The kept points of a folder, or of several that have other seeds; a column a cycle.

    folders: with + between them.
    reference: what all else is set against.

    Raises:
      ValueError: there are none, or they are not of one ladder, or it lacks the reference.
    """
    points, groups = read_seeds(folders)
    rows = [row for point in points for row in point["rows"]]
    own = next(p for p in points if p["identity"]["columns"]["search"] == PRESETS_OWN)
    name = rows[0]["dataset"]
    config = plan.for_dataset(from_dict(own["identity"]["config"]), name)
    num_images = plan.image_counts(config)[0]
    title = title or f"{name}, {num_images:,}"
    cycles: dict[int, Column] = {}
    for ladder in what_targets_carry.ladders(rows):
        row = next(iter(sweep_rows.ended(ladder.searched)), None)
        if row and (row["search"], row["learner_groups"]) == (PRESETS_OWN, groups):
            variant, cycle = row["variant"].replace("_", " "), row["cycle"]
            called = title if cycle == 1 else f"{title}, cycle {cycle}"
            there = {SEARCHED: ladder.searched} | {
                short_name(name, variant, cycle): one for name, one in ladder.others.items()
            }
            if reference not in there:
                raise ValueError(
                    f"minus has {reference!r}, which {called} has not: choose from "
                    f"{'; '.join(there)}"
                )
            ours = there.pop(reference)
            column = cycles.setdefault(
                cycle, Column(called, row["candidates"] // num_images, {}, {})
            )
            column.accuracies[variant] = sweep_rows.mean_percent(ours, "test_accuracy")
            column.differences[variant] = differences(there, ours)
    return [cycles[cycle] for cycle in sorted(cycles)]


def read_seeds(folders: str) -> tuple[list[dict[str, Any]], int]:
    """The points of folders that are joined by +, and the smallest G of their preset's own search.

    Raises:
      ValueError: as `read_ladder`.
    """
    points, numbers = [], {}
    for name in folders.split("+"):
        found = read_json(Path(name) / "sweep.json")
        if found is None or found["experiment"] != "what_targets_carry":
            raise ValueError(f"{name} holds no what_targets_carry: see its --output_dir")
        some = read_points(Path(name))
        columns = [point["identity"]["columns"] for point in some]
        own = [c["learner_groups"] for c in columns if c["search"] == PRESETS_OWN]
        if not own:
            raise ValueError(f"{name} has no finished ladder yet: its command goes on")
        points, numbers[name] = points + some, min(own)
    check_seeds(points, folders)
    if len(set(numbers.values())) > 1:
        told = ", ".join(f"{groups} in {name}" for name, groups in numbers.items())
        raise ValueError(f"{folders} has ladders of other G, which are not joined: {told}")
    return points, numbers[name]


def check_seeds(points: Sequence[dict[str, Any]], folders: str) -> None:
    """Raises ValueError unless points of one search and G are seeds of one setting, each once."""
    places: dict[tuple[str, int], dict[int, dict[str, Any]]] = {}
    for point in points:
        search, groups, seed = (
            point["identity"]["columns"][name] for name in ("search", "learner_groups", "seed")
        )
        there = places.setdefault((search, groups), {})
        if seed in there:
            raise ValueError(f"{folders} has seed {seed} of search {search} twice")
        there[seed] = point
    for there in places.values():
        check_alike(there.values(), folders)


def short_name(title: str, variant: str, cycle: int) -> str:
    """What is compared, without the variant, the cycle, or the G that the searched targets have."""
    if title.startswith("SGD, G"):
        return "SGD, same depth"
    return title.removesuffix(f", cycle {cycle}").removesuffix(f", {variant}")


def of_variant(column: Column, variant: str) -> Column:
    """The column with this variant alone.

    Raises:
      ValueError: it has no such variant.
    """
    if variant not in column.accuracies:
        known = ", ".join(name.replace(" ", "_") for name in column.accuracies)
        raise ValueError(f"{column.title} has no variant {variant.replace(' ', '_')}, but {known}")
    return column._replace(
        accuracies={variant: column.accuracies[variant]},
        differences={variant: column.differences[variant]},
    )


def names_of(columns: Sequence[Column], compared: Sequence[str]) -> list[str]:
    """What is shown beside what all is set against, in order: `compared`, or all there is.

    Raises:
      ValueError: one of them is in no column.
    """
    known = list(dict.fromkeys(n for c in columns for d in c.differences.values() for n in d))
    if unknown := [name for name in compared if name not in known]:
        raise ValueError(
            f"compared has {unknown[0]!r}, which none of the ladders has: choose from "
            f"{'; '.join(known)}"
        )
    return list(compared) or known


def table(
    columns: Sequence[Column], names: Sequence[str], lines: str, reference: str = SEARCHED
) -> str:
    """A table a variant: accuracies of the reference, and the others' minus these.

    lines: "targets", a line each; or "ladders", with the candidates that each has evaluated.
    """
    parts = []
    for variant in dict.fromkeys(name for column in columns for name in column.accuracies):
        with_it = [c for c in columns if c.differences.get(variant, {}).keys() & set(names)]
        cells = [[variant, *(column.title for column in with_it)]]
        cells.append([reference, *(column.accuracies[variant] for column in with_it)])
        for name in names:
            found = [column.differences[variant].get(name) for column in with_it]
            if any(found):
                cells.append([name, *map(in_text, found)])
        if lines == "ladders":
            cells.insert(1, ["candidates an image", *(f"{c.candidates:,}" for c in with_it)])
            cells = [list(line) for line in zip(*cells, strict=True)]
        parts.append(sweep_rows.markdown(cells[0], cells[1:]))
    return "\n\n".join(parts)


def draw(columns: Sequence[Column], names: Sequence[str], lines: str) -> Figure:
    """A panel a ladder, a colour a variant; without the natural representations, far to the left.

    With a line a ladder, a panel for each of what is compared.
    """
    titles, shown = [c.title for c in columns], [n for n in names if n != OFF_THE_SCALE]
    a_panel_a_ladder = lines == "targets"
    panels: dict[str, dict[str, dict[str, Interval]]]
    panels = {title: {} for title in (titles if a_panel_a_ladder else shown)}
    for column, name in itertools.product(columns, shown):
        panel, line = (column.title, name) if a_panel_a_ladder else (name, column.title)
        for variant, found in column.differences.items():
            if name in found:
                panels[panel].setdefault(variant, {})[line] = found[name]
    return plots.plot_differences(panels, shown if a_panel_a_ladder else titles)


def run_all() -> None:
    """What the command line says."""
    command_line.computes_nothing("output_dir")
    if not LADDERS.value:
        raise ValueError("ladder is empty: give the folders, --ladder=FOLDER --ladder=FOLDER")
    folder = command_line.output_dir("runs/ladders")
    for name, what in (("sweep.json", "a sweep"), ("config.json", "a run")):
        if (folder / name).exists():
            raise ValueError(
                f"{folder} holds {what}, with a report of its own: choose --output_dir"
            )
    columns = []
    for given in LADDERS.value:
        title, _, name = given.rpartition("=")
        columns += read_ladder(name, title or None, MINUS.value)
    titles = [column.title for column in columns]
    if alike := [title for title in titles if titles.count(title) > 1]:
        raise ValueError(f"two ladders are called {alike[0]}: give one a title, TITLE=FOLDER")
    if VARIANT.value:
        columns = [of_variant(column, VARIANT.value.replace("_", " ")) for column in columns]
    names = names_of(columns, COMPARED.value)
    text = table(columns, names, LINES.value, MINUS.value)
    write_text(folder / "report.md", text + "\n")
    with replacing(folder / "ladders.png") as file:
        draw(columns, names, LINES.value).savefig(file, format="png")
    print(text)
    print(f"The picture: {folder / 'ladders.png'}")


if __name__ == "__main__":
    command_line.start(run_all)
