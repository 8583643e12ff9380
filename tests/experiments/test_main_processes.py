"""experiments/main.py as several processes on one folder, by themselves and as one job."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from children import XLA_FLAGS
from free_port import free_port
from tiny_search import TINY_MAIN as TINY
from toy_targets import files

import dsl_jax
from dsl_jax.runs.class_files import open_classes
from dsl_jax.runs.folder import search_seconds
from dsl_jax.targets.store import TargetStore

MAIN = Path(__file__).parents[2] / "experiments" / "main.py"
ARGUMENTS = [*TINY, "--config.chunk_size=8", "--config.learn.epochs=1"]


def start(*arguments, cwd=None, **variables):
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(dsl_jax.__file__).parents[1]),
        "XLA_FLAGS": XLA_FLAGS,
        **variables,
    }
    command = [sys.executable, MAIN, *ARGUMENTS, *arguments]
    return subprocess.Popen(
        command,
        env=environment,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The targets of one process."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    process = start("--phase=search", f"--output_dir={folder}")
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return files(folder / "seed_0" / "targets")


@pytest.mark.slow
@pytest.mark.parametrize("job", [False, True], ids=["by_themselves", "one_job"])
def test_several_processes_search_one_folder(alone, tmp_path, job):
    flags = [["--phase=search"], ["--phase=search"]]
    if job:
        joined = ["--distributed", f"--coordinator=localhost:{free_port()}", "--num_processes=2"]
        flags = [["--phase=search", *joined, f"--process_id={number}"] for number in range(2)]
    processes = [start(*given, f"--output_dir={tmp_path / 'run'}") for given in flags]
    for process in processes:
        output, _ = process.communicate()
        assert process.returncode == 0, output
        assert "--phase=search is done" in output
    store = tmp_path / "run" / "seed_0" / "targets"
    assert files(store) == alone
    assert TargetStore.open(store).verify() == []
    notes = list((tmp_path / "run" / "seed_0").glob("search-*.json"))
    assert 1 <= len(notes) <= 2 and search_seconds(tmp_path / "run", 0) > 0
    assert not (tmp_path / "run" / "seed_0" / "all_layers").exists()


@pytest.mark.slow
def test_processes_share_the_classes_of_a_search_per_class(tmp_path):
    per_class = ["--search=per_class", "--config.shared.images_per_class=2", "--phase=search"]
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    for folder, count in ((alone, 1), (shared, 2)):
        processes = [start(*per_class, f"--output_dir={folder}") for _ in range(count)]
        for process in processes:
            output, _ = process.communicate()
            assert process.returncode == 0, output
    folder = "seed_0/targets_per_class"
    expected, ours = (open_classes(path / folder).classes for path in (alone, shared))
    assert len(ours) == 10
    jax.tree.map(np.testing.assert_array_equal, ours, expected)
    assert dsl_jax.verify_run(shared) == []


@pytest.mark.slow
def test_two_processes_that_run_it_all_train_each_network_once(tmp_path):
    """Of two that begin at once, the second waits for what the first trains, and evaluates. They
    write nothing outside the run's folder and the caches."""
    folder, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    elsewhere.mkdir()
    places = dict.fromkeys(("HOME", "TMPDIR"), str(elsewhere)) | {"MPLCONFIGDIR": str(tmp_path)}
    flags = ["--variants=sgd", "--config.sgd_groups=(1,)", f"--output_dir={folder}"]
    processes = [start(*flags, cwd=elsewhere, **places) for _ in range(2)]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert all("## Results" in output for output in outputs)
    assert not list(elsewhere.iterdir())
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [r["epoch"] for r in records if r.get("training") == "seed_0/sgd_g1"] == [1, 2, 3]
    assert sum(record.get("result") == "sgd_g1" for record in records) == 1
    assert dsl_jax.verify_run(folder) == []


@pytest.mark.slow
@pytest.mark.parametrize("phase", ("image", "step", "network"))
def test_ctrl_c_twice_in_a_row_stops_at_once_and_loses_nothing(tmp_path, phase):
    """Once the bar of a phase is there: search counts images, learning steps, evaluation
    networks."""
    folder = tmp_path / "run"
    process = start("--variants=all_layers", f"--output_dir={folder}")
    output = ""
    while f"{phase}/s" not in output and f"s/{phase}" not in output:
        output += (more := process.stdout.read(1))
        assert more, f"it ended without a bar:\n{output}"
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
    output += process.communicate()[0]
    assert process.returncode in (130, -signal.SIGINT), output
    assert "Traceback" not in output, output
    assert dsl_jax.verify_run(folder) == []
