"""A whole run by the processes of one job: search, learning, evaluation, report.

They find the targets of one process, byte for byte, and learn what it learns but for rounding. A
process that is killed takes the job with it; started again, it ends as if nothing had happened.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from children import XLA_FLAGS
from free_port import free_port
from tiny_search import TINY_RUN
from toy_targets import files

import dsl_jax

pytestmark = pytest.mark.slow

ROOT = Path(dsl_jax.__file__).parents[1]
# Each epoch is one step, so that the records have the losses of the first ten; and is kept.
ARGUMENTS = [
    *TINY_RUN,
    "--variants=all_layers",
    "--controls=permuted",
    "--config.chunk_size=8",
    "--config.learn.epochs=10",
    "--config.learn.batch_size=40",
    "--config.learn.learning_rate=0.05",
]
MAIN = f"""
import sys
sys.path.insert(0, {str(ROOT / "experiments")!r})
import main
from common import command_line
from dsl_jax.runs import saved
saved.CHECKPOINT_SECONDS = 0
command_line.start(main.run_all)
"""
TRAININGS = ("seed_0/all_layers", "seed_0/all_layers_permuted")
SECONDS = 600  # for anything; the machine may be busy


class Job:
    """The processes of one job, with two devices each."""

    def __init__(self, folder, count, *flags):
        self.folder = folder
        if count > 1:
            address = f"localhost:{free_port()}"
            job = ["--distributed", f"--coordinator={address}", f"--num_processes={count}"]
        environment = {**os.environ, "XLA_FLAGS": XLA_FLAGS, "PYTHONPATH": str(ROOT)}
        environment["JAX_NUM_CPU_DEVICES"] = "2"
        self.outputs = [folder.with_name(f"{folder.name}_{n}.txt") for n in range(count)]
        self.processes = []
        for number, output in enumerate(self.outputs):
            one = [*job, f"--process_id={number}"] if count > 1 else []
            command = [sys.executable, "-c", MAIN, *ARGUMENTS, f"--output_dir={folder}", *flags]
            with open(output, "w") as file:
                process = subprocess.Popen(
                    [*command, *one], env=environment, stdout=file, stderr=file
                )
            self.processes.append(process)

    def finish(self):
        """Waits for all; their exit codes, and what each has said."""
        try:
            codes = [process.wait(SECONDS) for process in self.processes]
        finally:  # where one has failed, the others may wait for it
            self.kill()
        return codes, [output.read_text() for output in self.outputs]

    def kill(self):
        for process in self.processes:
            process.kill()
            process.wait()


def losses(folder):
    """The loss of each epoch, here a step, by training."""
    found = {name: [] for name in TRAININGS}
    path = folder / "metrics.jsonl"
    for line in path.read_text().splitlines() if path.exists() else ():
        record = json.loads(line)
        if "training" in record:
            found[record["training"]].append(record["train_loss"])
    return found


def run(folder, count, *flags):
    """A job that nothing disturbs."""
    codes, outputs = Job(folder, count, *flags).finish()
    assert codes == [0] * count, "\n".join(outputs)
    assert ["The whole report" in output for output in outputs] == [True] + [False] * (count - 1)
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return run(tmp_path_factory.mktemp("jobs") / "alone", 1)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return run(tmp_path_factory.mktemp("jobs") / "two", 2)


def check_same(folder, alone):
    """The targets are the same bytes, the losses of ten steps the same numbers."""
    assert files(folder / "seed_0" / "targets") == files(alone / "seed_0" / "targets")
    ours, expected = losses(folder), losses(alone)
    for name in TRAININGS:
        assert len(ours[name]) == 10
        np.testing.assert_allclose(ours[name], expected[name], rtol=1e-5, err_msg=name)
    assert dsl_jax.verify_run(folder) == []
    assert (folder / "report.html").stat().st_size > 10_000


def test_two_processes_do_the_whole_run_of_one(alone, two):
    check_same(two, alone)


@pytest.mark.long
def test_four_processes_do_the_whole_run_of_one(alone, tmp_path):
    check_same(run(tmp_path / "four", 4), alone)


def test_a_job_of_which_a_process_was_killed_ends_as_if_nothing_had_happened(alone, two, tmp_path):
    """Started again with as many processes, or with another number of them."""
    folder = tmp_path / "killed"
    job, end = Job(folder, 2), time.monotonic() + SECONDS
    while len(losses(folder)[TRAININGS[0]]) < 3:
        assert job.processes[0].poll() is None, job.outputs[0].read_text()
        assert time.monotonic() < end
        time.sleep(0.01)
    job.processes[1].kill()
    assert job.processes[0].wait(SECONDS) != 0  # it cannot go on alone
    job.kill()
    before = losses(folder)
    assert len(before[TRAININGS[0]]) < 10 and not before[TRAININGS[1]]
    assert list((folder / TRAININGS[0] / "checkpoints").glob("[0-9]*"))
    assert dsl_jax.verify_run(folder) == []  # a process alone, without the devices of the job
    fewer = shutil.copytree(folder, tmp_path / "fewer")
    check_same(run(fewer, 1), alone)
    run(folder, 2, "--repair")
    assert losses(folder) == losses(two)
    for name in TRAININGS:
        ours, expected = (
            json.loads((path / name / "result.json").read_text())["weights"]
            for path in (folder, two)
        )
        assert ours == expected
