"""Chips that need not be there: XLA's compilers for a TPU v5e and an H100 run on any CPU.

`pip install -e '.[aot]'` and `pip install --no-deps jax-cuda13-plugin jax-cuda13-pjrt` of JAX's own
version install them. Nothing is run: a compiler says how long it took, what memory the program
needs, how large it is, and, for a TPU, how many bytes it moves.
"""

import os
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

# A TPU's library else looks for one, and asks the cloud what it is part of.
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # it locks a TPU; here is none
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")

import jax
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

GB = 1e9
# As a driver would describe the card to XLA.
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84942979072 cuda_compute_capability { major: 9 minor: 0 }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 12 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


class Chip(NamedTuple):
    """Something to compile for.

    package: what must be installed to do so.
    memory: bytes of one device.
    devices: returns them.
    """

    package: str
    memory: float
    devices: Callable[[], Sequence[Any]]


def _tpus() -> Sequence[Any]:
    return topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices


def _h100() -> Sequence[Any]:
    options = {"target_config": H100, "topology": "1x1x4"}  # four of one process
    return topologies.get_topology_desc(platform="cuda", topology_name="h100", **options).devices


CHIPS = {
    "v5e": Chip("libtpu", 16 * GB, _tpus),
    "h100": Chip("jax_cuda13_plugin", 80 * GB, _h100),
}


def is_installed(name: str) -> bool:
    """Whether the compiler for a chip is there."""
    return find_spec(CHIPS[name].package) is not None


class Compiled(NamedTuple):
    """What a compiler says of a program; None: it says nothing of it.

    seconds: to compile. memory: bytes, at the peak, of arguments, results and what lies between.
    code: bytes. moved: bytes read and written, a loop's body counted once. kernels: launched in
    the body of each loop, a loop in it not counted, the largest first, and how many of them copy.
    collectives: what the devices tell each other, by kind of operation.
    """

    seconds: float
    memory: int
    code: int
    moved: float | None
    kernels: tuple[tuple[int, int], ...]
    collectives: dict[str, int]


def compile_for(
    mesh: Mesh, function: Any, /, *arguments: Any, split: Sequence[int] = (), **static: Any
) -> Compiled:
    """Compiles a jitted function for the devices of a mesh with the one axis "images".

    arguments: pytrees of arrays, on any device. split: the numbers of those of which each device
    has its part; it has the others whole.
    """

    def placed(number: int, argument: Any) -> Any:
        place: Any = NamedSharding(mesh, PartitionSpec(*mesh.axis_names[: number in split]))
        if mesh.size == 1:
            place = jax.sharding.SingleDeviceSharding(mesh.devices.item())

        def shape(x: Any) -> jax.ShapeDtypeStruct:
            x = jax.eval_shape(lambda: x) if not hasattr(x, "dtype") else x
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)

        return jax.tree.map(shape, argument)

    lowered = function.lower(*(placed(*one) for one in enumerate(arguments)), **static)
    started = time.monotonic()
    compiled = lowered.compile()
    seconds = time.monotonic() - started
    memory = compiled.memory_analysis()
    parts = ("argument", "output", "temp")
    total = sum(getattr(memory, f"{part}_size_in_bytes") for part in parts)
    costs = compiled.cost_analysis() or {}
    text = compiled.as_text()
    return Compiled(
        seconds,
        total - memory.alias_size_in_bytes,
        memory.generated_code_size_in_bytes,
        costs.get("bytes accessed"),
        loop_kernels(text),
        collectives(text),
    )


def collectives(text: str) -> dict[str, int]:
    """How many operations of optimised HLO send something to other devices, by kind."""
    kinds = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-[a-z]+"
    return dict(Counter(re.findall(r"[})\]] (" + kinds + r")(?:-start)?\(", text)))


# What launches nothing, or is counted in its own right.
FREE = {
    "parameter", "tuple", "get-tuple-element", "bitcast", "constant", "while", "after-all",
    "copy-start", "copy-done", "iota", "partition-id", "replica-id",
}  # fmt: skip


def loop_kernels(text: str) -> tuple[tuple[int, int], ...]:
    """From optimised HLO, for each loop's body, how many kernels it launches and how many copy."""
    bodies = set(re.findall(r"\bbody=%?([\w.-]+)", text))
    found = []
    for block in re.split(r"\n(?=%?[\w.-]+ (?:\(|=)|ENTRY )", text):
        name = re.match(r"%?([\w.-]+) ", block)
        if name is None or name.group(1) not in bodies:
            continue
        operations = re.findall(r"^\s+(?:ROOT )?%?[\w.-]+ = .*?[})\]] ([a-z][\w-]*)\(", block, re.M)
        kernels = [operation for operation in operations if operation not in FREE]
        found.append((len(kernels), sum(operation == "copy" for operation in kernels)))
    return tuple(sorted(found, reverse=True))
