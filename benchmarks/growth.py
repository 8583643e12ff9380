"""How the seconds of a search grow with images, width, population, generations and cores.

    pip install -e . && python benchmarks/growth.py

One quantity is doubled at a time; the slope is that of the seconds over it, both as logarithms: 1
is proportional, 0 constant, -1 what so many cores could gain at most. All but the cores' row run on
all cores of the machine (Linux only: all threads of this process are kept to some of them).
"""

import dataclasses
import os

import jax
import numpy as np
import timing
from absl import app, flags
from flax import nnx

import dsl_jax as dsl

_ROUNDS = flags.DEFINE_integer("rounds", 3, "How often each search is timed; medians count.")
_JSON = flags.DEFINE_string("json", None, "Where the results go.")

IMAGE_SHAPE = (28, 28, 1)
BASE = {"images": 16, "width": 32, "population": 80, "generations": 40}
FACTORS = (1, 2, 4, 8)


def make_search(images: int, width: int, population: int, generations: int):
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
    return lambda: dsl.search(key, stages, pixels, labels, config, chunk_size=16)


def median_seconds(search) -> float:
    """Of a search, compiled before."""
    return timing.side_by_side({"search": search}, _ROUNDS.value)["search"]


def keep_to(cores: list[int]) -> None:
    """Lets all threads of this process, XLA's too, use these cores alone."""
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), cores)


def main(_) -> None:
    cores, rows = sorted(os.sched_getaffinity(0)), []
    for name, base in [*BASE.items(), ("cores", 1)]:
        sizes, times = [base * factor for factor in FACTORS], []
        if name == "cores":
            sizes = [size for size in sizes if size <= len(cores)]
        for size in sizes:
            if name == "cores":
                keep_to(cores[:size])
                times.append(median_seconds(make_search(**BASE)))
            else:
                times.append(median_seconds(make_search(**(BASE | {name: size}))))
        slope = float(np.polyfit(np.log(sizes), np.log(times), 1)[0]) if len(sizes) > 1 else None
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
