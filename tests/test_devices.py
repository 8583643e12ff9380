"""Settings of the process."""

import os
import subprocess
import sys

import pytest

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
