"""One process at a time."""

import errno
import fcntl
import os
import subprocess
import sys
import threading
import time

from dsl_jax.runs import lock
from dsl_jax.runs.lock import alone, if_free

HOLD = """
import sys, time
from pathlib import Path
from dsl_jax.runs.lock import alone
with alone(Path(sys.argv[1]), "trains it"):
    print("in", flush=True)
    time.sleep(600)
"""


def test_a_second_process_waits_says_so_and_goes_on_when_the_first_is_killed(tmp_path, caplog):
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "in\n"
    done = []

    def work():
        with alone(tmp_path, "trains it"):
            done.append(time.monotonic())

    thread = threading.Thread(target=work)
    thread.start()
    end = time.monotonic() + 60
    while "waiting" not in caplog.text:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert (
        f"waiting for process {other.pid} on " in caplog.text and "which trains it" in caplog.text
    )
    assert not done
    other.kill()
    killed = time.monotonic()
    thread.join(60)
    other.wait()
    other.stdout.close()
    assert done and done[0] >= killed


def test_a_damaged_lock_is_as_good_as_a_whole_one(tmp_path):
    (tmp_path / lock.LOCK).write_bytes(b"process 1 on h\xefst\n")
    with alone(tmp_path, "trains it"), if_free(tmp_path / lock.LOCK) as free:
        assert not free


def test_a_file_system_without_locks_is_warned_of(tmp_path, caplog, monkeypatch):
    def refused(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", refused)
    with alone(tmp_path, "evaluates it"):
        pass
    assert "cannot be locked" in caplog.text and "see that no other process" in caplog.text


def test_a_disk_that_locks_only_what_is_open_for_writing(tmp_path, caplog, monkeypatch):
    """As NFS does, on which the nodes of a cluster share a folder."""
    flock = fcntl.flock

    def over_nfs(file, operation):
        if fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        return flock(file, operation)

    monkeypatch.setattr(lock.fcntl, "flock", over_nfs)
    path = tmp_path / "folder" / lock.LOCK
    with alone(path.parent, "trains it"), if_free(path) as free:
        assert not free
    with if_free(path) as free:
        assert free
    assert not caplog.text


def test_a_file_is_free_unless_another_holds_it(tmp_path, caplog, monkeypatch):
    path = tmp_path / "new" / "file"
    with if_free(path) as first:
        with if_free(path) as second, if_free(path.with_name("other")) as third:
            assert (first, second, third) == (True, False, True)
        with if_free(path) as again:
            assert not again  # leaving the one that got nothing has freed nothing
    with if_free(path) as after:
        assert after

    def refused(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", refused)
    with if_free(path) as without_locks:
        assert without_locks
    assert "cannot be locked" in caplog.text and "one process at a time" in caplog.text
