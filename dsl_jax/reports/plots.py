"""Figures, from arrays.

Functions return a `matplotlib.figure.Figure` and touch no files. They need no display and no pyplot
state; save a figure with `figure.savefig(path)`.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

# Okabe and Ito's colours, which people with any common colour blindness can tell apart, less the
# yellow and the pale blue, which are hard to see on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#000000")
LINES = ("-", "--", "-.", ":")
GREY = "#666666"


def plot_fitness(fitness: Sequence[Any], layer_names: Sequence[str] | None = None) -> Figure:
    """Best fitness against generation, layer after layer (paper A.4).

    A line is the mean over the images, a band reaches from the 10th to the 90th percentile.
    Images with a value that is not finite are left out, and counted in the title.

    Args:
      fitness: for each layer [N, g + 1], the log-likelihood (nats) of the best candidate of each
        of N images in the initial population and after each of g generations.
      layer_names: one for each layer; None: "layer 0", ..., "logits".

    Raises:
      ValueError: no layer, arrays of the wrong rank or of different N, no image with finite
        values, or another number of names than of layers.
    """
    layers = [np.asarray(f, np.float64) for f in fitness]
    if not layers or any(f.ndim != 2 or f.shape[1] == 0 for f in layers):
        shapes = [f.shape for f in layers]
        raise ValueError(f"fitness has shapes {shapes}: expected [N, generations + 1] a layer")
    if len({len(f) for f in layers}) > 1:
        raise ValueError(f"fitness is of {[len(f) for f in layers]} images: expected one number")
    names = _layer_names(len(layers)) if layer_names is None else list(layer_names)
    if len(names) != len(layers):
        raise ValueError(f"{len(names)} layer_names for {len(layers)} layers")
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
    title = "One image" if count == 1 else f"Mean and 10 to 90 % band over {count:,} images"
    axes.set_title(title + note, fontsize="medium")
    axes.set_xlabel("generation (layers one after another)")
    axes.set_ylabel("log-likelihood of the true label, nats\n(higher is better)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(title="layer being evolved")
    return figure


def plot_learning(histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Training loss and validation accuracy against epoch, a line for each history.

    Args:
      histories: from a name to the records of its epochs, with the keys "epoch", "train_loss" and
        "validation_accuracy" (a fraction). A panel leaves out the records that lack its key or
        hold None there: not every epoch is validated.

    Raises:
      ValueError: there is no history.
    """
    if not histories:
        raise ValueError("histories is empty: give at least one list of records")
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


def plot_differences(differences: Mapping[str, Any]) -> Figure:
    """Differences of accuracies from what all are compared with, the zero line.

    Args:
      differences: by name an `intervals.Interval`, as fractions.
    """
    figure, axes = _figure(7.5, 1.2 + 0.45 * len(differences))
    axes.axvline(0, color=GREY, linewidth=1)
    for height, (value, low, high) in enumerate(differences.values()):
        sides = [[100 * (value - low)], [100 * (high - value)]]
        axes.errorbar(
            100 * value, height, xerr=sides, fmt="o", color=COLORS[0], capsize=4, markersize=6
        )
    axes.set_yticks(range(len(differences)), list(differences))
    axes.set_ylim(len(differences) - 0.5, -0.5)
    axes.margins(x=0.1)
    axes.set_xlabel("difference in test accuracy, points; bars: 95 % interval")
    return figure


def plot_representations(
    image: Any,
    natural: Sequence[Any],
    searched: Sequence[Any],
    title: str = "",
    *,
    labels: Any = None,
    class_names: Sequence[str] | None = None,
    layer_names: Sequence[str] | None = None,
) -> Figure:
    """A gallery: an image, and what the network gives for it against what search found.

    A layer [h, w, c] is shown as a map: the projection of its channels on the direction in which
    the natural representation varies most (its first principal component over the positions),
    each less its mean. Both maps of a layer use that direction, each its own colour scale. Vectors,
    such as the logits, are shown as bars; [tokens, c] is projected to one bar a token.

    Args:
      image: [H, W, C] or, for several images, [M, H, W, C]; uint8, or floats, which are stretched
        to the visible range.
      natural, searched: for each layer one array [...], or [M, ...] for several images; of the
        same shapes, the last one holding the logits.
      title: of the whole figure.
      labels: the true class of the image, or [M] of them, whose bar is then coloured; None: not
        shown.
      class_names: of all classes; None: their numbers.
      layer_names: one for each layer; None: "layer 0", ..., "logits".

    Raises:
      ValueError: the shapes do not fit together, or there are no layers.
    """
    images, natural, searched = _galleries(image, natural, searched)
    labels = None if labels is None else np.atleast_1d(labels)
    names = _layer_names(len(natural)) if layer_names is None else list(layer_names)
    columns = 1 + len(natural)
    figure = Figure(figsize=(1.7 * columns, 0.5 + 3.2 * len(images)), dpi=150, layout="constrained")
    grid = figure.subplots(2 * len(images), columns, squeeze=False)
    for i, picture in enumerate(images):
        top, bottom = grid[2 * i : 2 * i + 2]
        _show_image(top[0], picture)
        top[0].set_title("image" if labels is None else _class_name(labels[i], class_names))
        bottom[0].set_axis_off()
        for column, name in enumerate(names, start=1):
            pair = natural[column - 1][i], searched[column - 1][i]
            last = column == len(names)
            label = None if labels is None or not last else int(labels[i])
            _show_pair((top[column], bottom[column]), pair, label, "class" if last else "feature")
            top[column].set_title(f"{name}\n{' x '.join(map(str, pair[0].shape))}")
        top[1].set_ylabel("natural")
        bottom[1].set_ylabel("searched")
    for axes in grid.flat:
        axes.title.set_fontsize("small")
        axes.tick_params(labelsize="x-small")
    if any(h.ndim > 2 for h in natural):
        figure.supxlabel(
            "maps: projection on the first principal component of the natural channels, "
            "each on its own colour scale",
            fontsize="x-small",
        )
    if title:
        figure.suptitle(title)
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


def plot_confusion(labels: Any, predictions: Any, class_names: Sequence[str]) -> Figure:
    """How often each class [row] is taken for each other [column], in percent of the row.

    Args:
      labels, predictions: integers [N], the true classes and the given ones.
      class_names: C names. Of more than 20 classes no number or name is written.
    """
    count = len(class_names)
    table = np.zeros((count, count))
    np.add.at(table, (np.asarray(labels), np.asarray(predictions)), 1)
    percent = 100 * table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    wrong = percent * (1 - np.eye(count))  # the diagonal would outshine all else
    size = min(9.0, 3.0 + 0.45 * count)
    figure = Figure(figsize=(size, size - 0.4), dpi=150, layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(wrong, cmap="Oranges", vmin=0, vmax=max(wrong.max(), 1e-9))
    axes.set(xlabel="given class", ylabel="true class")
    if count > 20:
        figure.colorbar(image, label="images of the true class, % (right ones left out)")
        return figure
    axes.set_xticks(range(count), class_names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(count), class_names)
    for (row, column), value in np.ndenumerate(percent):
        if table[row, column]:
            is_dark = wrong[row, column] > 0.6 * wrong.max()
            color = GREY if row == column else "white" if is_dark else "black"
            style: Any = {"ha": "center", "va": "center", "fontsize": "x-small"}
            axes.text(column, row, f"{value:.1f}", color=color, **style)
    return figure


def plot_mistakes(
    images: Any, labels: Any, predictions: Any, class_names: Sequence[str], most: int = 12
) -> Figure:
    """The first images that are classified wrong, each with its true and its given class.

    Args:
      images: uint8 [N, H, W, C].
      labels, predictions: integers [N].
      class_names: C names.
      most: how many images are shown.

    Raises:
      ValueError: no image is classified wrong.
    """
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    wrong = np.flatnonzero(labels != predictions)[:most]
    if not len(wrong):
        raise ValueError("no image is classified wrong: there is nothing to show")
    columns = min(6, len(wrong))
    rows = -(-len(wrong) // columns)
    figure = Figure(figsize=(1.5 * columns, 1.9 * rows), dpi=150, layout="constrained")
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in grid:
        axes.set_axis_off()
    for axes, i in zip(grid, wrong, strict=False):
        axes.set_axis_on()
        _show_image(axes, np.asarray(images[i]))
        given, true = class_names[predictions[i]], class_names[labels[i]]
        axes.set_title(f"{given}\n(true: {true})", fontsize="small")
    return figure


def _galleries(
    image: Any, natural: Sequence[Any], searched: Sequence[Any]
) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """Arrays of M images and their layers. Raises ValueError where they do not fit together."""
    images = np.asarray(image)
    ours, theirs = [np.asarray(h) for h in natural], [np.asarray(h) for h in searched]
    if images.ndim == 3:
        images, ours, theirs = images[None], [h[None] for h in ours], [h[None] for h in theirs]
    shapes = [h.shape for h in ours], [h.shape for h in theirs]
    if images.ndim != 4 or not ours or shapes[0] != shapes[1]:
        raise ValueError(
            f"image has shape {images.shape}, natural {shapes[0]}, searched {shapes[1]}: expected "
            "[H, W, C] or [M, H, W, C], and the same shapes in natural and searched"
        )
    if any(not 2 <= h.ndim <= 4 or len(h) != len(images) for h in ours):
        raise ValueError(f"natural has shapes {shapes[0]}: expected {len(images)} of rank 1 to 3")
    return images, ours, theirs


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


def _class_name(label: Any, names: Sequence[str] | None) -> str:
    return f"class {int(label)}" if names is None or names[int(label)].isdigit() else names[label]


def _layer_names(count: int) -> list[str]:
    return [*(f"layer {i}" for i in range(count - 1)), "logits"]


def _show_image(axes: Axes, image: np.ndarray) -> None:
    """[H, W, C] in its colours where C is 3, else the mean over C in grey."""
    if image.dtype == np.uint8:
        pixels = image / 255
    else:
        low, high = np.min(image), np.max(image)
        pixels = (image - low) / (high - low if high > low else 1)
    if image.shape[-1] != 3:
        pixels = pixels.mean(axis=-1)
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=1)
    axes.set_xticks([])
    axes.set_yticks([])


def _show_pair(pair_axes, pair, label: int | None, bar_name: str) -> None:
    """One layer, natural in the first axes and searched in the second."""
    if pair[0].ndim > 1:
        pair, bar_name = _principal_maps(*pair), "token"
    if pair[0].ndim == 1:
        low, high = min(0, *map(np.min, pair)), max(0, *map(np.max, pair))
        for axes, values in zip(pair_axes, pair, strict=True):
            bars = axes.bar(np.arange(len(values)), values, color=GREY, width=0.8)
            if label is not None:
                bars[label].set_color(COLORS[1])
            axes.set_xlabel(bar_name, fontsize="x-small")
            axes.set_ylim(low - 0.05 * (high - low) - 1e-9, high + 0.05 * (high - low) + 1e-9)
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axes.spines[["top", "right"]].set_visible(False)
        return
    for axes, values in zip(pair_axes, pair, strict=True):
        limit = np.abs(values).max() or 1
        axes.imshow(values, cmap=mpl.colormaps["PuOr"], vmin=-limit, vmax=limit)
        axes.set_xticks([])
        axes.set_yticks([])


def _principal_maps(natural: np.ndarray, searched: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[..., c] each -> [...] each: both on the first principal direction of the natural one."""
    centred = [np.float64(h.reshape(-1, h.shape[-1])) for h in (natural, searched)]
    centred = [h - h.mean(axis=0) for h in centred]
    direction = np.linalg.svd(centred[0], full_matrices=False)[2][0]
    # Its sign is arbitrary: let larger activations be positive, so that plots repeat.
    direction = direction if direction.sum() >= 0 else -direction
    return tuple((h @ direction).reshape(natural.shape[:-1]) for h in centred)
