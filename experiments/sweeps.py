"""A sweep: points that are computed one by one and kept, and figures drawn from their rows.

FOLDER/points/NAME.json  a finished point: what it is, and its rows; NAME/ is its own folder, if it
                         needs one
FOLDER/sweep.json        the experiment's name
FOLDER/rows.csv, report.md and a picture a figure are written anew by every call, from the points.

A later call may add points to a folder, but not change one.
"""

import csv
import dataclasses
import functools
import hashlib
import io
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import command_line
import jax
import numpy as np
from command_line import DATA_DIR, DRY_RUN, OUTPUT_DIR
from matplotlib.figure import Figure

from dsl_jax import devices, pipeline, plan
from dsl_jax.config import (
    PRESETS,
    TRAINING_IMAGES,
    Preset,
    differences,
    one_of,
    override,
    to_dict,
)
from dsl_jax.datasets import Dataset, Split, load_or_substitute
from dsl_jax.files import read_json, replacing, write_text
from dsl_jax.report import markdown_table
from dsl_jax.runs import Run, environment
from dsl_jax.search import SearchResult, choose_chunk_size, search
from dsl_jax.summary import ROWS

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Settings:
    """What every sweep can set by --sweep.NAME; None: the preset's. Sweeps add their own axes."""

    num_train: int | None = None
    validation_size: int | None = None
    num_seeds: int | None = None


class Point(NamedTuple):
    """One setting: its name, the columns that say where it stands, what is run, what it costs."""

    name: str
    columns: dict[str, Any]
    config: Preset
    candidates: int = 0
    seconds: float = 0.0
    disk_bytes: int = 0

    def identity(self) -> dict[str, Any]:
        """What must be the same for its rows to be; plain data."""
        plain = {"columns": self.columns, "config": to_dict(self.config)}
        return json.loads(json.dumps(plain))


class Sweep(NamedTuple):
    """What a script defines; see `run`.

    points: all settings. measure: the rows of one, given its folder, which it may use to go on
    after an interruption. draw: figures by name and caption. table: Markdown, from all rows.
    """

    points: Sequence[Point]
    measure: Callable[[Point, Dataset, Path], Rows]
    draw: Callable[[Rows], dict[str, tuple[Figure, str]]]
    table: Callable[[Rows], str]


def search_point(name: str, columns: dict[str, Any], config: Preset, images: int) -> Point:
    """A point that searches so many images and trains nothing."""
    return Point(name, columns, config, *plan.search_cost(config, images))


def run_point(
    name: str, columns: dict[str, Any], config: Preset, *, is_searched: bool = True
) -> Point:
    """A point that is a whole run: search (unless another point's serves) and trainings."""
    cost = plan.make_plan(config)
    if not is_searched:
        return Point(name, columns, config, seconds=cost.learning_seconds)
    seconds = cost.search_seconds + cost.learning_seconds
    return Point(name, columns, config, cost.candidates, seconds, cost.disk_bytes)


def run(
    name: str,
    scales: dict[str, Settings],
    define: Callable[[Any, Any], Sweep],
    fixed: Sequence[str] = (),
) -> None:
    """Computes what is missing of a sweep, as the command line says, and draws its results.

    Args:
      name: of the experiment and its folder.
      scales: the settings of each preset.
      define: from a `Preset` and settings to the sweep; called for a dry run, too.
      fixed: beginnings of the fields that the sweep itself sets, which --config may not.
    """
    one_of("preset", command_line.PRESET.value, PRESETS)
    settings = override(scales[command_line.PRESET.value], command_line.assigned("sweep"), "sweep")
    for path in command_line.assigned("config"):
        if path.startswith(tuple(fixed)):
            raise ValueError(f"config.{path} has no effect here: the sweep sets it")
    config = configure(settings)
    folder = Path(OUTPUT_DIR.value or f"runs/{name}-{config.dataset}-{config.name}-{config.seed}")
    sweep = define(config, settings)
    if DRY_RUN.value:
        print(describe(sweep, config, folder))
        return
    prepare_folder(folder, name)
    if missing(sweep, folder):
        print(describe(sweep, config, folder), flush=True)
        compute(sweep, folder)
    page = write_results(sweep, folder, name)
    print(page.read_text())
    print(f"The whole folder: {folder}")


def configure(settings: Settings, dataset: str | None = None) -> Preset:
    """The preset for a dataset (None: the flag's) at a sweep's scale, as the flags change it."""
    scale = {f.name: getattr(settings, f.name) for f in dataclasses.fields(Settings)}
    scale = {name: value for name, value in scale.items() if value is not None}
    if "num_train" in scale:
        available = TRAINING_IMAGES.get(dataset or command_line.DATASET.value, math.inf)
        scale["num_train"] = min(scale["num_train"], available)
    return command_line.configure(dataset, **scale)


def describe(sweep: Sweep, config: Preset, folder: Path) -> str:
    """The plan of a sweep and what it costs."""
    lines = [
        f"dataset     {', '.join(dict.fromkeys(p.config.dataset for p in sweep.points))}",
        f"preset      {config.name}, on {jax.devices()[0].device_kind} ({jax.default_backend()})",
        f"points      {len(sweep.points)}",
    ]
    for point in sweep.points:
        lines.append(
            f"            {point.name}: {point.candidates:,} candidates, "
            f"about {plan.duration(point.seconds)}"
        )
    candidates, seconds, disk = (
        sum(getattr(point, name) for point in sweep.points)
        for name in ("candidates", "seconds", "disk_bytes")
    )
    lines += [
        f"in all      {candidates:,} candidates, about {plan.duration(seconds)}",
        f"disk        {disk / 1e6:,.0f} MB of targets",
        f"folder      {folder}",
    ]
    return "\n".join(lines)


def prepare_folder(folder: Path, name: str) -> None:
    """Makes the folder; raises ValueError if it holds something else than this experiment."""
    theirs = read_json(folder / "sweep.json")
    if theirs is None:
        if folder.exists() and any(folder.iterdir()):
            raise ValueError(f"{folder} is not empty and holds no sweep: choose --output_dir")
        write_text(folder / "sweep.json", json.dumps({"experiment": name}))
    elif theirs["experiment"] != name:
        raise ValueError(f"{folder} holds a {theirs['experiment']}: choose another --output_dir")


def missing(sweep: Sweep, folder: Path) -> list[Point]:
    """The points that are not computed yet.

    Raises:
      ValueError: one that is has the name of one here, but other settings.
    """
    absent = []
    for point in sweep.points:
        done = read_json(_file(folder, point))
        if done is None:
            absent.append(point)
        elif changed := differences(point.identity(), done["identity"]):
            raise ValueError(
                f"{folder} has {point.name} of another sweep: {'; '.join(changed)}. Choose another "
                "--output_dir, or repeat that sweep's settings"
            )
    return absent


def compute(sweep: Sweep, folder: Path) -> None:
    """Computes the points that are missing, and keeps each as soon as it is done."""
    todo = missing(sweep, folder)
    before = {
        point.config.dataset: read_json(_file(folder, point))["dataset"]
        for point in sweep.points
        if point not in todo
    }
    for number, point in enumerate(todo):
        if number and point.config != todo[number - 1].config:
            jax.clear_caches()  # a long sweep's programs would use up the process's memory maps
        dataset, config, notice = _load(point.config)
        if before.setdefault(point.config.dataset, dataset.name) != dataset.name:
            raise ValueError(
                f"{folder} has points of {before[point.config.dataset]}, but the data are now "
                f"{dataset.name}: choose another --output_dir"
            )
        print(f"[{number + 1} of {len(todo)}] {point.name}", flush=True)
        started, rows, failure = time.monotonic(), [], None
        try:
            measured = point._replace(config=config)
            rows = sweep.measure(measured, dataset, folder / "points" / point.name)
        except FloatingPointError as error:  # that a setting diverges is a result
            failure = str(error)
            print(f"{point.name}: {failure}", flush=True)
        result = {
            "identity": point.identity(),
            "dataset": dataset.name,
            "notice": notice,
            "failure": failure,
            "seconds": round(time.monotonic() - started, 1),
            "environment": environment(),
            "rows": [{"dataset": dataset.name} | point.columns | row for row in rows],
        }
        write_text(_file(folder, point), json.dumps(result, indent=1))


def _load(config: Preset) -> tuple[Dataset, Preset, str | None]:
    """The data of a point, its configuration, and a notice where mnist_5k takes mnist's place."""
    dataset, notice = _load_once(
        config.dataset, config.name, config.num_train, config.validation_size
    )
    if notice:
        print(f"\n*** {notice}\n", flush=True)
        size = len(dataset.train.images) + len(dataset.validation.images)
        config = dataclasses.replace(config, dataset=dataset.name, num_train=size)
    return dataset, config, notice


@functools.lru_cache(maxsize=1)
def _load_once(name, preset, num_train, validation_size):
    return load_or_substitute(
        name,
        data_dir=DATA_DIR.value,
        preset=preset,
        num_train=num_train,
        validation_size=validation_size,
    )


def write_results(sweep: Sweep, folder: Path, name: str) -> Path:
    """Writes rows.csv, the pictures and report.md from the points' files; returns the report."""
    points = {point.name: read_json(_file(folder, point)) for point in sweep.points}
    rows = [row for point in points.values() for row in point["rows"]]
    if not rows:
        raise ValueError(f"no point of {folder} has a result; the points' files say why")
    write_text(folder / "rows.csv", _csv(rows))
    minutes = sum(point["seconds"] for point in points.values()) / 60
    hardware = dict.fromkeys(
        ", ".join(f"{k} {v}" for k, v in point["environment"].items()) for point in points.values()
    )
    lines = [
        f"# {name.replace('_', ' ')}: {', '.join(values_of(rows, 'dataset'))}",
        f"`{command_line.command()}`",
        f"{minutes:.1f} minutes, without what interruptions lost; {'; '.join(hardware)}",
        *dict.fromkeys(f"**{p['notice']}**" for p in points.values() if p["notice"]),
        *(f"**{name} failed: {p['failure']}**" for name, p in points.items() if p["failure"]),
        sweep.table(rows),
    ]
    for picture, (figure, caption) in sweep.draw(rows).items():
        with replacing(folder / f"{picture}.png") as file:
            figure.savefig(file, format="png")
        lines.append(f"![{caption}]({picture}.png)")
    write_text(folder / "report.md", "\n\n".join(lines) + "\n")
    return folder / "report.md"


# --------------------------------------------------------------------------------------------
# What points do
# --------------------------------------------------------------------------------------------


def search_images(
    key: jax.Array, stages: Any, dataset: Dataset, split: Split, config: Preset, progress: bool
) -> SearchResult:
    """`search` of a few images, shared equally by this process's devices; on the host."""
    mesh = devices.device_mesh()
    count = len(split.images)
    share = -(-count // (1 if mesh is None else mesh.size))
    images = dataset.normalize(split.images)
    most = config.chunk_size or choose_chunk_size(stages, images.shape[1:], config.search)
    found = search(
        key,
        stages,
        images,
        split.labels,
        config.search,
        ids=split.ids,
        chunk_size=min(share, most),
        mesh=mesh,
        progress=progress,
    )
    return jax.device_get(found)


def first_images(dataset: Dataset, start: int, stop: int) -> Split:
    """Some of the training images, by row.

    Raises:
      ValueError: there are fewer.
    """
    available = len(dataset.train.images)
    if not 0 <= start < stop <= available:
        raise ValueError(
            f"images {start} to {stop - 1} are asked for, but there are {available} training "
            "images: set --sweep.num_images or --num_train"
        )
    return jax.tree.map(lambda array: array[start:stop], dataset.train)


# --------------------------------------------------------------------------------------------
# Points that are runs of the pipeline
# --------------------------------------------------------------------------------------------


def search_digest(config: Preset) -> str:
    """Names all of a configuration that a search depends on, but for the seed."""
    parts = to_dict(config)
    kept = ("dataset", "num_train", "validation_size", "widths", "normalize_blocks")
    kept += ("representation", "norm_epsilon", "search", "chunk_size")
    text = json.dumps({name: parts[name] for name in kept}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def open_run(point: Point, folder: Path) -> Run:
    """The run of a point; points of one search keep their targets in one place."""
    record = Run(folder, point.config)
    if not pipeline.is_searched(point.config):
        return record
    for seed in range(point.config.seed, point.config.seed + point.config.num_seeds):
        shared = folder.parent / "targets" / search_digest(point.config) / f"seed_{seed}"
        shared.mkdir(parents=True, exist_ok=True)
        own = folder / f"seed_{seed}" / "targets"
        own.parent.mkdir(parents=True, exist_ok=True)
        if not own.is_symlink():
            own.symlink_to(os.path.relpath(shared, own.parent), target_is_directory=True)
    return record


def validation_rows(point: Point, dataset: Dataset, folder: Path) -> Rows:
    """Searches and trains a point, and reads no test image: a row a seed and training."""
    record = open_run(point, folder)
    for stage in ("search", "learn"):
        pipeline.run(point.config, folder, dataset, stage=stage)
    rows = []
    for seed in range(point.config.seed, point.config.seed + point.config.num_seeds):
        targets = pipeline.open_targets(record, seed)
        found = {} if targets is None else final_cross_entropies(targets.fitness())
        for training in pipeline.trainings(point.config):
            result = record.finished(f"seed_{seed}/{training.name}")
            rows.append(
                {
                    "seed": seed,
                    "training": training.name,
                    "validation_accuracy": result["validation_accuracy"],
                    "last_accuracy": result["history"][-1]["validation_accuracy"],
                    "best_epoch": result["best_epoch"],
                    **found,
                }
            )
    return rows


def final_cross_entropies(fitness: Sequence[Any]) -> dict[str, float]:
    """Mean cross-entropy (nats) at the end of every layer's evolution, by column."""
    return {
        f"cross_entropy_{layer}": max(0.0, -float(np.mean(values[:, -1])))
        for layer, values in enumerate(fitness)
    }


# --------------------------------------------------------------------------------------------
# Parts of tables and figures
# --------------------------------------------------------------------------------------------


def only_one_seed(config: Preset, name: str) -> None:
    """Raises ValueError where more seeds would have no effect."""
    if config.num_seeds != 1:
        raise ValueError(
            f"num_seeds is {config.num_seeds}: {name} uses one; give others by --seed, each its "
            "own --output_dir"
        )


def layer_name(layer: int, layers: int = 4) -> str:
    """As figures call a layer; the last one holds the logits."""
    return "logits" if layer == layers - 1 else f"layer {layer}"


def training_name(training: str) -> str:
    """As figures and tables call a training of the pipeline."""
    if training.startswith("sgd_g"):
        return f"SGD, G = {training.removeprefix('sgd_g')}"
    return ROWS[training][0] if training in ROWS else training


def select(rows: Rows, **columns: Any) -> Rows:
    """The rows with these values."""
    return [row for row in rows if all(row[name] == value for name, value in columns.items())]


def values_of(rows: Rows, column: str) -> list[Any]:
    """The different values of a column, in the order in which they come."""
    return list(dict.fromkeys(row[column] for row in rows))


def seeds_note(rows: Rows) -> str:
    """How many seeds, and what bars stand for, for a caption."""
    seeds = len(values_of(rows, "seed"))
    return "one seed" if seeds == 1 else f"{seeds} seeds; bars: standard deviation over seeds"


def deviation(values: Sequence[float]) -> float:
    """Sample standard deviation; NaN, which is not drawn, for a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else np.nan


def standard_error(values: Sequence[float]) -> float:
    """Standard error of the mean; NaN for a single value."""
    return deviation(values) / len(values) ** 0.5


def curve(
    rows: Rows, along: str, quantity: str, spread: Callable[[Sequence[float]], float] = deviation
) -> tuple[list[Any], list[float], list[float]]:
    """A line for `plots.plot_curves`: where it has values, its means and their spreads."""
    known = [row for row in rows if row[quantity] is not None]
    places = sorted(set(values_of(known, along)))
    groups = [[row[quantity] for row in select(known, **{along: place})] for place in places]
    return places, [float(np.mean(group)) for group in groups], list(map(spread, groups))


def markdown(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; floats with four significant digits."""
    text = [[f"{x + 0.0:.4g}" if isinstance(x, float) else str(x) for x in row] for row in rows]
    return markdown_table(list(header), text)


def _file(folder: Path, point: Point) -> Path:
    return folder / "points" / f"{point.name}.json"


def _csv(rows: Rows) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
