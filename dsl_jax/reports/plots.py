"""Curves, bars and intervals, from arrays; `reports.pictures` has images and representations.

Functions return a `matplotlib.figure.Figure` and touch no files. They need no display and no pyplot
state; save a figure with `figure.savefig(path)`.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

# Okabe and Ito's colours, which people with any common colour blindness can tell apart, without the
# yellow and the pale blue, which are hard to see on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#000000")
LINES = ("-", "--", "-.", ":")
GREY = "#666666"


def plot_fitness(
    fitness: Any,
    layer_names: Sequence[str] | None = None,
    unit: str = "image",
    measure: str = "log-likelihood of the true label, nats",
) -> Figure:
    """Best fitness against generation, layer after layer (paper A.4).

    A line is the mean over the images, a band reaches from the 10th to the 90th percentile.
    Images with a value that is not finite are left out, and counted in the title.

    Args:
      fitness: for each layer [N, g + 1], the fitness of the best candidate of each of N images in
        the initial population and after each of g generations; or a `SearchResult` of N images, a
        `TargetStore`, or what else has them as its `fitness`.
      layer_names: one for each layer; None: "layer 0", ..., "logits".
      unit: what each of the N is.
      measure: what the fitness is.

    Raises:
      ValueError: no layer, arrays of the wrong rank or of different N, no image with finite
        values, or another number of names than of layers.
    """
    found = getattr(fitness, "fitness", fitness)
    layers = [np.asarray(f, np.float64) for f in (found() if callable(found) else found)]
    if not layers or any(f.ndim != 2 or f.shape[1] == 0 for f in layers):
        shapes = [f.shape for f in layers]
        raise ValueError(f"fitness has shapes {shapes}: expected [N, generations + 1] a layer")
    if len({len(f) for f in layers}) > 1:
        raise ValueError(f"fitness is of {[len(f) for f in layers]} images: expected one number")
    names = name_layers(layer_names, len(layers))
    finite = np.all([np.isfinite(f).all(axis=1) for f in layers], axis=0)
    if not finite.any():
        raise ValueError("fitness: no image has finite values in every layer and generation")

    figure, axes = _figure(7.5, 4.2)
    start = 0
    for layer, (values, name) in enumerate(zip(layers, names, strict=True)):
        values = values[finite]
        generations = start + np.arange(values.shape[1])
        color = COLORS[layer % len(COLORS)]
        low, high = np.percentile(values, (10, 90), axis=0)
        axes.fill_between(generations, low, high, color=color, alpha=0.2, linewidth=0)
        marker = "o" if values.shape[1] == 1 else None  # a single point has no line
        axes.plot(generations, values.mean(axis=0), color=color, marker=marker, label=name)
        start = generations[-1]
        if layer < len(layers) - 1:
            axes.axvline(start, color=GREY, linestyle=":", linewidth=1)
    count = int(finite.sum())
    note = f"; {len(finite) - count} with non-finite values left out" if count < len(finite) else ""
    plural = f"{unit}es" if unit.endswith("s") else f"{unit}s"
    title = f"One {unit}" if count == 1 else f"Mean and 10 to 90 % band over {count:,} {plural}"
    axes.set_title(title + note, fontsize="medium")
    axes.set_xlabel("generation (layers one after another)")
    axes.set_ylabel(f"{measure}\n(higher is better)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(title="layer being evolved")
    return figure


def plot_learning(histories: Mapping[str, Any]) -> Figure:
    """Training loss and validation accuracy against epoch, a line for each history.

    Args:
      histories: from a name to the records of its epochs, or to a `LearnResult`, with the keys
        "epoch", "train_loss" and "validation_accuracy" (a fraction). A panel leaves out the
        records that lack its key or hold None there: not every epoch is validated.

    Raises:
      ValueError: there is no history.
    """
    if not histories:
        raise ValueError("histories is empty: give at least one list of records")
    histories = {name: getattr(one, "history", one) for name, one in histories.items()}
    figure = Figure(figsize=(9, 4.2), dpi=150, layout="constrained")
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    panels = ((loss_axes, "train_loss", 1), (accuracy_axes, "validation_accuracy", 100))
    for axes, key, factor in panels:
        styles = itertools.cycle(itertools.product(LINES, COLORS))
        for (name, records), (line, color) in zip(histories.items(), styles, strict=False):
            points = [(r["epoch"], r[key] * factor) for r in records if r.get(key) is not None]
            epochs, values = zip(*points, strict=True) if points else ((), ())
            marker = "o" if len(points) == 1 else None
            axes.plot(epochs, values, color=color, linestyle=line, marker=marker, label=name)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        tidy(axes)
    losses = np.concatenate([line.get_ydata() for line in loss_axes.lines]).astype(np.float64)
    losses = losses[np.isfinite(losses)]
    if losses.size and 0 < 5 * losses.min() < losses.max():  # wide enough to hold a few ticks
        loss_axes.set_yscale("log")
        loss_axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        loss_axes.yaxis.set_major_formatter("{x:g}")
        loss_axes.yaxis.set_minor_formatter(NullFormatter())
    loss_axes.set_ylabel("training loss (each its own objective:\nheights do not compare)")
    accuracy_axes.set_ylabel("validation accuracy, %")
    handles, labels = accuracy_axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 3))
    return figure


def plot_accuracy(rows: Sequence[Any], split: str = "test") -> Figure:
    """Accuracy of every row: a dot at the mean, a bar of one sample standard deviation.

    Dots and not bars, since the axis does not start at 0; its label says where it does. With
    several seeds each is drawn as a faint mark, too; with one the bar is the row's interval, if it
    has one. Reference rows are grey and hollow.

    Args:
      rows: `pages.Row`s, or anything with name, test_accuracy (fractions, one a seed),
        is_reference and perhaps interval. Rows without a test accuracy are left out.
      split: whose accuracy it is, for the axis.

    Raises:
      ValueError: no row has a test accuracy.
    """
    rows = [row for row in rows if len(row.test_accuracy)]
    if not rows:
        raise ValueError("no row has a test accuracy: there is nothing to plot")
    figure, axes = _figure(7.5, 1.4 + 0.55 * len(rows))
    for height, row in enumerate(rows):
        percent = 100 * np.asarray(row.test_accuracy, np.float64)
        color = GREY if row.is_reference else COLORS[0]
        mean, text = percent.mean(), f"{percent.mean():.2f}"
        if len(percent) > 1:
            spread = percent.std(ddof=1)
            text += f" ± {spread:.2f}"
            axes.errorbar(mean, height, xerr=spread, color=color, capsize=4)
            axes.plot(percent, np.full(len(percent), height), "|", color=color, alpha=0.6)
        elif (interval := getattr(row, "interval", None)) is not None:
            low, high = (100 * x for x in interval)
            sides = [[mean - low], [high - mean]]
            axes.errorbar(mean, height, xerr=sides, color=color, capsize=4)
        face = "white" if row.is_reference else color
        axes.plot(mean, height, "o", color=color, markerfacecolor=face, markersize=7)
        axes.annotate(
            text, (mean, height), (0, 8), textcoords="offset points", ha="center", fontsize="small"
        )
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.7)  # the first row on top
    axes.margins(x=0.12)
    low, high = axes.get_xlim()
    low, high = max(low, 0), min(high, 100.5)
    axes.set_xlim(low, high)
    cut = f" (the axis starts at {low:.1f} %, not at 0)" if low > 0 else ""
    notes = []
    if any(len(row.test_accuracy) > 1 for row in rows):
        notes.append("bars: one standard deviation over seeds")
    elif any(getattr(row, "interval", None) for row in rows):
        notes.append("bars: 95 % interval over other test images")
    if any(row.is_reference for row in rows):
        notes.append("hollow: reference")
    axes.set_xlabel(f"{split} accuracy, %{cut}\n{'; '.join(notes)}".rstrip())
    return figure


def plot_differences(
    panels: Mapping[str, Mapping[str, Mapping[str, Any]]], names: Sequence[str] = ()
) -> Figure:
    """Differences of accuracies from what all are compared with, the zero line.

    Args:
      panels: by the panel's title, by the series' name and by the name of what is compared an
        `intervals.Interval`, as fractions.
      names: what is compared, from top to bottom; none: as the panels have it.
    """
    series = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    there = dict.fromkeys(n for p in panels.values() for one in p.values() for n in one)
    names = [name for name in names if name in there] or list(there)
    size = (7.5 if len(panels) == 1 else 1.6 + 2.5 * len(panels), 1.5 + 0.45 * len(names))
    figure, handles = Figure(figsize=size, dpi=150, layout="constrained"), {}
    for axes, (title, panel) in zip(
        figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels.items(), strict=True
    ):
        tidy(axes)
        axes.axvline(0, color=GREY, linewidth=1)
        axes.set_title(title, fontsize="medium")
        for name, intervals in panel.items():
            number = series.index(name)
            middles, lows, highs = 100 * np.array(list(intervals.values())).reshape(-1, 3).T
            heights = [names.index(n) + 0.3 * (number - (len(series) - 1) / 2) for n in intervals]
            sides = [middles - lows, highs - middles]
            look = {"color": COLORS[number % len(COLORS)], "marker": "os^D"[number % 4]}
            handles[name] = axes.errorbar(
                middles, heights, xerr=sides, linestyle="", capsize=3, **look
            )
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.margins(x=0.1)
    figure.supxlabel("difference in test accuracy, points; bars: 95 % interval", fontsize="medium")
    if len(series) > 1:
        shown = [handles[name] for name in series]
        figure.legend(shown, series, loc="outside upper center", ncols=len(series), frameon=False)
    return figure


def plot_shares(shares: Sequence[Any]) -> Figure:
    """What the targets of each block are made of: natural part, class displacement, neither.

    Args:
      shares: for each block a `targets.decomposition.Shares`.
    """
    figure, axes = _figure(7.5, 1.3 + 0.5 * len(shares))
    heights, left = np.arange(len(shares)), np.zeros(len(shares))
    parts = (
        ("natural", "natural representation", COLORS[0]),
        ("class_displacement", "displacement of the class", COLORS[1]),
        ("rest", "neither", "#bbbbbb"),
    )
    for name, label, color in parts:
        percent = 100 * np.array([getattr(one, name) for one in shares])
        axes.barh(heights, percent, left=left, color=color, label=label, height=0.6)
        left = left + percent
    axes.set_yticks(heights, [f"block {number}" for number in heights])
    axes.set_ylim(len(shares) - 0.5, -0.5)
    axes.set_xlim(0, 100)
    axes.set_xlabel("share of the targets' variance, %")
    figure.legend(loc="outside upper center", ncols=len(parts), frameon=False, fontsize="small")
    return figure


# --------------------------------------------------------------------------------------------
# Parts of figures
# --------------------------------------------------------------------------------------------


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    axes = figure.subplots()
    tidy(axes)
    return figure, axes


def tidy(axes: Axes) -> None:
    """The look that all axes share."""
    axes.grid(color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def name_layers(names: Sequence[str] | None, count: int) -> list[str]:
    """The names of so many layers; of None the usual ones. Raises ValueError for another number."""
    if names is None:
        return [*(f"layer {i}" for i in range(count - 1)), "logits"]
    if len(names) != count:
        raise ValueError(f"{len(names)} layer_names for {count} layers")
    return list(names)
