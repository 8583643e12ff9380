"""Settings of the process."""

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
