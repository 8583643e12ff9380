"""What `import dsl_jax` takes over `import jax, flax`, each in a process of its own.

pip install -e . && python benchmarks/startup.py
"""

import statistics
import subprocess
import sys

import timing
from absl import app, flags

_ROUNDS = flags.DEFINE_integer("rounds", 7, "How often each is timed, in turns; medians count.")
_JSON = flags.DEFINE_string("json", None, "Where the results go.")

PROGRAM = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"


def seconds(modules: str) -> float:
    """Seconds of an import in a new process."""
    command = [sys.executable, "-c", PROGRAM.format(modules)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main(_) -> None:
    names = {"import jax, flax": "jax, flax.nnx", "import dsl_jax": "dsl_jax"}
    times = {name: [] for name in names}
    for _ in range(_ROUNDS.value):
        for name, modules in names.items():
            times[name].append(seconds(modules))
    base, ours = (statistics.median(values) for values in times.values())
    row = {"what": "import dsl_jax", "seconds": ours, "jax, flax": base, "over it": ours - base}
    timing.report([row], timing.machine("flax"), _JSON.value)


if __name__ == "__main__":
    app.run(main)
