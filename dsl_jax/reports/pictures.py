"""Pictures of images, of what networks make of them, and of what they take them for, from arrays.

As in `reports.plots`, functions return a `matplotlib.figure.Figure` and touch no files.
"""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dsl_jax.reports.plots import COLORS, GREY, name_layers


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
    each centred. Both maps of a layer use that direction, each its own colour scale. Vectors, such
    as the logits, are shown as bars; [tokens, c] is projected to one bar a token.

    Args:
      image: [H, W, C] or, for several images, [M, H, W, C]; uint8, or floats, which are stretched
        to the visible range.
      natural, searched: for each layer one array [...], or [M, ...] for several images; of the
        same shapes, the last one holding the logits. Or a `SearchResult`.
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
    if labels is not None and labels.shape != (len(images),):
        raise ValueError(f"labels have shape {labels.shape}: {len(images)} images need one each")
    names = name_layers(layer_names, len(natural))
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


# --------------------------------------------------------------------------------------------
# Parts of pictures
# --------------------------------------------------------------------------------------------


def _galleries(
    image: Any, natural: Sequence[Any], searched: Sequence[Any]
) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """Arrays of M images and their layers. Raises ValueError where they do not fit together."""
    images = np.asarray(image)
    ours, theirs = (
        [np.asarray(h) for h in getattr(given, "representations", given)]
        for given in (natural, searched)
    )
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


def _class_name(label: Any, names: Sequence[str] | None) -> str:
    return f"class {int(label)}" if names is None or names[int(label)].isdigit() else names[label]


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
