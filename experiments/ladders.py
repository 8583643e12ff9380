"""Several ladders of controls side by side, in a table a variant and one picture.

    python experiments/ladders.py --sweeps=results/carry-mnist_5k,results/carry-cifar10

Each folder is one that what_targets_carry.py has filled; its rows and predictions are read, and
nothing is computed. Of each the preset's own search is shown, first cycle, the first G.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from absl import flags

sys.path.insert(0, str(Path(__file__).parent))  # for python -m and python -P
import what_targets_carry
from common import command_line, sweep_rows
from what_targets_carry import Ladder

from dsl_jax.data import catalogue
from dsl_jax.data.dataset import split_sizes
from dsl_jax.files import read_json, replacing, write_text
from dsl_jax.reports import plots

SWEEPS = flags.DEFINE_list("sweeps", [], "The folders, with commas between them.")
OFF_THE_SCALE = "natural representations"  # of the picture


class Column(NamedTuple):
    """A sweep: what it is called, and its ladders by variant."""

    title: str
    ladders: dict[str, Ladder]


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
    rows = what_targets_carry.with_predictions([r for p in points for r in p["rows"]], folder)
    groups = min((row["learner_groups"] for row in rows if row["search"] == "preset"), default=0)
    if not groups:
        raise ValueError(f"{folder} has no finished ladder yet: its command goes on")
    ladders = {
        ladder.searched[0]["variant"]: ladder
        for ladder in what_targets_carry.ladders(rows)
        if (row := ladder.searched[0])["search"] == "preset"
        and (row["learner_groups"], row["cycle"]) == (groups, 1)
    }
    return Column(
        f"{rows[0]['dataset']}, {_num_images(points[0]['identity']['config']):,}", ladders
    )


def _num_images(config: dict) -> int:
    """The images that a configuration trains on."""
    available = catalogue.facts(config["dataset"]).train_images
    sizes = config["num_train"], config["validation_size"]
    taken, validation = split_sizes(config["dataset"], available, *sizes)
    return taken - validation


def others(ladder: Ladder) -> Iterator[tuple[str, sweep_rows.Rows]]:
    """What is compared with the searched targets, by a name without the variant or SGD's G."""
    variant = ladder.searched[0]["variant"].replace("_", " ")
    for title, rows in ladder.others.items():
        yield "SGD, same depth" if rows is ladder.sgd else title.removesuffix(f", {variant}"), rows


def cells_of(ladder: Ladder) -> dict[str, str]:
    """The accuracy of the searched targets, and the others' less it, by name."""
    accuracy = sweep_rows.mean_percent(ladder.searched, "test_accuracy")
    return {"searched targets": accuracy} | {
        name: what_targets_carry.in_text(what_targets_carry.less(rows, ladder.searched))
        for name, rows in others(ladder)
    }


def table(columns: Sequence[Column]) -> str:
    """A table a variant: accuracies of the searched targets, and the others' less these."""
    parts = []
    for variant in dict.fromkeys(name for column in columns for name in column.ladders):
        with_it = {c.title: c.ladders[variant] for c in columns if variant in c.ladders}
        cells = {title: cells_of(ladder) for title, ladder in with_it.items()}
        names = dict.fromkeys(name for column in cells.values() for name in column)
        lines = [[name, *(column.get(name, "") for column in cells.values())] for name in names]
        parts.append(sweep_rows.markdown([variant.replace("_", " "), *cells], lines))
    return "\n\n".join(parts)


def draw(columns: Sequence[Column]):
    """A panel a sweep, a colour a variant; without the natural representations, far to the left."""
    return plots.plot_differences(
        {
            column.title: {
                variant.replace("_", " "): {
                    name: difference
                    for name, rows in others(ladder)
                    if name != OFF_THE_SCALE
                    and (difference := what_targets_carry.less(rows, ladder.searched))
                }
                for variant, ladder in column.ladders.items()
            }
            for column in columns
        }
    )


def run_all() -> None:
    """What the command line says."""
    if not SWEEPS.value:
        raise ValueError("sweeps is empty: give the folders, --sweeps=FOLDER,FOLDER")
    folder = command_line.output_dir("runs/ladders")
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
