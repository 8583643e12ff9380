"""Searches representations, learns them, and compares with SGD: the main job.

    python experiments/main.py --dataset=mnist

Everything goes into one folder; the same command goes on where it was stopped. Any field of the
configuration can be set: --config.search.num_parents=20 '--config.search.layers[0].generations=50'
"""

import contextlib
import dataclasses
import html
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
from absl import flags

sys.path.insert(0, str(Path(__file__).parent))  # for python -m and python -P
from common import command_line, plan
from common.command_line import DATA_DIR, DRY_RUN, OUTPUT_DIR
from common.refusals import absent, check_data, take_away, try_folder
from common.unused import check_used

import dsl_jax
from dsl_jax import config as configs
from dsl_jax import pipeline, presets
from dsl_jax.data.dataset import Dataset
from dsl_jax.data.load import foresee, load_or_substitute
from dsl_jax.jobs import is_first, wait_for_first
from dsl_jax.plain_data import differences
from dsl_jax.runs import loggers
from dsl_jax.runs.folder import RunFolder, check_folder, finished_report, prepare_folder
from dsl_jax.runs.steps import is_searched
from dsl_jax.runs.verify import verify_run
from dsl_jax.values import one_of

# What a run was asked for one time, and what need not be asked for to repeat it.
ONCE = ("phase", "repair", "verify", "dry_run", "loggers")
ONCE += ("distributed", "coordinator", "process_id", "num_processes")

# A notebook's %run defines them again, and again.
AGAIN = {"allow_override": True}
_VARIANTS = flags.DEFINE_list(
    "variants",
    None,
    f"Of {','.join(configs.VARIANTS)} (default: all), and skip_block_1, ...",
    **AGAIN,
)
_AUGMENT = flags.DEFINE_bool(
    "augment", False, "Train on random crops, and flips where allowed.", **AGAIN
)
_CYCLES = flags.DEFINE_integer(
    "cycles", None, "How many times to search and to learn from it (default: once).", **AGAIN
)
_SEARCH = flags.DEFINE_string(
    "search",
    None,
    f"One of {', '.join(configs.SEARCHES)} (default: the first; docs/shared_search.md).",
    **AGAIN,
)
_CONTROLS = flags.DEFINE_list(
    "controls",
    None,
    "Also learn these in the targets' place (docs/what_targets_carry.md).",
    **AGAIN,
)
_COMPUTE_DTYPE = flags.DEFINE_string(
    "compute_dtype",
    "auto",
    "float32, bfloat16, or auto: by the device (docs/on_a_gpu.md).",
    **AGAIN,
)
_PHASE = flags.DEFINE_string("phase", "all", f"One of {', '.join(pipeline.PHASES)}.", **AGAIN)
_VERIFY = flags.DEFINE_bool(
    "verify", False, "Read all of the folder, list what is damaged, and stop.", **AGAIN
)
_REPAIR = flags.DEFINE_bool("repair", False, "Do again what --verify finds damaged.", **AGAIN)
_LOGGERS = flags.DEFINE_list(
    "loggers",
    [],
    f"Also log to {', '.join(loggers.LOGGERS)}; metrics.jsonl is always written.",
    **AGAIN,
)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed",
    False,
    "Run as one process of a TPU pod slice, Slurm or Open MPI job.",
    **AGAIN,
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0, for --distributed in no such job.", **AGAIN
)
_NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "With --coordinator: how many.", **AGAIN
)
_PROCESS_ID = flags.DEFINE_integer(
    "process_id", None, "With --coordinator: this one's number.", **AGAIN
)


def configure() -> configs.RunConfig:
    """The preset with what the flags change."""
    fields = {} if _VARIANTS.value is None else {"variants": tuple(_VARIANTS.value)}
    if _CYCLES.value is not None:
        fields["cycles"] = _CYCLES.value
    if _SEARCH.value is not None:
        fields["searched"] = _SEARCH.value
    if _CONTROLS.value is not None:
        fields["target_controls"] = tuple(_CONTROLS.value)
    config = command_line.configure(change=_changed, **fields)
    check_used(command_line.assigned("config"), [config])
    return config


def _changed(preset: configs.RunConfig) -> configs.RunConfig:
    """A preset as flags change it that set several fields each."""
    preset = presets.with_augmentation(preset) if _AUGMENT.value else preset
    return presets.with_compute_dtype(preset, _COMPUTE_DTYPE.value)


def join_job() -> None:
    """Makes this process one of several, if the flags say so; before JAX is used."""
    given = (_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    if any(value is not None for value in given) and (None in given or not _DISTRIBUTED.value):
        raise ValueError(
            "--coordinator, --num_processes and --process_id go together, with --distributed"
        )
    if not _DISTRIBUTED.value:
        return
    try:
        # A process that fails tells the others when it gives up waiting for them.
        jax.distributed.initialize(*given, shutdown_timeout_seconds=30)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # JAX takes it for itself
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"--distributed found no job that it could join ({error}): give --coordinator, "
            "--num_processes and --process_id, or leave it out: processes that are started "
            "with one --output_dir share the search as well"
        ) from error


# --------------------------------------------------------------------------------------------
# What a command comes to
# --------------------------------------------------------------------------------------------


class Resolved(NamedTuple):
    """Settings, data and folder of a run.

    asked, config: the settings asked for, and as they are run, on the data that there are.
    report: the run's, if it was finished before.
    dataset: None where nothing is to be computed.
    notice: what must be said of the data.
    """

    asked: configs.RunConfig
    config: configs.RunConfig
    folder: Path
    report: Path | None
    dataset: Dataset | None = None
    notice: str | None = None


def resolve(asked: configs.RunConfig) -> Resolved:
    """Loads the data, unless the run is finished, or only what would happen now is asked for."""
    run = on_data(asked, asked.dataset)
    if run.report is not None:
        return run
    if DRY_RUN.value or _VERIFY.value:
        seen = foresee(asked.dataset, asked.name, DATA_DIR.value)
        notice = None if seen.name == asked.dataset else f"{asked.dataset} is {seen.text}"
        return on_data(asked, seen.name, notice=notice)
    dataset, notice = load(run)
    return on_data(asked, dataset.name, dataset, notice)


def on_data(
    asked: configs.RunConfig,
    name: str,
    dataset: Dataset | None = None,
    notice: str | None = None,
) -> Resolved:
    """The settings asked for on the data of a name, which may have taken others' place."""
    config = plan.for_dataset(asked, name)
    folder = choose_folder(asked, name)
    report = None if _REPAIR.value else finished_report(folder, config, asked.dataset)
    return Resolved(asked, config, folder, report, dataset, notice)


def choose_folder(asked: configs.RunConfig, dataset: str) -> Path:
    """--output_dir, or one for the settings asked for, and for the data if they are others."""
    plain = presets.with_compute_dtype(presets.get_preset(asked.name, asked.dataset))
    plain = dataclasses.replace(plain, seed=asked.seed)
    changed = differences(configs.to_dict(asked), configs.to_dict(plain))
    default = f"runs/{asked.dataset}-{asked.name}-seed{asked.seed}"
    default += command_line.folder_suffix(changed)
    if dataset != asked.dataset:
        default += f"-{dataset}"
    return command_line.output_dir(default)


def load(run: Resolved) -> tuple[Dataset, str | None]:
    """The data; what is wrong with --output_dir is said before. A refusal leaves no folder."""
    config, new = run.config, absent(run.folder)
    if OUTPUT_DIR.value:
        check_phase(run)
        prepare_folder(run.folder)
    print(f"loading {config.dataset} ...", flush=True)
    try:
        return load_or_substitute(
            config.dataset,
            data_dir=DATA_DIR.value,
            preset=config.name,
            num_train=config.num_train,
            validation_size=config.validation_size,
        )
    except ValueError:
        take_away(new)
        raise


def check_phase(run: Resolved) -> None:
    """Raises ValueError for a phase that needs a run that was begun, where there is none."""
    needs_run = {"learn": is_searched(run.config), "report": True}.get(_PHASE.value, False)
    if needs_run and not (run.folder / "config.json").exists():
        first = "search" if is_searched(run.config) else "learn"
        raise ValueError(f"{run.folder} holds no run to go on with: begin with --phase={first}")


# --------------------------------------------------------------------------------------------
# What is done with it
# --------------------------------------------------------------------------------------------


def run_all() -> None:
    """Plan, search, learning, evaluation, report."""
    one_of("phase", _PHASE.value, pipeline.PHASES)
    join_job()  # first: looking a strategy up starts the devices, and then no job can be joined
    command_line.takes_no("sweep")
    if _REPAIR.value and (_VERIFY.value or DRY_RUN.value):
        raise ValueError("--repair changes the folder: leave out --verify and --dry_run")
    asked = configure()
    loggers.make_loggers(_LOGGERS.value, "")  # fails now, if one is unknown or not installed
    run = resolve(asked)
    if run.notice:
        print(f"\n*** {run.notice}\n", file=sys.stderr)
    if _VERIFY.value:
        verify(run.folder)
    elif DRY_RUN.value:
        dry_run(run)
    elif run.report is not None:
        show_finished(run.report)
    else:
        compute(run)


def describe(run: Resolved) -> str:
    """The plan, its cost, where the data are and where the results go."""
    return plan.describe(plan.make_plan(run.config), run.config, str(run.folder), DATA_DIR.value)


def dry_run(run: Resolved) -> None:
    """Prints the plan, and changes nothing.

    Raises:
      ValueError: what the run would refuse: its phase, its folder, its data.
    """
    print(describe(run))
    if run.report is not None:
        print("\n*** finished before: nothing would be computed", file=sys.stderr)
        return
    check_phase(run)
    try_folder(run.folder, prepare_folder)
    check_folder(run.folder, run.config, run.asked.dataset)
    check_data(run.config.dataset, run.config.name)


def verify(folder: Path) -> None:
    """Prints what is damaged in a run's folder; the exit code is 1 if anything is."""
    damaged = verify_run(folder, progress=True)
    print("\n".join(map(str, damaged)) or f"{folder}: nothing is damaged")
    if not damaged:
        return
    if any(damage.mend is not None for damage in damaged):
        print("\nThe same command with --repair in place of --verify does it again.")
    sys.exit(1)


def compute(run: Resolved) -> None:
    """What --phase says, and the report when all is done."""
    if not OUTPUT_DIR.value:  # the folder was not known before the data were
        check_phase(run)
    # Refuses another run's folder before anything is computed.
    RunFolder(run.folder, run.config, run.asked.dataset)
    print(describe(run), flush=True)
    with make_loggers(run) as receivers:
        results = dsl_jax.run(
            run.config,
            run.folder,
            run.dataset,
            notice=run.notice,
            command=command_line.command(without=ONCE),
            requested=run.asked.dataset,
            phase=_PHASE.value,
            repair=_REPAIR.value,
            loggers=receivers,
        )
    wait_for_first("end")  # for who still searches, or whose logger is slow to close
    if not results:
        print(f"--phase={_PHASE.value} is done; the folder is {run.folder}")
    elif is_first():
        show(run.folder / "report.md")


@contextlib.contextmanager
def make_loggers(run: Resolved) -> Iterator[list[loggers.Logger]]:
    """What --loggers asks for, closed at the end; of a job's processes for the first alone."""
    options = {"name": run.folder.name, "config": configs.to_dict(run.config)}
    made = loggers.make_loggers(_LOGGERS.value if is_first() else [], run.folder, **options)
    try:
        yield made
    finally:
        for logger in made:
            logger.close()


def show_finished(page: Path) -> None:
    """`show`, and that nothing was computed."""
    if not is_first():
        return
    show(page)
    print(f"{page.parent} was finished before: nothing was computed. A new run: --output_dir=...")


def show(page: Path) -> None:
    """Prints the table and what is above it; pictures, times and settings are in the file."""
    text = page.read_text("utf-8").split("## Figures")[0]
    print(
        html.unescape(re.sub(r"\\([^\w\s])", r"\1", text))
    )  # as typed, without Markdown's escapes
    print(f"The whole report: {page} and {page.with_suffix('.html')}")


if __name__ == "__main__":
    command_line.start(run_all)
