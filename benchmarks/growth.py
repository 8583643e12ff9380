"""How the seconds of a search grow with images, width, population, generations and devices.

    pip install -e . && python benchmarks/growth.py

One quantity is doubled at a time; the slope is that of the seconds over it, both as logarithms: 1
is proportional, 0 constant. The devices are 8 virtual ones that share this machine's processor, so
that their row shows what sharing costs, not what more devices gain.
"""

import dataclasses
import statistics
import time

import jax
import numpy as np
import timing
from absl import app, flags
from flax import nnx
from jax.sharding import Mesh

import dsl_jax as dsl

_ROUNDS = flags.DEFINE_integer("rounds", 3, "How often each search is timed; medians count.")
_JSON = flags.DEFINE_string("json", None, "Where the results go.")

IMAGE_SHAPE = (28, 28, 1)
BASE = {"images": 8, "width": 32, "population": 80, "generations": 40, "devices": 1}
FACTORS = (1, 2, 4, 8)


def make_search(images: int, width: int, population: int, generations: int, devices: int):
    """A search without arguments; population in the paper's proportions 20 : 100 : 120."""
    layers = tuple(
        dataclasses.replace(layer, generations=generations // part)
        for layer, part in zip(dsl.SearchConfig().layers, (1, 3, 3, 30), strict=True)
    )
    parents, explorers = population // 12, population * 5 // 12
    config = dsl.SearchConfig(
        layers, parents, explorers, population - parents - explorers, smoothing="noise_rescaled"
    )
    pixels = np.random.default_rng(0).normal(size=(images, *IMAGE_SHAPE)).astype(np.float32)
    network = dsl.ConvNet(IMAGE_SHAPE, 10, (width,) * 3, normalize_blocks=True, rngs=nnx.Rngs(0))
    network.whiten(pixels)
    key = jax.random.key(0)
    stages = dsl.frozen_stages(network, pixels, config, key=key)
    labels = np.arange(images) % 10
    mesh = Mesh(np.array(jax.devices()[:devices]), ("images",)) if devices > 1 else None
    chunk = min(8, images) // devices
    return lambda: dsl.search(key, stages, pixels, labels, config, chunk_size=chunk, mesh=mesh)


def main(_) -> None:
    jax.config.update("jax_num_cpu_devices", 8)
    rows = []
    for name, base in BASE.items():
        sizes, times = [base * factor for factor in FACTORS], []
        for size in sizes:
            search = make_search(**(BASE | {name: size}))
            jax.block_until_ready(search())
            rounds = []
            for _ in range(_ROUNDS.value):
                started = time.perf_counter()
                jax.block_until_ready(search())
                rounds.append(time.perf_counter() - started)
            times.append(statistics.median(rounds))
        slope = float(np.polyfit(np.log(sizes), np.log(times), 1)[0])
        rows.append(
            {
                "what": name,
                "from": str(sizes),
                "seconds": ", ".join(f"{seconds:.3g}" for seconds in times),
                "slope": slope,
            }
        )
    timing.report(rows, timing.machine("flax"), _JSON.value)


if __name__ == "__main__":
    app.run(main)
