"""Times of several pieces of work, taken in turns in one run, and what they were taken on."""

import json
import os
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from dsl_jax.devices import processor


def side_by_side(works: dict[str, Callable[[], Any]], rounds: int = 5) -> dict[str, float]:
    """Median seconds of each piece of work; each is run once before, then all in turns.

    Turns, so that what else the machine does falls on all of them alike.
    """
    for work in works.values():
        jax.block_until_ready(work())
    times = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            started = time.perf_counter()
            jax.block_until_ready(work())
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in times.items()}


def machine(*packages: str) -> dict[str, Any]:
    """The device and the versions of `packages`."""
    device = jax.devices()[0]
    return {
        "device": device.device_kind,
        "backend": device.platform,
        "processor": f"{processor()}, {os.cpu_count()} cores",
        "versions": {name: version(name) for name in ("jax", *packages)},
    }


def report(rows: list[dict[str, Any]], about: dict[str, Any], path: str | None) -> None:
    """Prints rows as a table under what they were measured on, and writes both as JSON."""
    print(json.dumps(about))
    names = list(rows[0])
    cells = [names, *([_cell(row[name]) for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)))
    if path:
        save({"machine": about, "rows": rows}, path)


def save(results: dict[str, Any], path: str) -> None:
    """Writes results as JSON."""
    Path(path).write_text(json.dumps(results, indent=1) + "\n")


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
