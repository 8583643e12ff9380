"""A disk that is full, or turns read-only, in every phase of a run; and a clock that jumps back.

The disk is a small file system in memory, so this needs the right to mount one.
"""

import errno
import itertools
import subprocess
import time

import jax
import numpy as np
import pytest
from tiny_run import scores, tiny_config, tiny_data, weights

import dsl_jax as dsl
from dsl_jax import pipeline
from dsl_jax.runs import saved

pytestmark = [
    pytest.mark.slow,
    # orbax leaves tasks behind when it cannot write.
    pytest.mark.usefixtures("left_over_tasks"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def one_device_and_many_checkpoints():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "device_mesh", lambda *_: None)
        patch.setattr(saved, "CHECKPOINT_SECONDS", 0)
        yield


def run(folder):
    """The whole run and its report, or what is left of it."""
    return dsl.run(tiny_config(), folder, tiny_data(), probes=False, progress=False)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Networks and results of a run on a large disk."""
    folder = tmp_path_factory.mktemp("large") / "run"
    results = run(folder)
    return weights(folder), results


@pytest.fixture
def disk(tmp_path):
    """A disk of its own, and a function that mounts it anew with other options."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options):
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder],
            check=True,
            capture_output=True,
        )

    try:
        mount("size=100k")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be mounted: {error}")
    yield folder, lambda options: mount(f"remount,{options}")
    subprocess.run(["umount", folder], check=True)


def same(folder, results, undisturbed):
    networks, expected = undisturbed
    assert scores(results) == scores(expected)
    jax.tree.map(np.testing.assert_array_equal, weights(folder), networks)
    assert dsl.verify_run(folder) == []


@pytest.mark.long
def test_a_full_disk_is_named_wherever_it_happens_and_nothing_is_lost(disk, undisturbed):
    """The disk grows a little each time that the run has filled it."""
    folder, remount = disk
    told, done = [], 0
    for size in itertools.count(150, 50):
        remount(f"size={size}k")
        try:
            results = run(folder / "run")
            break
        except OSError as error:
            assert error.errno == errno.ENOSPC
            told.append(str(error))
        chunks = len(list((folder / "run").glob("seed_0/targets/committed/0*0?")))
        assert chunks >= done
        done = chunks
    same(folder / "run", results, undisturbed)
    for place in ("the targets need", "seed_0/targets", "checkpoints", "report"):
        assert any(place in text for text in told), (place, told)
    assert all(f"{folder}/run" in text for text in told)


@pytest.mark.parametrize("where", ("targets/committed/*", "all_layers/checkpoints/*"))
def test_a_disk_that_turns_read_only_is_named_and_the_run_goes_on_later(
    disk, undisturbed, monkeypatch, where
):
    folder, remount = disk
    remount("size=100m")
    write = pipeline.RunFolder.log if "all" in where else pipeline.RunFolder.note_search

    def then_read_only(self, *arguments):
        write(self, *arguments)
        if any(folder.glob(f"run/seed_0/{where}")):
            remount("ro")

    monkeypatch.setattr(pipeline.RunFolder, write.__name__, then_read_only)
    with pytest.raises(OSError, match=rf"cannot write {folder}/run/.*Read-only file system"):
        run(folder / "run")
    with pytest.raises(ValueError, match=rf"cannot write the folder {folder}/run"):
        run(folder / "run")
    remount("rw")
    monkeypatch.undo()
    same(folder / "run", run(folder / "run"), undisturbed)


def test_a_clock_that_jumps_back_changes_nothing(tmp_path, undisturbed, monkeypatch):
    hours = itertools.count(0, -3600)
    monkeypatch.setattr(time, "time", lambda: 1e9 + next(hours))
    folder = tmp_path / "run"
    same(folder, run(folder), undisturbed)
