"""Real processes share a search: at once, as a job, killed midway and started again.

Whatever happens, the targets are those of a process alone, byte for byte. How much may be searched
twice: a process takes over a claimed chunk only when it finds none free, and then only if it has
measured nothing yet or has waited twice as long as its slowest chunk took. Processes that begin
together and keep pace so repeat nothing; one that is held up by a busy machine may cost each of the
others one chunk, which is what is allowed here.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from free_port import free_port
from search_worker import search_toy
from toy_targets import files

import dsl_jax
from dsl_jax.targets import layout
from dsl_jax.targets.store import TargetStore

pytestmark = pytest.mark.slow

WORKER = Path(__file__).parents[1] / "support" / "search_worker.py"
CHUNKS = 12
SECONDS = 600  # for anything; the machine may be busy


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The files of a store that one process made."""
    path = tmp_path_factory.mktemp("processes") / "undisturbed"
    search_toy(path, CHUNKS)
    return files(path)


@pytest.fixture
def start(tmp_path):
    """Starts workers on one store; those left at the end are killed."""
    running = []
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(dsl_jax.__file__).parents[1]),
        "XLA_FLAGS": "",  # the code of this process, of whose files theirs are compared
        # The program is compiled once for all.
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }

    def start_worker(*options):
        worker = Worker(tmp_path, len(running), options, environment)
        running.append(worker)
        return worker

    yield start_worker
    for worker in running:
        worker.process.kill()
        worker.process.wait()


class Worker:
    """A process, and what it has noted."""

    def __init__(self, folder, number, options, environment):
        self.log = folder / f"log_{number}"
        self.log.touch()
        self.output = folder / f"output_{number}"
        command = [sys.executable, WORKER, folder / "store", self.log, f"--chunks={CHUNKS}"]
        with open(self.output, "w") as output:
            self.process = subprocess.Popen(
                [*command, *options], env=environment, stdout=output, stderr=output
            )

    def noted(self, word):
        lines = [line.split() for line in self.log.read_text().splitlines()]
        return [int(line[-1]) for line in lines if line[0] == word]

    def wait_for(self, word, count=1):
        """Until it has noted this so many times."""
        end = time.monotonic() + SECONDS
        while len(self.noted(word)) < count:
            assert self.process.poll() is None and time.monotonic() < end, self.output.read_text()
            time.sleep(0.01)

    def finish(self):
        assert self.process.wait(SECONDS) == 0, self.output.read_text()

    def kill(self):
        self.process.kill()
        assert self.process.wait() == -signal.SIGKILL


def noted(workers, word):
    return sorted(chunk for worker in workers for chunk in worker.noted(word))


def check(store, undisturbed, workers, repeated):
    """The store is as one process makes it, and no more than `repeated` chunks were done twice."""
    assert files(store) == undisturbed
    assert TargetStore.open(store).verify() == []
    searched, written = noted(workers, "searched"), noted(workers, "wrote")
    assert set(searched) == set(written) == set(range(CHUNKS))
    assert len(searched) <= CHUNKS + repeated, searched
    assert len(written) <= CHUNKS + repeated, written


def run_together(start, go, options_of_each):
    """Workers that begin to search at one moment, when all have started; finished."""
    workers = [start(f"--go={go}", "--pause=0.3", *options) for options in options_of_each]
    for worker in workers:
        worker.wait_for("ready")
    go.touch()
    for worker in workers:
        worker.finish()
    return workers


def test_processes_that_begin_at_once_share_one_store(undisturbed, start, tmp_path):
    workers = run_together(start, tmp_path / "go", [()] * 3)
    check(tmp_path / "store", undisturbed, workers, repeated=2)
    assert all(worker.noted("wrote") for worker in workers)


def test_a_job_of_jax_distributed_splits_the_chunks(undisturbed, start, tmp_path):
    port = free_port()
    workers = run_together(start, tmp_path / "go", [[f"--job={port},2,{i}"] for i in range(2)])
    check(tmp_path / "store", undisturbed, workers, repeated=1)
    first = [worker.noted("searched")[0] for worker in workers]
    assert first == [0, CHUNKS // 2]


def test_one_is_killed_midway_and_started_again(undisturbed, start, tmp_path):
    workers = [start("--pause=0.5") for _ in range(2)]
    workers[1].wait_for("wrote", 2)
    workers[1].kill()
    workers.append(start("--pause=0.1"))
    for worker in (workers[0], workers[2]):
        worker.finish()
    # What the killed one was at was not noted; the one that came late may find nothing free.
    check(tmp_path / "store", undisturbed, workers, repeated=2)


def test_all_are_killed_and_one_does_the_rest(undisturbed, start, tmp_path):
    workers = [start("--pause=0.3") for _ in range(2)]
    for worker in workers:
        worker.wait_for("wrote", 1)
    for worker in workers:
        worker.kill()
    done = TargetStore.open(tmp_path / "store")
    missing = done.missing_chunks()
    assert missing
    workers.append(start())
    workers[2].finish()
    assert sorted(workers[2].noted("searched")) == missing  # nothing that is there, all that is not
    # Killed between a marker and its note, a chunk is in the store though nobody noted it.
    assert files(tmp_path / "store") == undisturbed
    assert TargetStore.open(tmp_path / "store").verify() == []


@pytest.mark.parametrize("function", ["write_manifest", "create_arrays", "commit"])
def test_a_process_killed_at_a_bad_moment_costs_no_more_than_its_chunk(
    undisturbed, start, tmp_path, function
):
    assert hasattr(layout, function)
    go = tmp_path / "go"
    workers = [start(f"--die={function}"), start(f"--go={go}")]
    assert workers[0].process.wait(SECONDS) == -signal.SIGKILL
    workers[1].wait_for("ready")
    go.touch()
    workers[1].finish()
    check(tmp_path / "store", undisturbed, workers, repeated=int(function == "commit"))
