"""The rows of a sweep: how they are chosen, named, and made into curves and tables."""

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from dsl_jax.reports import intervals
from dsl_jax.reports.pages import markdown_table, mean_and_deviation
from dsl_jax.reports.titles import row_of

Row = dict[str, Any]
Rows = list[Row]


def layer_name(layer: int, layers: int = 4) -> str:
    """As figures call a layer; the last one holds the logits."""
    return "logits" if layer == layers - 1 else f"layer {layer}"


def training_name(training: str) -> str:
    """As figures and tables call a training of the pipeline."""
    if training.startswith("sgd_g"):
        return f"SGD, G = {training.removeprefix('sgd_g')}"
    row = row_of(training)
    return row[0] if row else training


def select(rows: Rows, **columns: Any) -> Rows:
    """The rows with these values."""
    return [row for row in rows if all(row[name] == value for name, value in columns.items())]


def ended(rows: Rows) -> Rows:
    """The rows that have a result; those of a training that failed have its `failure` instead."""
    return [row for row in rows if not row.get("failure")]


def _in_short(failure: str) -> str:
    """A failure in a few words, for a table."""
    step = re.search(r"\bat step (\d+)", failure)
    return f"diverged at step {step[1]}" if step else "failed"


def failed_note(rows: Rows) -> str:
    """What became of those that did not end, for a table; nothing if there are none."""
    notes = Counter(_in_short(row["failure"]) for row in rows if row.get("failure"))
    if len(notes) == 1 and not ended(rows):
        return next(iter(notes))
    return ", ".join(f"{count} of {len(rows)} {note}" for note, count in notes.items())


def percentages(rows: Rows, column: str, digits: int = 1) -> str:
    """An accuracy a row, and what became of those that have none."""
    numbers = [f"{row[column]:.{digits}%}" for row in ended(rows)]
    return ", ".join(filter(None, [*numbers, failed_note(rows)]))


def mean_percent(rows: Rows, column: str) -> str:
    """Mean and standard deviation of an accuracy, and what became of those that have none."""
    values = [100 * row[column] for row in ended(rows)]
    parts = [mean_and_deviation(values, 2)] if values else []
    return ", ".join(filter(None, [*parts, failed_note(rows)]))


def paired(ours: Rows, theirs: Rows, column: str) -> tuple[list[float], list[float]]:
    """The values of two trainings, seed by seed; a seed that one of them lacks is left out."""
    values = {row["seed"]: row[column] for row in ended(theirs)}
    pairs = [(row[column], values[row["seed"]]) for row in ended(ours) if row["seed"] in values]
    return [mine for mine, _ in pairs], [other for _, other in pairs]


def values_of(rows: Rows, column: str) -> list[Any]:
    """The different values of a column, in the order in which they come."""
    return list(dict.fromkeys(row[column] for row in rows))


def seeds_note(rows: Rows) -> str:
    """How many seeds, and what bars stand for, for a caption."""
    seeds = len(values_of(rows, "seed"))
    return "one seed" if seeds == 1 else f"{seeds} seeds; bars: standard deviation over seeds"


def deviation(values: Sequence[float]) -> float:
    """Sample standard deviation; NaN, which is not drawn, for a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else np.nan


def standard_error(values: Sequence[float]) -> float:
    """Standard error of the mean; NaN for a single value."""
    return deviation(values) / len(values) ** 0.5


def difference(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Of paired accuracies, in points, with its interval if there is more than one pair."""
    if not theirs:
        return ""
    return intervals.in_percent(intervals.of_paired_seeds(ours, theirs), sign=True)


def paired_note(rows: Rows) -> str:
    """What the numbers of a table with `difference`s are."""
    seeds = len(values_of(rows, "seed"))
    return (
        f"Test accuracy in percent, mean ± standard deviation of {seeds} seeds; differences in "
        "points, with the 95 % interval of Student's t over the seeds' paired differences."
    )


def dots(
    rows: Rows, column: str, accuracy: str, is_reference: Callable[[Any], bool] = lambda _: False
) -> list[SimpleNamespace]:
    """For `plots.plot_accuracy`: a line for each value of a column, a mark a row."""
    return [
        SimpleNamespace(
            name=value,
            test_accuracy=[row[accuracy] for row in select(rows, **{column: value})],
            is_reference=is_reference(value),
        )
        for value in values_of(rows, column)
    ]


def curve(
    rows: Rows, along: str, quantity: str, spread: Callable[[Sequence[float]], float] = deviation
) -> tuple[list[Any], list[float], list[float]]:
    """A line for `curves.plot_curves`: where it has values, its means and their spreads."""
    known = [row for row in rows if row[quantity] is not None]
    places = sorted(set(values_of(known, along)))
    groups = [[row[quantity] for row in select(known, **{along: place})] for place in places]
    return places, [float(np.mean(group)) for group in groups], list(map(spread, groups))


def markdown(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; floats with four significant digits."""
    text = [[f"{x + 0.0:.4g}" if isinstance(x, float) else str(x) for x in row] for row in rows]
    return markdown_table(list(header), text)


def as_csv(rows: Rows) -> str:
    """A line a row, with the columns of all."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
