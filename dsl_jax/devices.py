"""Several devices: how arrays lie on the one-axis mesh `images`.

A batch is split along its first axis, parameters are whole on every device; `jax.jit` does the
rest, so that a mean over a batch is one over all of it. A mesh of None is one device: arrays stay
as and where they are.
"""

import contextlib
import ctypes
import datetime
import functools
import importlib.metadata
import logging
import os
import platform
import queue
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

logger = logging.getLogger(__name__)


def num_cores() -> int:
    """The CPU's cores that this process may use, where the system tells; else all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def on_cores(work: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[Any]:
    """What `work` makes of each task, in order, on as many threads as there are cores.

    What is not begun when it is left, or a task fails, is not done.
    """
    return _in_threads(work, tasks, num_cores())


def on_devices(
    work: Callable[[Any, jax.Device], Any], tasks: Sequence[Any], devices: Sequence[jax.Device]
) -> Iterator[Any]:
    """`on_cores` on several devices, each of which is given one task at a time."""
    free: queue.SimpleQueue[jax.Device] = queue.SimpleQueue()
    for device in devices:
        free.put(device)

    def on_a_free_one(task: Any) -> Any:
        device = free.get()
        try:
            return work(task, device)
        finally:
            free.put(device)

    return _in_threads(on_a_free_one, tasks, len(devices))


def _in_threads(work: Callable[[Any], Any], tasks: Sequence[Any], number: int) -> Iterator[Any]:
    pool = ThreadPoolExecutor(min(len(tasks), number))
    try:
        yield from pool.map(work, tasks)
    finally:
        pool.shutdown(cancel_futures=True)


def keep_freed_memory() -> None:
    """Has the C library keep what this process frees, for what it needs next; glibc's only.

    A step of learning on a CPU takes and frees hundreds of MB. Given back to the system, each
    page comes anew with the next step, and costs a fifth of its time (docs/performance.md).
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        one_arena, never_mapped, never_trimmed = (-8, 1), (-4, 0), (-1, 2**31 - 1)  # malloc.h
        for option in (one_arena, never_mapped, never_trimmed):
            mallopt(*option)


MOST_CORES = 8  # with more, each has few images of a batch; measured: two


def use_all_cores() -> None:
    """Makes a device of each core, up to 8, unless JAX's settings name a number themselves.

    For a process that begins: JAX reads it when it is first asked for a device. XLA runs a
    convolution on one core alone; a device each, the cores share a batch (docs/performance.md).
    """
    given = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if jax.config.values["jax_num_cpu_devices"] == -1 and not given:
        jax.config.update("jax_num_cpu_devices", min(MOST_CORES, num_cores()))


def search_mesh() -> Mesh | None:
    """A mesh for a search: `device_mesh`, but None on a CPU, whose cores `search` uses anyway."""
    return None if jax.default_backend() == "cpu" else device_mesh()


def device_mesh(batch_size: int | None = None) -> Mesh | None:
    """A mesh of devices, or None where one is used.

    Args:
      batch_size: the most devices that share so many images equally, as many of each process of a
        job; None: all devices of this process.

    Raises:
      ValueError: the processes of a job cannot share a batch equally.
    """
    processes = [jax.process_index()] if batch_size is None else range(jax.process_count())
    there = number = min(len(jax.local_devices(process)) for process in processes)
    if batch_size is not None:
        if batch_size % len(processes):
            raise ValueError(
                f"a batch has {batch_size} images, which {len(processes)} processes cannot share "
                f"equally: set LearnConfig.batch_multiple to {len(processes)}, or to the number of "
                "all their devices"
            )
        number = largest_divisor(batch_size // len(processes), there)
        if number < there:
            _warn_once(
                f"learning uses {number} of {there} devices: that is how many share a "
                f"batch of {batch_size} images equally; to use all, set LearnConfig.batch_multiple"
            )
    chosen = [device for process in processes for device in jax.local_devices(process)[:number]]
    return Mesh(np.array(chosen), ("images",)) if len(chosen) > 1 else None


@functools.cache
def _warn_once(message: str) -> None:
    logger.warning(message)


def check_mesh(mesh: Mesh | None) -> None:
    """Raises TypeError for what is no mesh, ValueError for one of several axes."""
    example = 'jax.make_mesh((4,), ("images",)), dsl_jax.devices.device_mesh() or None'
    if mesh is not None and not isinstance(mesh, Mesh):
        raise TypeError(f"mesh is a {type(mesh).__name__}: give {example}")
    if mesh is not None and len(mesh.axis_names) != 1:
        raise ValueError(f"mesh has the axes {mesh.axis_names}: it must have one; give {example}")


def check_own_mesh(mesh: Mesh | None) -> None:
    """`check_mesh`. Raises ValueError, too, for a mesh with devices of other processes."""
    check_mesh(mesh)
    others = [] if mesh is None else [d for d in mesh.devices.flat if d not in jax.local_devices()]
    if others:
        raise ValueError(
            f"mesh has devices of other processes, such as {others[0]}: give one of this process's "
            "own, such as dsl_jax.devices.device_mesh(); the processes share the work by the store"
        )


def sharing(mesh: Mesh | None) -> contextlib.AbstractContextManager:
    """Tells what is compiled inside that the devices of `mesh` share a batch."""
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(_automatic(mesh))


def mesh_of(tree: Any) -> Mesh | None:
    """The mesh over which an array of `tree` lies, the first found; None: there is none."""
    for leaf in jax.tree.leaves(tree):
        place = getattr(leaf, "sharding", None)
        if isinstance(place, NamedSharding) and isinstance(place.mesh, Mesh):
            return place.mesh
    return None


def replicate(tree: Any, mesh: Mesh | None) -> Any:
    """The arrays of `tree`, whole on every device."""
    return tree if mesh is None else jax.device_put(tree, sharding(mesh))


def take(array: Any, rows: np.ndarray, mesh: Mesh | None) -> Any:
    """`array[rows]`, an equal part on each device; whole on every one if there is no equal part.

    A process takes no more rows than its own devices need, so the mesh may span processes, each of
    which has the whole array.

    Args:
      array: [N, ...], on the host or on devices.
      rows: [B] indices.
    """
    if mesh is None:
        return array[rows]
    place = sharding(mesh, *(() if len(rows) % mesh.size else mesh.axis_names))
    if isinstance(array, jax.Array):
        return jax.device_put(array[rows], place)
    shape = (len(rows), *array.shape[1:])
    return jax.make_array_from_callback(shape, place, lambda index: array[rows[index[0]]])  # type: ignore[index]


def share_batches(batches: np.ndarray, mesh: Mesh | None) -> Any:
    """Rows [steps, B] of batches, of each an equal part on each device."""
    if mesh is None:
        return batches
    return jax.device_put(batches, sharding(mesh, None, *mesh.axis_names))


def join(parts: Any, mesh: Mesh) -> Any:
    """One array of the parts [n, ...] that lie on the mesh's devices of this process, in order.

    Nothing is copied.
    """
    place = sharding(mesh, *mesh.axis_names)

    def joined(*parts):
        shape = (mesh.size * parts[0].shape[0], *parts[0].shape[1:])
        return jax.make_array_from_single_device_arrays(shape, place, list(parts))

    return jax.tree.map(joined, *parts)


def on_one_device(tree: Any) -> Any:
    """Arrays that `replicate` made, on the first device alone; others as they are."""

    def alone(x: Any) -> Any:
        is_spread = isinstance(x, jax.Array) and len(x.sharding.device_set) > 1
        return x.addressable_data(0) if is_spread else x

    return jax.tree.map(alone, tree)


def sharding(mesh: Mesh, *axes: str | None) -> NamedSharding:
    """Arrays cut along their leading axes as `axes` say, None: not; none: whole on every device."""
    return NamedSharding(_automatic(mesh), PartitionSpec(*axes))


def _automatic(mesh: Mesh) -> Mesh:
    """The mesh with axes of type Auto; `jax.make_mesh` makes others, which programs must know."""
    return Mesh(mesh.devices, mesh.axis_names)


Array = Any  # a `jax.Array` or an `np.ndarray`


def largest_divisor(number: int, most: int) -> int:
    """The largest divisor of `number` that is at most `most`; both at least 1."""
    return max(n for n in range(1, min(number, most) + 1) if number % n == 0)


def environment() -> dict[str, str]:
    """Day, device, versions and, in a clone, the commit: for the report."""
    packages = ("dsl_jax", "jax", "flax", "optax", "evosax", "numpy")
    devices = jax.devices()
    commit = _commit()
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "device": f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})",
        "CPU": f"{processor()}, {num_cores()} cores",
        **{name: version_of(name) for name in packages},
        **({"commit": commit} if commit else {}),
    }


def version_of(package: str) -> str:
    """The version of an installed package; a checkout may be used without being installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def processor() -> str:
    """The processor's name, as well as the system tells it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    """The commit of the clone that this package lies in, marked if changed; "": there is none."""
    here = Path(__file__)
    git = ["git", "-C", str(here.parent)]
    run = functools.partial(subprocess.run, capture_output=True, text=True, timeout=10, check=True)
    try:
        run([*git, "ls-files", "--error-unmatch", here.name])  # or it is another project's clone
        return run([*git, "describe", "--always", "--dirty"]).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
