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
    """The rows, each with the `labels` [N] of the test images, and `right`, bool [N]: whether each
    is classified so."""
    files: dict[str, Any] = {}

    def said(row: dict[str, Any]) -> dict[str, np.ndarray]:
        if row["predictions"] not in files:
            files[row["predictions"]] = read_arrays(folder / row["predictions"], REMEDY)
        kept = files[row["predictions"]]
        return {"labels": kept["labels"], "right": kept[row["training"]] == kept["labels"]}

    return [row | said(row) if row.get("predictions") else row for row in rows]


def read_points(folder: Path) -> list[dict[str, Any]]:
    """The kept points of a sweep, their rows with predictions.

    Raises:
      ValueError: there are none.
    """
    points = [read_json(path) for path in sorted(folder.glob("points/*.json"))]
    if not points:
        raise ValueError(f"{folder} has no finished point of a sweep: see its --output_dir")
    return [point | {"rows": with_predictions(point["rows"], folder)} for point in points]


def minus(ours: sweep_rows.Rows, theirs: sweep_rows.Rows) -> intervals.Interval | None:
    """The difference in test accuracy, over the seeds that both have and the test images.

    Raises:
      ValueError: they are of other test images.
    """
    check_images(ours, theirs)
    return interval(by_seed(ours), by_seed(theirs))


def change(
    ours: Sequence[sweep_rows.Rows], theirs: Sequence[sweep_rows.Rows]
) -> intervals.Interval | None:
    """How far `minus` is greater in the first of two places than in the second. Raises likewise."""
    check_images(*ours, *theirs)
    first, second = (
        {seed: np.subtract(a[seed], b[seed], dtype=float) for seed in a.keys() & b.keys()}
        for a, b in zip(map(by_seed, ours), map(by_seed, theirs), strict=True)
    )
    return interval(first, second)


def check_images(*trainings: sweep_rows.Rows) -> None:
    """Raises ValueError unless all are of the same test images, as far as their labels tell."""
    ended = [row for rows in trainings for row in sweep_rows.ended(rows)]
    for row in ended[1:]:
        if not np.array_equal(row["labels"], ended[0]["labels"]):
            raise ValueError(
                f"{row['predictions']} of {row['dataset']} and {ended[0]['predictions']} of "
                f"{ended[0]['dataset']} are of other test images, and cannot be compared"
            )


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
    found = {name: minus(rows, reference) for name, rows in others.items()}
    return {name: one for name, one in found.items() if one is not None}


def over(rows: sweep_rows.Rows) -> str:
    """What the intervals of `minus` are over, in words."""
    seeds = len(sweep_rows.values_of(rows, "seed"))
    if seeds == 1:
        return "test images, for one seed"
    return f"test images and the seeds that both have, at most {seeds}"


def in_text(interval: intervals.Interval | None) -> str:
    """An interval in points; nothing where there is none."""
    return intervals.in_percent(interval, sign=True) if interval else ""
