"""Searches representations, learns them, and compares with SGD: the main job.

    python experiments/main.py --dataset=mnist

Everything goes into one folder; the same command goes on where it was stopped. Any field of the
configuration can be set: --config.search.num_parents=20 '--config.search.layers[0].generations=50'
"""

import dataclasses
import html
import re
import shlex
import signal
import sys
import traceback
from pathlib import Path

import jax
from absl import app, flags, logging

import dsl_jax
from dsl_jax import config as configs
from dsl_jax import pipeline, plan, presets, report, summary
from dsl_jax.datasets import load_or_substitute
from dsl_jax.files import cache_dir
from dsl_jax.runs import Run, finished_report, prepare_folder

_DATASET = flags.DEFINE_string("dataset", "mnist", f"One of {', '.join(configs.DATASETS)}.")
_PRESET = flags.DEFINE_string(
    "preset",
    "laptop",
    "smoke (2 minutes), laptop (25 minutes on 2 cores) or paper (an accelerator).",
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Folder of prepared tensorflow-datasets (default: TFDS_DATA_DIR, or theirs)."
)
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None, "The run's folder (default: runs/DATASET-PRESET-seedSEED)."
)
_SEED = flags.DEFINE_integer("seed", 0, "The first seed.")
_NUM_SEEDS = flags.DEFINE_integer("num_seeds", None, "Number of seeds (default: the preset's).")
_NUM_TRAIN = flags.DEFINE_integer(
    "num_train", None, "Training images, before validation is held out (default: the preset's)."
)
_VARIANTS = flags.DEFINE_list("variants", None, f"Of {','.join(configs.VARIANTS)} (default: all).")
_AUGMENT = flags.DEFINE_bool("augment", False, "Train on random crops, and flips where allowed.")
_STAGE = flags.DEFINE_string("stage", "all", f"One of {', '.join(pipeline.STAGES)}.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the plan and its cost, and stop.")
_REPAIR = flags.DEFINE_bool("repair", False, "Search damaged parts of the targets again.")
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed",
    False,
    "Search as one of the processes of a TPU pod slice, Slurm or Open MPI job (jax.distributed).",
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0, for --distributed in no such job."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "With --coordinator: how many.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "With --coordinator: this one's number.")

_OVERRIDES: dict[str, str] = {}


def parse_flags(arguments: list[str]) -> list[str]:
    """absl's flags, with --config.FIELD=VALUE taken out before."""
    rest = []
    for argument in arguments:
        name, equals, value = argument.lstrip("-").partition("=")
        if argument.startswith("--config."):
            if not equals:
                print(f"error: {argument}: write --{name}=VALUE", file=sys.stderr)
                sys.exit(2)
            _OVERRIDES[name.removeprefix("config.")] = value
        else:
            rest.append(argument)
    rest = app.parse_flags_with_usage(rest)
    if len(rest) > 1:
        print(f"error: {rest[1]!r} is no flag: write --name=value", file=sys.stderr)
        sys.exit(2)
    return rest


def configure() -> configs.Preset:
    """The preset with what the flags change."""
    config = presets.get_preset(_PRESET.value, _DATASET.value)
    changes = {"seed": _SEED.value}
    for name, flag in (("num_seeds", _NUM_SEEDS), ("num_train", _NUM_TRAIN)):
        if flag.value is not None:
            changes[name] = flag.value
    if _VARIANTS.value is not None:
        changes["variants"] = tuple(_VARIANTS.value)
    config = configs.override(dataclasses.replace(config, **changes), _OVERRIDES)
    configs.one_of("dataset", config.dataset, configs.DATASETS)
    available = configs.TRAINING_IMAGES[config.dataset]
    if config.num_train is not None and config.num_train > available:
        raise ValueError(
            f"num_train is {config.num_train}: {config.dataset} has {available} training images"
        )
    if config.learn.variant != "all_layers":
        raise ValueError("config.learn.variant has no effect here: set --variants instead")
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


def run_all() -> None:
    """Plan, search, learning, evaluation, report."""
    if _STAGE.value not in pipeline.STAGES:
        raise ValueError(
            f"stage {_STAGE.value!r} is unknown: choose one of {', '.join(pipeline.STAGES)}"
        )
    config = configure()
    join_job()
    default = f"runs/{config.dataset}-{config.name}-seed{config.seed}"
    folder = Path(_OUTPUT_DIR.value or default)
    if _DRY_RUN.value:
        print(plan.describe(plan.make_plan(config), config, str(folder)))
        return
    if (page := finished_report(folder, config)) is not None:
        show(page)
        return
    prepare_folder(folder)  # what is wrong with it is said before any data are loaded
    print(f"loading {config.dataset} ...", flush=True)
    dataset, notice = load_or_substitute(
        config.dataset,
        data_dir=_DATA_DIR.value,
        preset=config.name,
        num_train=config.num_train,
        validation_size=config.validation_size,
    )
    requested = config.dataset
    if notice:
        size = len(dataset.train.images) + len(dataset.validation.images)
        config = dataclasses.replace(config, dataset=dataset.name, num_train=size)
        print(f"\n*** {notice}\n", file=sys.stderr)
        if (page := finished_report(folder, config, requested)) is not None:
            show(page)
            return
    Run(folder, config, requested)  # refuses another run's folder before anything is computed
    print(plan.describe(plan.make_plan(config), config, str(folder)), flush=True)
    several = jax.process_count() > 1
    stage = "search" if several else _STAGE.value
    results = pipeline.run(
        config,
        folder,
        dataset,
        requested=requested,
        stage=stage,
        repair=_REPAIR.value,
        progress=jax.process_index() == 0,
    )
    if not results:
        print(f"--stage={stage} is done; the folder is {folder}")
        if several and _STAGE.value == "all":
            print("The rest is for one process: run the same command without --distributed.")
        return
    command = shlex.join(["python", "experiments/main.py", *sys.argv[1:]])
    page, _ = report.write_report(
        summary.summarize(config, folder, dataset, results, notice=notice, command=command),
        folder,
    )
    show(page)


def show(page: Path) -> None:
    """Prints the table and what is above it; pictures, times and settings are in the file."""
    text = page.read_text().split("## Figures")[0]
    print(
        html.unescape(re.sub(r"\\([^\w\s])", r"\1", text))
    )  # as typed, without Markdown's escapes
    print(f"The whole report: {page} and {page.with_suffix('.html')}")


def main(_) -> None:
    """Turns a wrong input into one line and exit code 2, an interruption into what to do next."""
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # not what JAX tells of devices that are not there
    jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "xla"))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        run_all()
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on from here.", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError, FloatingPointError) as error:
        # One of our own messages says all there is to say; anything else is a fault to be seen.
        raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        if Path(dsl_jax.__file__).parent not in raised_in.parents and raised_in != Path(__file__):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
