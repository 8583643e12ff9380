"""A sweep: points that are computed one by one and kept, and figures drawn from their rows.

FOLDER/points/NAME.json  a finished point: what it is, and its rows; NAME/ is its own folder, if it
                         needs one
FOLDER/points/.locks/    which points are being computed
FOLDER/sweep.json        the experiment's name
FOLDER/rows.csv, report.md and a picture a figure are written anew by every call, from the points.

A later call may add points to a folder, but not change one. Several calls at a time share the
points; each is computed by one of them.
"""

import dataclasses
import functools
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
from matplotlib.figure import Figure

from common import command_line, plan, sweep_rows
from common.command_line import DATA_DIR, DRY_RUN
from common.overrides import is_of, override
from common.refusals import check_data, try_folder
from common.sweep_folders import make_folder, prepare_folder
from common.unused import NEEDS, check_used
from dsl_jax.config import PRESETS, RunConfig, from_dict, to_dict
from dsl_jax.data import catalogue
from dsl_jax.data.dataset import Dataset
from dsl_jax.data.load import foresee, load_or_substitute
from dsl_jax.devices import environment
from dsl_jax.files import read_json, replacing, write_text
from dsl_jax.plain_data import differences
from dsl_jax.runs.lock import if_free
from dsl_jax.values import one_of

CYCLE_FIELDS = ("cycles", "later_cycles", "controls")
# What plays no part in a sweep that searches images, one by one, and trains nothing.
LEARNING_FIELDS = (
    "variants", "learner_groups", "sgd_groups", "learn", "sgd", "target_controls",
    "searched", "shared", "sampler",
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """What every sweep can set by --sweep.NAME; None: the preset's. Sweeps add their own axes."""

    num_train: int | None = None
    validation_size: int | None = None
    num_seeds: int | None = None


class Point(NamedTuple):
    """One setting: its name, the columns that say where it stands, what is run, what it costs, and
    the names of the points that it needs."""

    name: str
    columns: dict[str, Any]
    config: RunConfig
    candidates: int = 0
    seconds: float = 0.0
    disk_bytes: int = 0
    after: tuple[str, ...] = ()

    def identity(self) -> dict[str, Any]:
        """What must be the same for its rows to be; plain data."""
        plain = {"columns": self.columns, "config": to_dict(self.config)}
        return json.loads(json.dumps(plain))


class Sweep(NamedTuple):
    """What a script defines; see `run`.

    points: all settings. measure: the rows of one, given its folder, which it may use to go on
    after an interruption; of a training that diverged, a row with its `failure`. draw: figures by
    name and caption, from the rows that have results. table: Markdown, from all rows. complete:
    adds to the rows what is kept in other files of the sweep's folder, for the two. check: raises
    ValueError, before any work, where points that are still to be computed cannot be. unused:
    fields of the configuration that have no effect on any point, which --config may not set.
    """

    points: Sequence[Point]
    measure: Callable[[Point, Dataset, Path], sweep_rows.Rows]
    draw: Callable[[sweep_rows.Rows], dict[str, tuple[Figure, str]]]
    table: Callable[[sweep_rows.Rows], str]
    complete: Callable[[sweep_rows.Rows, Path], sweep_rows.Rows] = lambda rows, folder: rows
    check: Callable[[Sequence[Point]], None] = lambda points: None
    unused: Sequence[str] = ()


def run(
    name: str,
    scales: dict[str, Settings],
    define: Callable[[Any, Any], Sweep],
    fixed: Sequence[str] = (),
    has_cycles: bool = False,
    used: Sequence[str] = (),
    change: Callable[[RunConfig], RunConfig] = lambda config: config,
) -> None:
    """Computes what is missing of a sweep, as the command line says, and draws its results.

    Args:
      name: of the experiment and its folder.
      scales: the settings of each preset.
      define: from a `RunConfig` and settings to the sweep; called for a dry run, too.
      fixed: the fields that the sweep itself sets, which --config may not.
      has_cycles: whether it has more than the paper's one cycle; else those fields are fixed, too.
      used: fields that the points use, though their configurations do not say so.
      change: what it does to the preset, before --config.
    """
    one_of("preset", command_line.PRESET.value, PRESETS)
    settings = override(scales[command_line.PRESET.value], command_line.assigned("sweep"), "sweep")
    refuse_overrides(*fixed, *(() if has_cycles else CYCLE_FIELDS))
    config = configure(settings, change=change)
    default = f"runs/{name}-{config.dataset}-{config.name}-{config.seed}"
    folder = command_line.output_dir(default + command_line.folder_suffix(_given()))
    sweep = define(config, settings)
    refuse_overrides(*sweep.unused)
    if not sweep.points:
        raise ValueError(
            "there is nothing to compute: a --sweep setting, or config.variants, is empty"
        )
    configs = [point.config for point in sweep.points]
    needs = [need for need in NEEDS if not {*need.fields} & {*used}]
    check_used(command_line.assigned("config"), configs, needs)
    absent = missing(sweep, folder)
    sweep.check(absent)
    if DRY_RUN.value:
        print(describe(sweep, absent, config, folder))
        try_folder(folder, lambda folder: make_folder(folder, name))
        for point in absent:
            check_data(point.config.dataset, point.config.name)
        return
    prepare_folder(folder, name)
    if absent:
        print(describe(sweep, absent, config, folder), flush=True)
        if theirs := compute(sweep, folder):
            print(
                f"Other processes are computing {', '.join(point.name for point in theirs)}; when "
                "they have ended, the same command draws the results."
            )
            return
    page = write_results(sweep, folder, name)
    print(page.read_text("utf-8"))
    print(f"The whole folder: {folder}")


def _given() -> list[str]:
    """What the command line says of the method and the images; other settings may be added to."""
    given = {f"config.{k}": v for k, v in command_line.assigned("config").items()}
    given |= {
        f"sweep.{k}": v
        for k, v in command_line.assigned("sweep").items()
        if k in ("num_train", "validation_size")
    }
    if command_line.NUM_TRAIN.value is not None:
        given["num_train"] = command_line.NUM_TRAIN.value
    return [f"{name}={value}" for name, value in sorted(given.items())]


def refuse_overrides(*fields: str) -> None:
    """Raises ValueError for a --config.FIELD that a sweep sets itself, or does without."""
    for path in command_line.assigned("config"):
        if is_of(path, fields):
            raise ValueError(f"config.{path} has no effect here: the sweep sets it, or needs none")


def configure(
    settings: Settings,
    dataset: str | None = None,
    change: Callable[[RunConfig], RunConfig] = lambda config: config,
) -> RunConfig:
    """The preset for a dataset (None: the flag's) at a sweep's scale.

    What is more specific wins: the scale, then the flags, --sweep.NAME, `change`, --config.FIELD.
    """
    scale = {f.name: getattr(settings, f.name) for f in dataclasses.fields(Settings)}
    scale = {name: value for name, value in scale.items() if value is not None}
    if "num_train" in scale and "num_train" not in command_line.assigned("sweep"):
        name = command_line.assigned("config").get("dataset", command_line.DATASET.value)
        available = catalogue.facts(dataset or name).train_images
        scale["num_train"] = min(scale["num_train"], available)
    given = {name: scale[name] for name in scale if name in command_line.assigned("sweep")}
    return command_line.configure(
        dataset, lambda config: change(dataclasses.replace(config, **given)), **scale
    )


def only_one_seed(config: RunConfig, name: str) -> None:
    """Raises ValueError where more seeds would have no effect."""
    if config.num_seeds != 1:
        raise ValueError(
            f"num_seeds is {config.num_seeds}: {name} uses one; give others by --seed, each its "
            "own --output_dir"
        )


def describe(sweep: Sweep, absent: Sequence[Point], config: RunConfig, folder: Path) -> str:
    """The plan of a sweep, and what the points cost that are absent."""
    names = dict.fromkeys(point.config.dataset for point in sweep.points)
    lines = [
        *(f"dataset     {x}, {foresee(x, config.name, DATA_DIR.value).text}" for x in names),
        f"preset      {config.name}, on {jax.devices()[0].device_kind} ({jax.default_backend()})",
        f"points      {len(sweep.points)}",
    ]
    for point in sweep.points:
        cost = f"{point.candidates:,} candidates, about {plan.duration(point.seconds)}"
        lines.append(f"            {point.name}: {cost if point in absent else 'computed already'}")
    candidates, seconds, disk = (
        sum(getattr(point, name) for point in absent)
        for name in ("candidates", "seconds", "disk_bytes")
    )
    whole = "in all" if len(absent) == len(sweep.points) else "left  "
    lines += [
        f"{whole}      {candidates:,} candidates, about {plan.duration(seconds)}",
        f"disk        {disk / 1e6:,.0f} MB of targets",
        f"folder      {folder}",
    ]
    return "\n".join(lines)


def missing(sweep: Sweep, folder: Path) -> list[Point]:
    """The points that are not computed yet.

    Raises:
      ValueError: one that is has the name of one here, but other settings.
    """
    absent = []
    for point in sweep.points:
        done = read_json(_file(folder, point.name), "delete it, and the point is computed again")
        if done is None:
            absent.append(point)
        elif changed := differences(
            *(what_counts(x, sweep.unused) for x in (point.identity(), done["identity"]))
        ):
            raise ValueError(
                f"{folder} has {point.name} of another sweep: {'; '.join(changed)}. Choose another "
                "--output_dir, or repeat that sweep's settings"
            )
    return absent


def what_counts(identity: dict[str, Any], unused: Sequence[str] = ()) -> dict[str, Any]:
    """An identity without what has no effect on results; a field that is newer has its default."""
    config = json.loads(json.dumps(to_dict(from_dict(identity["config"]))))
    unused = (*unused, "chunk_size")
    unused += ("later_cycles", "controls") if config["cycles"] == 1 else ()
    return identity | {"config": {k: v for k, v in config.items() if k not in unused}}


def compute(sweep: Sweep, folder: Path) -> list[Point]:
    """Computes the missing points, and returns those that other processes are computing."""
    while compute_free(sweep, folder, missing(sweep, folder)):
        pass  # another process may have left one unfinished in the meantime
    return missing(sweep, folder)


def compute_free(sweep: Sweep, folder: Path, todo: Sequence[Point]) -> bool:
    """Computes those points that no other process computes, and keeps each.

    Returns:
      Whether there was one.
    """
    absent = {point.name for point in todo}
    before = {
        point.config.dataset: read_json(_file(folder, point.name))["dataset"]
        for point in sweep.points
        if point.name not in absent
    }
    last, found_one = None, False
    for number, point in enumerate(todo):
        with if_free(folder / "points" / ".locks" / point.name) as is_ours:
            if not is_ours or _file(folder, point.name).exists():
                continue
            if not all(_file(folder, name).exists() for name in point.after):
                continue
            if last not in (None, point.config):
                jax.clear_caches()  # a long sweep's programs would use up the process's memory maps
            last = point.config
            dataset, config, notice = _load(point.config)
            if before.setdefault(point.config.dataset, dataset.name) != dataset.name:
                raise ValueError(
                    f"{folder} has points of {before[point.config.dataset]}, but the data are now "
                    f"{dataset.name}: choose another --output_dir"
                )
            print(f"[{number + 1} of {len(todo)}] {point.name}", flush=True)
            result = {"notice": notice} | measure(sweep, point, config, dataset, folder)
            write_text(_file(folder, point.name), json.dumps(result, indent=1))
            for path in (folder / "points" / point.name).glob("checkpoints-*"):
                shutil.rmtree(path, ignore_errors=True)
            found_one = True
    return found_one


def measure(
    sweep: Sweep, point: Point, config: RunConfig, dataset: Dataset, folder: Path
) -> dict[str, Any]:
    """What is kept of a point: its rows, what it is, where it was computed."""
    started, rows, failure = time.monotonic(), [], None
    try:
        measured = point._replace(config=config)
        rows = sweep.measure(measured, dataset, folder / "points" / point.name)
    except FloatingPointError as error:  # that a setting diverges is a result
        failure = str(error)
        print(f"{point.name}: {failure}", flush=True)
    return {
        "identity": point.identity(),
        "dataset": dataset.name,
        "failure": failure,
        "seconds": round(time.monotonic() - started, 1),
        "environment": environment(),
        "rows": [{"dataset": dataset.name} | point.columns | row for row in rows],
    }


def _load(config: RunConfig) -> tuple[Dataset, RunConfig, str | None]:
    """The data of a point, its configuration, and a notice where mnist_5k takes mnist's place."""
    dataset, notice = _load_once(
        config.dataset, config.name, config.num_train, config.validation_size
    )
    if notice:
        print(f"\n*** {notice}\n", flush=True)
        config = plan.for_dataset(config, dataset.name)
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
    points = {point.name: read_json(_file(folder, point.name)) for point in sweep.points}
    rows = [row for point in points.values() for row in point["rows"]]
    if not sweep_rows.ended(rows):
        raise ValueError(f"no point of {folder} has a result; the points' files say why")
    write_text(folder / "rows.csv", sweep_rows.as_csv(rows))
    rows = sweep.complete(rows, folder)
    minutes = sum(point["seconds"] for point in points.values()) / 60
    hardware = dict.fromkeys(
        ", ".join(f"{k} {v}" for k, v in point["environment"].items() if k != "date")
        for point in points.values()
    )
    lines = [
        f"# {name.replace('_', ' ')}: {', '.join(sweep_rows.values_of(rows, 'dataset'))}",
        f"`{command_line.command()}`",
        f"{minutes:.1f} minutes, without what interruptions lost; {'; '.join(hardware)}",
        *dict.fromkeys(f"**{p['notice']}**" for p in points.values() if p["notice"]),
        *(f"**{failure}**" for name, p in points.items() for failure in _failures(name, p)),
        sweep.table(rows),
    ]
    for picture, (figure, caption) in sweep.draw(sweep_rows.ended(rows)).items():
        with replacing(folder / f"{picture}.png") as file:
            figure.savefig(file, format="png")
        lines.append(f"![{caption}]({picture}.png)")
    write_text(folder / "report.md", "\n\n".join(lines) + "\n")
    return folder / "report.md"


def _failures(name: str, point: dict[str, Any]) -> list[str]:
    """What failed of a point, all of it or single trainings."""
    lines = [f"{name} failed: {point['failure']}"] if point["failure"] else []
    return lines + [
        f"{name}, {row['training']}, seed {row['seed']} failed: {row['failure']}"
        for row in point["rows"]
        if row.get("failure")
    ]


def _file(folder: Path, point: str) -> Path:
    return folder / "points" / f"{point}.json"
