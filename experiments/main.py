"""Searches representations, learns them, and compares with SGD: the main job.

    python experiments/main.py --dataset=mnist

Everything goes into one folder; the same command goes on where it was stopped. Any field of the
configuration can be set: --config.search.num_parents=20 '--config.search.layers[0].generations=50'
"""

import contextlib
import dataclasses
import html
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
from absl import flags
from common import command_line
from common.command_line import DATA_DIR, DRY_RUN, OUTPUT_DIR

from dsl_jax import config as configs
from dsl_jax import pipeline, presets
from dsl_jax.data.load import describe_data, load_or_substitute, may_substitute
from dsl_jax.data.sources import is_available
from dsl_jax.reports import pages, summary
from dsl_jax.runs import loggers, plan
from dsl_jax.runs.folder import RunFolder, check_folder, finished_report, prepare_folder
from dsl_jax.runs.steps import is_searched

_VARIANTS = flags.DEFINE_list("variants", None, f"Of {','.join(configs.VARIANTS)} (default: all).")
_AUGMENT = flags.DEFINE_bool("augment", False, "Train on random crops, and flips where allowed.")
_CYCLES = flags.DEFINE_integer(
    "cycles", None, "How many times to search and to learn from it (default: once)."
)
_STAGE = flags.DEFINE_string("stage", "all", f"One of {', '.join(pipeline.PHASES)}.")
_REPAIR = flags.DEFINE_bool("repair", False, "Search damaged parts of the targets again.")
_LOGGERS = flags.DEFINE_list(
    "loggers", [], f"Also log to {', '.join(loggers.LOGGERS)}; metrics.jsonl is always written."
)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed",
    False,
    "Search as one process of a TPU pod slice, Slurm or Open MPI job.",
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0, for --distributed in no such job."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "With --coordinator: how many.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "With --coordinator: this one's number.")


def configure() -> configs.RunConfig:
    """The preset with what the flags change."""
    changes = {} if _VARIANTS.value is None else {"variants": tuple(_VARIANTS.value)}
    if _CYCLES.value is not None:
        changes["cycles"] = _CYCLES.value
    config = command_line.configure(**changes)
    return presets.with_augmentation(config) if _AUGMENT.value else config


def join_job() -> None:
    """Makes this process one of several, if the flags say so; before JAX is used."""
    given = (_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    if any(value is not None for value in given) and (None in given or not _DISTRIBUTED.value):
        raise ValueError(
            "--coordinator, --num_processes and --process_id go together, with --distributed"
        )
    if not _DISTRIBUTED.value:
        return
    if _STAGE.value not in ("all", "search"):
        raise ValueError(
            f"--distributed shares the search: run --stage={_STAGE.value} in one process without it"
        )
    try:
        jax.distributed.initialize(*given)
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"--distributed found no job that it could join ({error}): give --coordinator, "
            "--num_processes and --process_id, or leave it out: processes that are started "
            "with one --output_dir share the search as well"
        ) from error


@contextlib.contextmanager
def make_loggers(config: configs.RunConfig, folder: Path) -> Iterator[list[loggers.Logger]]:
    """What --loggers asks for, closed at the end."""
    options = {"name": folder.name, "config": configs.to_dict(config)}
    made = loggers.make_loggers(_LOGGERS.value, folder, **options)
    try:
        yield made
    finally:
        for logger in made:
            logger.close()


def choose_folder(asked: configs.RunConfig, dataset: str) -> Path:
    """--output_dir, or one for the settings asked for, and for the data if they are others."""
    plain = dataclasses.replace(presets.get_preset(asked.name, asked.dataset), seed=asked.seed)
    changed = configs.differences(configs.to_dict(asked), configs.to_dict(plain))
    default = f"runs/{asked.dataset}-{asked.name}-seed{asked.seed}"
    default += command_line.folder_suffix(changed)
    if dataset != asked.dataset:
        default += f"-{dataset}"
    return Path(OUTPUT_DIR.value or default)


def describe(config: configs.RunConfig, folder: Path) -> str:
    """The plan, its cost, where the data are and where the results go."""
    return plan.describe(plan.make_plan(config), config, str(folder), DATA_DIR.value)


def dry_run(asked: configs.RunConfig) -> None:
    """Prints the plan of what would happen now; what would stop it is told, and is no error."""
    config, data_dir = asked, DATA_DIR.value
    if not is_available(asked.dataset, data_dir):
        data = describe_data(asked.dataset, asked.name, data_dir)
        print(f"*** {asked.dataset} is {data}\n", file=sys.stderr)
        if may_substitute(asked.dataset, asked.name, data_dir):
            available = configs.TRAINING_IMAGES["mnist_5k"]
            size = min(asked.num_train or available, available)
            config = dataclasses.replace(asked, dataset="mnist_5k", num_train=size)
    folder = choose_folder(asked, config.dataset)
    print(describe(config, folder))
    try:
        check_folder(folder, config, asked.dataset)
        if finished_report(folder, config, asked.dataset) is not None:
            print("\n*** finished before: nothing would be computed", file=sys.stderr)
    except (ValueError, OSError) as error:
        print(f"\n*** {error}", file=sys.stderr)


def check_stage(config: configs.RunConfig, folder: Path) -> None:
    """Raises ValueError for a stage that needs a run that was begun, where there is none."""
    needs_run = {"learn": is_searched(config), "report": True}.get(_STAGE.value, False)
    if needs_run and not (folder / "config.json").exists():
        raise ValueError(f"{folder} holds no run to go on with: begin with --stage=search")


def run_all() -> None:
    """Plan, search, learning, evaluation, report."""
    if _STAGE.value not in pipeline.PHASES:
        raise ValueError(
            f"stage {_STAGE.value!r} is unknown: choose one of {', '.join(pipeline.PHASES)}"
        )
    join_job()  # first: looking a strategy up starts the devices, and then no job can be joined
    config = asked = configure()
    folder = choose_folder(asked, asked.dataset)
    loggers.make_loggers(_LOGGERS.value, folder)  # fails now, if one is unknown or not installed
    if DRY_RUN.value:
        dry_run(asked)
        return
    if (page := finished_report(folder, config)) is not None:
        show_finished(page)
        return
    is_new = not folder.exists()
    if OUTPUT_DIR.value:  # what is wrong with it is said before any data are loaded
        check_stage(config, folder)
        prepare_folder(folder)
    print(f"loading {config.dataset} ...", flush=True)
    try:
        dataset, notice = load_or_substitute(
            config.dataset,
            data_dir=DATA_DIR.value,
            preset=config.name,
            num_train=config.num_train,
            validation_size=config.validation_size,
        )
    except ValueError:
        if is_new:
            with contextlib.suppress(OSError):  # not made, or another process has begun in it
                folder.rmdir()
        raise
    if notice:
        size = len(dataset.train.images) + len(dataset.validation.images)
        config = dataclasses.replace(asked, dataset=dataset.name, num_train=size)
        folder = choose_folder(asked, dataset.name)
        print(f"\n*** {notice}\n", file=sys.stderr)
        if (page := finished_report(folder, config, asked.dataset)) is not None:
            show_finished(page)
            return
    check_stage(config, folder)
    RunFolder(
        folder, config, asked.dataset
    )  # refuses another run's folder before anything is computed
    print(describe(config, folder), flush=True)
    several = jax.process_count() > 1
    stage = "search" if several else _STAGE.value
    with make_loggers(config, folder) as receivers:
        results = pipeline.run(
            config,
            folder,
            dataset,
            requested=asked.dataset,
            phase=stage,
            repair=_REPAIR.value,
            progress=jax.process_index() == 0,
            loggers=receivers,
        )
    if not results:
        print(f"--stage={stage} is done; the folder is {folder}")
        if several and _STAGE.value == "all":
            print("The rest is for one process: run the same command without --distributed.")
        return
    command = command_line.command()
    page, _ = pages.write_report(
        summary.summarize(config, folder, dataset, results, notice=notice, command=command),
        folder,
    )
    show(page)


def show_finished(page: Path) -> None:
    """`show`, and that nothing was computed."""
    show(page)
    print(f"{page.parent} was finished before: nothing was computed. A new run: --output_dir=...")


def show(page: Path) -> None:
    """Prints the table and what is above it; pictures, times and settings are in the file."""
    text = page.read_text().split("## Figures")[0]
    print(
        html.unescape(re.sub(r"\\([^\w\s])", r"\1", text))
    )  # as typed, without Markdown's escapes
    print(f"The whole report: {page} and {page.with_suffix('.html')}")


if __name__ == "__main__":
    command_line.start(run_all)
