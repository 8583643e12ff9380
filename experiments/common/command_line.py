"""What the experiments' command lines share: flags, settings by name, faults told in a line."""

import dataclasses
import hashlib
import importlib.util
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import app, flags, logging

import dsl_jax
from common import help_text
from common.overrides import override
from dsl_jax import config as configs
from dsl_jax import presets
from dsl_jax.data import catalogue
from dsl_jax.devices import keep_freed_memory, use_all_cores
from dsl_jax.evolution.rules import check_config
from dsl_jax.files import cache_dir

DATASET = flags.DEFINE_string("dataset", "mnist", f"{', '.join(catalogue.CATALOGUE)}.")
PRESET = flags.DEFINE_string(
    "preset",
    "laptop",
    "smoke (2 minutes), laptop (2 CPU cores), paper (accelerator).",
)
DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Folder of prepared datasets (default: TFDS_DATA_DIR, or theirs)."
)
OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None, "The folder (default: one in runs/, named after the settings)."
)
SEED = flags.DEFINE_integer("seed", 0, "The first seed.")
NUM_SEEDS = flags.DEFINE_integer(
    "num_seeds", None, "Number of seeds (default: the preset's or the program's)."
)
NUM_TRAIN = flags.DEFINE_integer(
    "num_train", None, "Training images, validation among them (default: likewise)."
)
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the plan and its cost, and stop.")

SHARED = [flag.name for flag in (DATASET, PRESET, DATA_DIR, OUTPUT_DIR)]
SHARED += [flag.name for flag in (SEED, NUM_SEEDS, NUM_TRAIN, DRY_RUN)]
_assignments: dict[str, dict[str, str]] = {}
_asked: set[str] = set()  # which flags that ask for help were given


def parse_flags(arguments: Sequence[str]) -> list[str]:
    """absl's flags; --config.FIELD=VALUE and --sweep.FIELD=VALUE are kept for `assigned`."""
    _assignments.clear()
    _asked.clear()
    rest = []
    _asked.update({"-h", "-help", "--help", "-helpfull", "--helpfull"}.intersection(arguments))
    for argument in arguments:
        if argument in _asked:
            continue
        name, equals, value = argument.lstrip("-").partition("=")
        group, dot, path = name.partition(".")
        if argument.startswith("--") and dot and group in ("config", "sweep"):
            if not equals:
                print(f"error: {argument}: write --{name}=VALUE", file=sys.stderr)
                sys.exit(2)
            _assignments.setdefault(group, {})[path] = value
        else:
            rest.append(argument)
    flags.FLAGS.unparse_flags()  # what an earlier command in this process was given
    try:
        rest = flags.FLAGS(rest)
    except flags.Error as error:
        print(f"error: {error} (--help lists the flags)", file=sys.stderr)
        sys.exit(2)
    if len(rest) > 1:
        print(f"error: {rest[1]!r} is no flag: write --name=value", file=sys.stderr)
        sys.exit(2)
    return rest


def assigned(group: str) -> dict[str, str]:
    """Values by name that were given as --GROUP.NAME=VALUE."""
    return _assignments.get(group, {})


def configure(
    dataset: str | None = None,
    change: Callable[[configs.RunConfig], configs.RunConfig] = lambda config: config,
    **fields: Any,
) -> configs.RunConfig:
    """The preset as the command line changes it: what is more specific wins.

    Args:
      dataset: whose preset; None: the flag's.
      change: what else a program does to the configuration, by its own flags or for a point of a
        sweep. It comes after the flags that all programs have, and before every --config.FIELD, but
        for the dataset, which it may depend on.
      fields: values that a program has in place of the preset's; the flags come over them.
    """
    given = assigned("config")
    if "name" in given:
        raise ValueError("config.name is the preset's: set --preset")
    config = presets.get_preset(PRESET.value, dataset or DATASET.value)
    if "dataset" in given:
        named = override(config, {"dataset": given["dataset"]}).dataset
        config = presets.get_preset(PRESET.value, named)
    fields |= {"seed": SEED.value}
    for name, flag in (("num_seeds", NUM_SEEDS), ("num_train", NUM_TRAIN)):
        if flag.value is not None:
            fields[name] = flag.value
    available = catalogue.facts(config.dataset).train_images
    config = override(change(dataclasses.replace(config, **fields)), given)
    if config.num_train is not None and config.num_train > available:
        raise ValueError(
            f"num_train is {config.num_train}: {config.dataset} has {available} training images"
        )
    for search in (config.search, *(cycle.search for cycle in config.later_cycles)):
        check_config(search)
    for name in ("variant", "matching", "head_weight", "relational_weight", "relations"):
        if (path := f"sgd.{name}") in given:
            raise ValueError(f"config.{path} has no effect: SGD learns from no targets")
    return config


def takes_no(*groups: str) -> None:
    """Raises ValueError for a --GROUP.NAME of a program without settings of that group."""
    for group in groups:
        for name in assigned(group):
            raise ValueError(f"--{group}.{name} has no effect: this program has no --{group}.NAME")


def computes_nothing(*but: str) -> None:
    """Raises ValueError for the flags of programs that compute, `but` these."""
    takes_no("config", "sweep")
    for name in SHARED:
        if name not in but and flags.FLAGS[name].present:
            raise ValueError(f"--{name} has no effect: kept sweeps are read, nothing is computed")


def output_dir(default: str) -> Path:
    """The folder that --output_dir names, or the default one.

    Raises:
      ValueError: it is the address of a bucket, which cannot hold a run.
    """
    given = OUTPUT_DIR.value or default
    if "://" in given:
        raise ValueError(
            f"output_dir is {given}: it must be a folder on a disk. Only targets may be on a "
            "bucket: dsl_jax.search_to_store takes such an address"
        )
    return Path(given).expanduser()


def folder_suffix(settings: Iterable[str]) -> str:
    """For a default folder's name: the same for the same settings, nothing if there are none."""
    text = "\n".join(settings)
    return f"-{hashlib.sha256(text.encode()).hexdigest()[:6]}" if text else ""


def start(work: Callable[[], None]) -> None:
    """Runs an experiment from the command line."""
    app.run(lambda _: guarded(show_help if _asked else work), flags_parser=parse_flags)


def show_help() -> None:
    """What --help and --helpfull print."""
    config = configure() if any("full" in name for name in _asked) else None
    print(help_text.help_text(SHARED, config))


def guarded(work: Callable[[], None]) -> None:
    """Turns a wrong input into one line and exit code 2, an interruption into what to do next."""
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # not what JAX tells of devices that are not there
    if jax.config.jax_compilation_cache_dir is None:  # else it is the user's
        jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "xla"))
        # Most programs are small, and together take a third of a second smoke run.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)
    _same_bits_on_a_gpu()
    keep_freed_memory()
    use_all_cores()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        work()
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # once more: at once, and without a traceback
        print(
            "\nStopped. The same command goes on: what is searched is kept, training goes on from "
            "its last checkpoint.",
            file=sys.stderr,
        )
        sys.exit(130)
    except (AssertionError, RuntimeError):
        if (fault := _device_fault()) is None:
            raise
        print(
            f"error: JAX finds no device (JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')}; "
            f"{fault}): name one that is there, or leave JAX_PLATFORMS out",
            file=sys.stderr,
        )
        sys.exit(2)
    except (ValueError, OSError, FloatingPointError) as error:
        # One of our own messages says all there is to say; anything else is a fault to be seen.
        raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename).parent
        ours = (Path(dsl_jax.__file__).parent, Path(__file__).parents[1])
        if not any(folder in (raised_in, *raised_in.parents) for folder in ours):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _same_bits_on_a_gpu() -> None:
    """Has XLA use none of the kernels on a GPU whose sums come in any order (docs/on_a_gpu.md)."""
    option, given = "--xla_gpu_exclude_nondeterministic_ops", os.environ.get("XLA_FLAGS", "")
    plugins = ("jax_cuda13_plugin", "jax_cuda12_plugin")
    if any(map(importlib.util.find_spec, plugins)) and option not in given:
        os.environ["XLA_FLAGS"] = f"{given} {option}=true".strip()


def _device_fault() -> str | None:
    """What JAX says when it is asked for its devices and has none; None: it has some."""
    try:
        jax.devices()
    except Exception as error:  # for "cuda" without its plugin an AssertionError without a word
        return str(error) or "no such plugin"
    return None


def command(without: Sequence[str] = ()) -> str:
    """What was typed, to be typed again; without: flags that are left out."""
    script = os.path.join("experiments", os.path.basename(sys.argv[0]))
    names = {*without, *(f"no{name}" for name in without)}
    kept, is_left_out = [], False
    for argument in sys.argv[1:]:
        if argument.startswith("-"):  # else the value of the flag before it
            is_left_out = argument.lstrip("-").partition("=")[0] in names
        kept += [] if is_left_out else [argument]
    return shlex.join(["python", script, *kept])
