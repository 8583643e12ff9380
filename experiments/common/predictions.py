"""What networks say of each test image: kept beside a point's rows, and compared."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common import sweep_rows
from dsl_jax.data.dataset import Dataset
from dsl_jax.files import read_arrays, read_json, replacing
from dsl_jax.reports import intervals

REMEDY = "delete it and the .json beside it, and the same command computes the point again"


def keep_predictions(folder: Path, dataset: Dataset, said: dict[str, np.ndarray]) -> None:
    """Keeps the classes [N] that trainings give the test images, and theirs, beside a folder."""
    small = np.min_scalar_type(dataset.num_classes - 1)
    kept = {"labels": dataset.test.labels} | said
    with replacing(folder.with_name(f"{folder.name}.npz")) as file:
        np.savez_compressed(file, **{name: x.astype(small) for name, x in kept.items()})


def with_predictions(rows: sweep_rows.Rows, folder: Path) -> sweep_rows.Rows:
    """The rows, each with `right`: whether each test image is classified right, bool [N]."""
    files: dict[str, Any] = {}

    def right(row: dict[str, Any]) -> np.ndarray:
        if row["predictions"] not in files:
            files[row["predictions"]] = read_arrays(folder / row["predictions"], REMEDY)
        kept = files[row["predictions"]]
        return kept[row["training"]] == kept["labels"]

    return [row | {"right": right(row)} if row.get("predictions") else row for row in rows]


def read_points(folder: Path) -> list[dict[str, Any]]:
    """The kept points of a sweep, their rows with predictions.

    Raises:
      ValueError: there are none.
    """
    points = [read_json(path) for path in sorted(folder.glob("points/*.json"))]
    if not points:
        raise ValueError(f"{folder} has no finished point of a sweep: see its --output_dir")
    return [point | {"rows": with_predictions(point["rows"], folder)} for point in points]


def read_rows(folder: Path) -> sweep_rows.Rows:
    """The rows of `read_points`."""
    return [row for point in read_points(folder) for row in point["rows"]]


def less(ours: sweep_rows.Rows, theirs: sweep_rows.Rows) -> intervals.Interval | None:
    """The difference in test accuracy, over the seeds that both have and the test images."""
    return interval(by_seed(ours), by_seed(theirs))


def change(
    ours: Sequence[sweep_rows.Rows], theirs: Sequence[sweep_rows.Rows]
) -> intervals.Interval | None:
    """How far `less` is greater in the first of two places than in the second."""
    first, second = (
        {seed: np.subtract(a[seed], b[seed], dtype=np.int8) for seed in a.keys() & b.keys()}
        for a, b in zip(map(by_seed, ours), map(by_seed, theirs), strict=True)
    )
    return interval(first, second)


def by_seed(rows: sweep_rows.Rows) -> dict[int, np.ndarray]:
    """Whether each test image is classified right, bool [N], by seed."""
    return {row["seed"]: row["right"] for row in sweep_rows.ended(rows)}


def interval(
    ours: Mapping[int, np.ndarray], theirs: Mapping[int, np.ndarray]
) -> intervals.Interval | None:
    """Of the mean difference of values [N], by seed; None: no seed is in both."""
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return None
    return intervals.of_paired_seeds_and_images(
        *(np.stack([values[seed] for seed in seeds]) for values in (ours, theirs))
    )


def differences(
    others: Mapping[str, sweep_rows.Rows], reference: sweep_rows.Rows
) -> dict[str, intervals.Interval]:
    """How far each of the others is from the reference, by name, where there are pairs."""
    found = {name: less(rows, reference) for name, rows in others.items()}
    return {name: one for name, one in found.items() if one is not None}


def over(rows: sweep_rows.Rows) -> str:
    """What the intervals of `less` are over, in words."""
    seeds = len(sweep_rows.values_of(rows, "seed"))
    return "test images, for one seed" if seeds == 1 else f"{seeds} seeds and the test images"


def in_text(interval: intervals.Interval | None) -> str:
    """An interval in points; nothing where there is none."""
    return intervals.in_percent(interval, sign=True) if interval else ""
