"""Several ladders of controls side by side, in a table a variant and one picture.

    python experiments/ladders.py --sweeps=results/carry-mnist_5k,results/carry-cifar10

Each folder is one that what_targets_carry.py has filled; its rows and predictions are read, and
nothing is computed. Of each the preset's own search is shown, first cycle, the first G.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).parent))  # for python -m and python -P
import what_targets_carry
from common import command_line, plan, sweep_rows
from common.predictions import in_text, with_predictions
from common.sweeps import what_counts

from dsl_jax.config import from_dict
from dsl_jax.files import read_json, replacing, write_text
from dsl_jax.plain_data import differences
from dsl_jax.reports import plots
from dsl_jax.reports.intervals import Interval

SWEEPS = flags.DEFINE_list("sweeps", [], "The folders, with commas between them.")
OFF_THE_SCALE = "natural representations"  # of the picture


class Column(NamedTuple):
    """A sweep: what it is called; by variant the accuracy of the searched targets, as text, and how
    far all else is from it, by name."""

    title: str
    accuracies: dict[str, str]
    differences: dict[str, dict[str, Interval]]


def read_sweep(folder: Path) -> Column:
    """The kept points of a folder.

    Raises:
      ValueError: there are none, or they are of another experiment.
    """
    found = read_json(folder / "sweep.json")
    if found is None or found["experiment"] != "what_targets_carry":
        raise ValueError(f"{folder} holds no what_targets_carry: see its --output_dir")
    points = [read_json(path) for path in sorted(folder.glob("points/*.json"))]
    if not points:
        raise ValueError(f"{folder} has no finished point: its command goes on where it stopped")
    check_alike(points, folder)
    rows = with_predictions([r for p in points for r in p["rows"]], folder)
    groups = min((row["learner_groups"] for row in rows if row["search"] == "preset"), default=0)
    if not groups:
        raise ValueError(f"{folder} has no finished ladder yet: its command goes on")
    accuracies, differences = {}, {}
    for ladder in what_targets_carry.ladders(rows):
        row = ladder.searched[0]
        if (row["search"], row["learner_groups"], row["cycle"]) == ("preset", groups, 1):
            variant = row["variant"].replace("_", " ")
            accuracies[variant] = sweep_rows.mean_percent(ladder.searched, "test_accuracy")
            differences[variant] = {
                short_name(name, variant): one
                for name, one in what_targets_carry.differences(ladder).items()
            }
    name = rows[0]["dataset"]
    config = plan.for_dataset(from_dict(points[0]["identity"]["config"]), name)
    images, _ = plan.image_counts(config)
    return Column(f"{name}, {images:,}", accuracies, differences)


def check_alike(points: Sequence[dict[str, Any]], folder: Path) -> None:
    """Raises ValueError unless points of one search and G differ in their seed alone."""
    first: dict[tuple[str, int], dict[str, Any]] = {}
    for point in points:
        columns = point["identity"]["columns"]
        config = what_counts(point["identity"])["config"] | {"seed": None}
        known = first.setdefault((columns["search"], columns["learner_groups"]), config)
        if changed := differences(config, known):
            raise ValueError(
                f"{folder} has points of other settings, which are no seeds of one ladder: "
                f"{'; '.join(changed)}"
            )


def short_name(title: str, variant: str) -> str:
    """What is compared, without the variant, or the G that the searched targets have, too."""
    return "SGD, same depth" if title.startswith("SGD, G") else title.removesuffix(f", {variant}")


def table(columns: Sequence[Column]) -> str:
    """A table a variant: accuracies of the searched targets, and the others' less these."""
    parts = []
    for variant in dict.fromkeys(name for column in columns for name in column.accuracies):
        with_it = [column for column in columns if variant in column.accuracies]
        names = dict.fromkeys(name for c in with_it for name in c.differences[variant])
        lines = [["searched targets", *(column.accuracies[variant] for column in with_it)]]
        for name in names:
            found = (column.differences[variant].get(name) for column in with_it)
            lines.append([name, *map(in_text, found)])
        header = [variant, *(column.title for column in with_it)]
        parts.append(sweep_rows.markdown(header, lines))
    return "\n\n".join(parts)


def draw(columns: Sequence[Column]) -> Figure:
    """A panel a sweep, a colour a variant; without the natural representations, far to the left."""
    return plots.plot_differences(
        {
            column.title: {
                variant: {name: one for name, one in found.items() if name != OFF_THE_SCALE}
                for variant, found in column.differences.items()
            }
            for column in columns
        }
    )


def run_all() -> None:
    """What the command line says."""
    command_line.takes_no("config", "sweep")
    for name in command_line.SHARED:
        if name != "output_dir" and flags.FLAGS[name].present:
            raise ValueError(f"--{name} has no effect: kept sweeps are read, nothing is computed")
    if not SWEEPS.value:
        raise ValueError("sweeps is empty: give the folders, --sweeps=FOLDER,FOLDER")
    folder = command_line.output_dir("runs/ladders")
    if (folder / "sweep.json").exists():
        raise ValueError(f"{folder} holds a sweep, with a report of its own: choose --output_dir")
    columns = [read_sweep(Path(name)) for name in SWEEPS.value]
    titles = [column.title for column in columns]
    if alike := [title for title in titles if titles.count(title) > 1]:
        raise ValueError(f"sweeps has two of {alike[0]} training images: give one of them")
    text = table(columns)
    write_text(folder / "report.md", text + "\n")
    with replacing(folder / "ladders.png") as file:
        draw(columns).savefig(file, format="png")
    print(text)
    print(f"The picture: {folder / 'ladders.png'}")


if __name__ == "__main__":
    command_line.start(run_all)
