"""Settings of the process."""

import importlib.metadata
import os
import subprocess
import sys
import threading
from unittest import mock

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from dsl_jax import devices

TAKEN_TWICE = """
import ctypes, resource
from dsl_jax.devices import keep_freed_memory

c, size = ctypes.CDLL(None), 64 * 2**20
c.malloc.restype, c.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
c.free.argtypes = [ctypes.c_void_p]
keep_freed_memory()
for _ in range(2):
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = c.malloc(size)
    ctypes.memset(block, 1, size)
    c.free(block)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_freed_memory_is_there_without_the_system():
    done = subprocess.run(
        [sys.executable, "-c", TAKEN_TWICE], capture_output=True, text=True, check=True
    )
    first, second = map(int, done.stdout.split())
    assert first > 1000  # pages of 4 KB: 16,384 of them
    assert second < 100


@pytest.mark.parametrize(
    ("cores", "variables", "expected"),
    [
        (1, {}, 1),
        (3, {}, 3),
        (64, {}, 8),
        (3, {"JAX_NUM_CPU_DEVICES": "2"}, 2),
        (3, {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}, 2),
    ],
)
def test_each_core_is_a_device_unless_the_user_says_how_many(cores, variables, expected):
    program = f"""
from unittest import mock
from dsl_jax import devices
with mock.patch.object(devices, "num_cores", lambda: {cores}):
    devices.use_all_cores()
import jax
assert devices.search_mesh() is None  # its threads are on all cores
print(jax.device_count())
"""
    inherited = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment = inherited | {"JAX_PLATFORMS": "cpu"} | variables
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == expected


@pytest.fixture
def several_processes(monkeypatch):
    """Of two processes the second, with five devices, the first with three; as far as `device_mesh`
    asks."""
    names = ("abc", "abcde")
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(
        jax, "local_devices", lambda process=1: [f"{process}{name}" for name in names[process]]
    )
    monkeypatch.setattr(devices, "Mesh", SimpleMesh)


class SimpleMesh:
    """A mesh of anything."""

    def __init__(self, array, axis_names):
        self.devices, self.axis_names = array.tolist(), axis_names


@pytest.mark.parametrize(
    ("batch_size", "expected"), [(48, "0a 0b 0c 1a 1b 1c"), (8, "0a 0b 1a 1b")]
)
def test_the_processes_of_a_job_share_a_batch_with_as_many_devices_each(
    batch_size, expected, several_processes
):
    mesh = devices.device_mesh(batch_size)
    assert " ".join(mesh.devices) == expected and mesh.axis_names == ("images",)


def test_a_batch_that_the_processes_of_a_job_cannot_share_is_refused(several_processes):
    with pytest.raises(ValueError, match="39 images, which 2 processes cannot share equally"):
        devices.device_mesh(39)


def test_devices_of_other_processes_are_not_searched_on():
    class Elsewhere:
        def __repr__(self):
            return "TpuDevice(id=5)"

    mesh = mock.Mock(spec=Mesh, axis_names=("images",), devices=np.array([Elsewhere()]))
    with pytest.raises(ValueError, match=r"other processes, such as TpuDevice\(id=5\)"):
        devices.check_own_mesh(mesh)
    devices.check_own_mesh(Mesh(np.array(jax.local_devices()), ("images",)))


def test_each_device_has_one_task_at_a_time_and_results_are_in_order():
    both, busy = threading.Barrier(2, timeout=30), set()

    def work(task, device):
        assert device not in busy
        busy.add(device)
        both.wait()  # two are at work, never one alone
        busy.remove(device)
        return task, device

    found = list(devices.on_devices(work, range(6), ["a", "b"]))
    assert [task for task, _ in found] == list(range(6))
    assert {device for _, device in found} == {"a", "b"}


def test_a_checkout_that_is_not_installed_has_an_environment(monkeypatch):
    """It is asked for at a run's end: nothing must be lost."""
    version = importlib.metadata.version

    def absent(package):
        if package == "dsl_jax":
            raise importlib.metadata.PackageNotFoundError(package)
        return version(package)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    found = devices.environment()
    assert found["dsl_jax"] == "not installed" and found["jax"] == version("jax")
