"""Memory of a search: it does not grow with the number of images; one image at full width.

    python benchmarks/memory.py --json=memory.json

Each measurement is a process of its own. The images lie on a disk, in a `numpy.memmap`. Compiling
takes more memory than a small search, and would hide its growth: a first process compiles for all.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

NUMBERS = (500, 5_000, 50_000)
SHAPE = (28, 28, 1)
WIDTH = 8


def measure_store(num_images: int) -> dict[str, int]:
    """`search_to_store` of images in a memmap: small width, few generations."""
    import jax
    from flax import nnx

    from dsl_jax import ConvNet, LayerSchedule, SearchConfig, frozen_stages, search_to_store

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images"
        write_images(path, num_images, SHAPE)
        images = np.memmap(path, np.float32, "r", shape=(num_images, *SHAPE))
        network = ConvNet(image_shape=SHAPE, num_classes=10, widths=(WIDTH,) * 3, rngs=nnx.Rngs(0))
        config = SearchConfig(
            layers=(LayerSchedule(1, 0.1), *(LayerSchedule(0, 0.1) for _ in range(3))),
            num_parents=2,
            num_explorers=2,
            num_refiners=2,
        )
        first = np.asarray(images[:64])
        network.whiten(first)
        stages = frozen_stages(network, first, config, key=jax.random.key(1))
        labels = np.arange(num_images) % 10
        forget_peak()
        search_to_store(Path(folder) / "targets", jax.random.key(0), stages, images, labels, config)
        return peaks()


def measure_image() -> dict[str, int]:
    """`search` of one image with the paper's widths and population; few generations."""
    import dataclasses

    import jax
    from flax import nnx

    from dsl_jax import ConvNet, frozen_stages, get_preset, search

    preset = get_preset("paper", "cifar10")
    layers = tuple(dataclasses.replace(layer, generations=2) for layer in preset.search.layers)
    config = dataclasses.replace(preset.search, layers=layers)
    images = np.random.default_rng(0).normal(size=(64, 32, 32, 3)).astype(np.float32)
    network = ConvNet(
        image_shape=(32, 32, 3), num_classes=10, widths=preset.widths, rngs=nnx.Rngs(0)
    )
    network.whiten(images)
    stages = frozen_stages(network, images, config, key=jax.random.key(1))
    before = peaks()["peak_bytes"]
    forget_peak()
    resident = peaks()["peak_bytes"]
    search(jax.random.key(0), stages, images[:1], np.array([3]), config)
    after = peaks()
    return {
        "peak_bytes": max(before, after["peak_bytes"]),
        "peak_of_search_bytes": after["peak_bytes"],
        "before_search_bytes": resident,
    }


def write_images(path: Path, num_images: int, shape: tuple[int, ...]) -> None:
    """Normal numbers, float32, a block at a time."""
    random = np.random.default_rng(0)
    with open(path, "wb") as file:
        for start in range(0, num_images, 256):
            size = min(256, num_images - start)
            file.write(random.normal(size=(size, *shape)).astype(np.float32).tobytes())


def peaks() -> dict[str, int]:
    """Bytes: the most that was resident since `forget_peak`, and what is mapped from files now."""
    lines = Path("/proc/self/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    return {
        "peak_bytes": int(status["VmHWM"].split()[0]) * 1024,
        "file_bytes": int(status["RssFile"].split()[0]) * 1024,
    }


def forget_peak() -> None:
    """Lets Linux measure the peak from here on."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")


def in_process(cache: str, *arguments: str) -> dict[str, int]:
    """The measurement in a process of its own, with the programs compiled in `cache`."""
    root = str(Path(__file__).parents[1])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    finished = subprocess.run(
        [sys.executable, __file__, *arguments],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        },
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(finished.stdout.splitlines()[-1])


def measure_all(cache: str) -> dict[str, Any]:
    """Prints and returns the peaks, and how they grow with the number of images."""
    in_process(cache, f"--store={NUMBERS[0]}")
    stores = {}
    for number in NUMBERS:
        stores[number] = in_process(cache, f"--store={number}")
        peak, files = stores[number]["peak_bytes"], stores[number]["file_bytes"]
        print(
            f"{number:6,d} images: peak {peak / 2**20:.1f} MiB, "
            f"without mapped files {(peak - files) / 2**20:.1f} MiB",
            flush=True,
        )

    def ratio(*names):
        first, *_, last = (
            row["peak_bytes"] - sum(row[name] for name in names) for row in stores.values()
        )
        return last / first

    result = {
        "stores": stores,
        "ratio": ratio(),
        "ratio_without_files": ratio("file_bytes"),
    }
    print(
        f"{NUMBERS[-1]:,} images take {result['ratio']:.2f} times the memory of {NUMBERS[0]}, "
        f"without mapped files {result['ratio_without_files']:.2f} times",
        flush=True,
    )
    for name in ("one_image_compiling", "one_image"):
        result[name] = in_process(cache, "--image")
        peak, search, before = (
            result[name][f"{k}_bytes"] for k in ("peak", "peak_of_search", "before_search")
        )
        print(
            f"{name}, 256-256-256, the paper's population: peak of the search "
            f"{search / 1e9:.2f} GB, of which {before / 1e9:.2f} GB before it; "
            f"of the process {peak / 1e9:.2f} GB",
            flush=True,
        )
    return result


def main() -> None:
    """Measures what the flags say."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, help="where the result goes")
    parser.add_argument("--store", type=int, help="measure one store of so many images")
    parser.add_argument("--image", action="store_true", help="measure one image at full width")
    given = parser.parse_args()
    if given.store or given.image:
        print(json.dumps(measure_image() if given.image else measure_store(given.store)))
        return
    with tempfile.TemporaryDirectory() as cache:
        result = measure_all(cache)
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
