"""A process that searches a toy split into a store and notes what it did; see test_processes."""

import argparse
import os
import signal
import time
from pathlib import Path

import jax
import numpy as np


def arguments():
    """What the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("store")
    parser.add_argument("log", type=Path)
    parser.add_argument("--chunks", type=int, default=12)
    parser.add_argument("--pause", type=float, default=0.0, help="added to every search")
    parser.add_argument("--go", type=Path, help="wait for this file after the imports")
    parser.add_argument("--job", help="port, number of processes, number of this one")
    parser.add_argument("--die", help="a function of layout; SIGKILL when it is called")
    return parser.parse_args()


def search_toy(store, num_chunks, on_search=lambda chunk: None, **options):
    """Searches `num_chunks` chunks of two images; `on_search` is told each chunk it searches."""
    from toy_targets import CHUNK, CONFIG, STAGES

    from dsl_jax.targets import fill

    search = fill.search

    def told(*args, ids, **kwargs):
        result = search(*args, ids=ids, **kwargs)
        for chunk in dict.fromkeys(ids // CHUNK):
            on_search(chunk)
        return result

    fill.search = told
    try:
        images = np.random.default_rng(1).normal(size=(CHUNK * num_chunks, 4, 4, 1))
        labels = np.arange(len(images)) % 3
        key = jax.random.key(0)
        return fill.search_to_store(
            store, key, STAGES, images, labels, CONFIG, chunk_size=CHUNK, **options
        )
    finally:
        fill.search = search


def main():
    """Notes "searched C" when a chunk's search is done and "wrote C" when it is in the store."""
    given = arguments()
    if given.job:
        port, count, number = map(int, given.job.split(","))
        jax.distributed.initialize(f"localhost:{port}", count, number)
    import toy_targets  # noqa: F401  (imported before the others are waited for)

    from dsl_jax.targets import layout

    jax.random.key(0).block_until_ready()
    if given.die:

        def die(*_, **__):
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(layout, given.die, die)

    def note(*words):
        with open(given.log, "a") as file:
            print(*words, file=file)

    def on_search(chunk):
        time.sleep(given.pause)
        note("searched", chunk)

    note("ready", os.getpid())
    while given.go and not given.go.exists():
        time.sleep(0.01)
    search_toy(given.store, given.chunks, on_search, on_chunk=lambda chunk: note("wrote", chunk))
    note("finished")


if __name__ == "__main__":
    main()
