"""Kills a run at random moments, starts it again each time, and compares it with one left alone.

    python benchmarks/kills.py --kills=20 --seed=0 --json=kills.json

Every restart must go on; at the end the targets must be the same byte for byte, the trained
networks bit for bit, and the test results equal. The moments are spread over the start of the
program, compiling of the search, search, learning, evaluation and report. The run that is killed
writes a checkpoint after every epoch, so that kills meet checkpoints, too.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

import dsl_jax
from dsl_jax.config import from_dict
from dsl_jax.devices import environment
from dsl_jax.files import read_json
from dsl_jax.runs.steps import trainings
from dsl_jax.targets.store import TargetStore

MAIN = Path(__file__).parents[1] / "experiments" / "main.py"
RUN = ["--dataset=mnist_5k", "--preset=smoke"]
# The phases of a run in their order, each with its share of the kills.
SHARES = {"start": 2, "compiling": 2, "search": 6, "learning": 6, "evaluation": 2, "report": 2}
OFTEN = """
import runpy, sys
from dsl_jax.runs import saved
saved.CHECKPOINT_SECONDS = 0
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Kill(NamedTuple):
    """phase: what the run was doing. seconds: since the start of the process. chunks: done then."""

    phase: str
    seconds: float
    chunks: int


# --------------------------------------------------------------------------------------------
# Running
# --------------------------------------------------------------------------------------------


def chunks(folder: Path) -> int:
    """How many chunks of targets a run has."""
    return len(list(folder.glob("seed_*/targets/committed/*")))


def phase(folder: Path, output: Path, chunks_before: int) -> str:
    """What a run is doing.

    Args:
      folder: the run's.
      output: the file with what this process has printed so far.
      chunks_before: those that were there when it was started; with another one, it searches.
    """
    if "\nfolder " not in output.read_text():  # the plan's last line
        return "start"
    if (folder / "report.md").exists():
        return "finished"
    if (folder / "results.json").exists():
        return "report"
    config = from_dict(json.loads((folder / "config.json").read_text())["config"])
    wanted = len(trainings(config)) * config.num_seeds
    if len(list(folder.glob("seed_*/*/result.json"))) == wanted:
        return "evaluation"
    begun = any(folder.glob("seed_*/*/checkpoints")) or any(folder.glob("seed_*/*/result.json"))
    if begun:
        return "learning"
    return "search" if chunks(folder) > chunks_before else "compiling"


def start(
    arguments: Sequence[str], folder: Path, often: bool, cache: Path | None
) -> tuple[subprocess.Popen, Path]:
    """Starts a run, in `folder`/run; its process, and the file with what it prints."""
    folder.mkdir(parents=True, exist_ok=True)
    output = folder / "output.txt"
    command = [sys.executable, *(["-c", OFTEN] if often else []), str(MAIN), *arguments]
    root = str(Path(dsl_jax.__file__).parents[1])
    paths = [root, str(MAIN.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    with open(output, "w") as file:
        process = subprocess.Popen(
            [*command, f"--output_dir={folder / 'run'}"],
            stdout=file,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(paths),
                "PYTHONUNBUFFERED": "1",
                "DSL_JAX_CACHE": str(cache or folder / "cache"),
            },
        )
    return process, output


def run_undisturbed(
    arguments: Sequence[str], folder: Path, cache: Path | None = None
) -> dict[str, float]:
    """Runs to the end; the seconds that each phase took. Raises RuntimeError if it fails."""
    process, output = start(arguments, folder, False, cache)
    seconds, before = dict.fromkeys(SHARES, 0.0), time.monotonic()
    while process.poll() is None:
        time.sleep(0.05)
        now, where = time.monotonic(), phase(folder / "run", output, 0)
        if where in seconds:
            seconds[where] += now - before
        before = now
    _check_end(process.wait(), output)
    return seconds


def run_killed(
    arguments: Sequence[str],
    folder: Path,
    seconds: dict[str, float],
    kills: int,
    seed: int,
    say: Callable[[str], None] = print,
    cache: Path | None = None,
) -> list[Kill]:
    """Runs with kills, then to the end.

    Args:
      arguments: of experiments/main.py.
      folder: the run will be in `folder`/run.
      seconds: that each phase takes when undisturbed.
      kills: how many; fewer happen if the run ends before.
      seed: of the moments.
      say: is told what happens.
      cache: of compiled programs; None: one of its own, so that kills meet compiling, too.

    Returns:
      The kills.

    Raises:
      RuntimeError: a start ended with an error, instead of going on.
    """
    chance, order, done = random.Random(seed), [*SHARES, "finished"], []
    for number, wanted in enumerate(plan(kills)):
        # Together they take about as long as the phase: some of them end up in the next one, but
        # none later than that, for the sake of phases that a compiled program makes short.
        delay = chance.uniform(0, 2 * seconds[wanted] / (plan(kills).count(wanted) + 1))
        there = chunks(folder / "run")
        process, output = start(arguments, folder, True, cache)
        started, reached = time.monotonic(), None
        while process.poll() is None:
            now, where = time.monotonic(), phase(folder / "run", output, there)
            ahead = order.index(where) - order.index(wanted)
            if reached is None and ahead >= 0:
                reached = now
            if reached is not None and (now - reached >= delay or ahead > 1):
                process.kill()
                break
            time.sleep(0.01)
        if process.wait() != -9:
            _check_end(process.returncode, output)
            say(f"the run has ended before kill {number + 1}")
            return done
        done.append(Kill(where, round(now - started, 2), chunks(folder / "run")))
        say(
            f"kill {number + 1:2d}: {where}, {now - started:.1f} s after the start, "
            f"{done[-1].chunks} chunks done"
        )
    process, output = start(arguments, folder, True, cache)
    _check_end(process.wait(), output)
    return done


def plan(kills: int) -> list[str]:
    """The phases in which to kill, in the order of a run."""
    ends = np.cumsum(list(SHARES.values())) / sum(SHARES.values())
    return [list(SHARES)[int(np.searchsorted(ends, (i + 0.5) / kills))] for i in range(kills)]


def _check_end(code: int, output: Path) -> None:
    if code != 0:
        raise RuntimeError(f"the run ended with code {code}:\n{output.read_text()[-3000:]}")


# --------------------------------------------------------------------------------------------
# Comparing
# --------------------------------------------------------------------------------------------


def compare(one: Path, other: Path) -> list[str]:
    """What differs between two finished runs: targets, networks, results; [] for nothing.

    Args:
      one, other: the runs' folders.
    """
    lines = []
    ours, theirs = target_files(one), target_files(other)
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            lines.append(f"targets: {name}")
    for folder in (one, other):
        for store in sorted(folder.glob("seed_*/targets*")):
            lines += [f"{store}: {fault}" for fault in TargetStore.open(store).verify()]
    ours, theirs = network_bytes(one), network_bytes(other)
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            lines.append(f"parameters: {name}")
    ours, theirs = results(one), results(other)
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            lines.append(f"{name}: {ours.get(name)} and {theirs.get(name)}")
    return lines


def target_files(folder: Path) -> dict[str, bytes]:
    """Name -> bytes of all files of a run's targets but the locks of killed processes."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.glob("seed_*/targets*/**/*"))
        if path.is_file() and not path.name.endswith(".__lock")
    }


def network_bytes(folder: Path) -> dict[str, tuple[str, bytes]]:
    """Name -> type and bytes of all parameters and statistics of a run's networks."""
    leaves = {}
    for name, network in dsl_jax.load_run(folder).networks.items():
        for path, value in jax.tree_util.tree_leaves_with_path(nnx.state(network)):
            value = np.asarray(value)
            where = f"{name} {jax.tree_util.keystr(path, simple=True, separator='.')}"
            leaves[where] = f"{value.dtype}{value.shape}", value.tobytes()
    return leaves


def results(folder: Path) -> dict[str, Any]:
    """Accuracies and losses by name, without the times."""
    read = read_json(folder / "results.json")
    return {
        f"{training} {field}": value
        for training, row in read.items()
        for field, value in row.items()
        if not field.endswith("seconds")
    }


# --------------------------------------------------------------------------------------------


def main() -> None:
    """Runs both and prints what differs; exit code 1 if anything does."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=Path, help="for both runs; a temporary one by default")
    parser.add_argument("--json", type=Path, help="where the result goes")
    given, rest = parser.parse_known_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="dsl_jax_kills_"))
    arguments = [*RUN, *rest]
    print(f"python experiments/main.py {' '.join(arguments)}, in {folder}", flush=True)
    seconds = run_undisturbed(arguments, folder / "undisturbed")
    print("undisturbed:", ", ".join(f"{k} {v:.1f} s" for k, v in seconds.items()), flush=True)

    def say(line):
        print(line, flush=True)

    kills = run_killed(arguments, folder / "killed", seconds, given.kills, given.seed, say)
    runs = folder / "undisturbed" / "run", folder / "killed" / "run"
    differences = compare(*runs)
    counts = {name: sum(kill.phase == name for kill in kills) for name in SHARES}
    print(f"{len(kills)} kills: {', '.join(f'{k} {v}' for k, v in counts.items())}")
    print(
        f"{len(target_files(runs[0]))} files of targets, {len(network_bytes(runs[0]))} arrays of "
        f"networks, {len(results(runs[0]))} results"
    )
    print("\n".join(differences) or "no difference")
    if given.json:
        content = {
            "arguments": arguments,
            "seed": given.seed,
            "undisturbed_seconds": seconds,
            "kills": [kill._asdict() for kill in kills],
            "differences": differences,
            "environment": environment(),
        }
        given.json.write_text(json.dumps(content, indent=2) + "\n")
    sys.exit(bool(differences))


if __name__ == "__main__":
    main()
