"""Lines against a quantity, in panels beside each other; `dsl_jax.reports.plots` has the looks."""

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from matplotlib.transforms import offset_copy

from dsl_jax.reports.plots import COLORS, LINES, tidy

MARKERS = ("o", "s", "^", "D", "v", "x")
MOST_MARKERS = 30
AXES_POINTS = 230  # no panel's axes are narrower
BAR_POINTS = 5  # from one line's bars to the next one's


class Panel(NamedTuple):
    """One pair of axes of `plot_curves`.

    lines: from a name to (x, y) or (x, y, spread): one line each, in one colour and shape of marker
      by its place; the spread is drawn as bars, one up and one down, a little beside each other.
    x_scale: "linear", "log", or "symlog" (logarithmic, but with a place for 0).
    """

    lines: Mapping[str, tuple]
    x_label: str
    y_label: str
    title: str = ""
    x_scale: str = "linear"
    y_scale: str = "linear"


def plot_curves(panels: Sequence[Panel], title: str = "", legend: str = "") -> Figure:
    """Panels side by side, in rows of three at most, with one legend under them.

    Args:
      panels: see `Panel`; a line's name has the same look in all panels.
      title: of the whole figure.
      legend: title of the legend.

    Raises:
      ValueError: there is no panel, or one without lines.
    """
    if not panels or not all(panel.lines for panel in panels):
        raise ValueError("plot_curves needs at least one panel, each with at least one line")
    columns = 2 if len(panels) == 4 else min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(1 + 3.6 * columns, 0.9 + 3.3 * rows), dpi=150, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flat
    names = list(dict.fromkeys(name for panel in panels for name in panel.lines))
    every_look = itertools.product(LINES, zip(COLORS, MARKERS, strict=True))
    looks = dict(zip(names, itertools.cycle(every_look), strict=False))
    handles = {}
    for axes, panel in itertools.zip_longest(grid, panels):
        if panel is None:
            axes.set_axis_off()
            continue
        for name, line in panel.lines.items():
            handles[name] = _curve(axes, *looks[name], *map(np.asarray, line))
        barred = [handles[name] for name, line in panel.lines.items() if _has_bars(*line)]
        _set_apart(figure, axes, barred)
        axes.set(xlabel=panel.x_label, ylabel=panel.y_label, yscale=panel.y_scale)
        axes.set_title(panel.title, fontsize="medium")
        _scale_x(axes, panel)
        _scale_y(axes, panel)
        tidy(axes)
    characters = 11 * figure.get_figwidth()  # that fit beside each other, with their lines
    fitting = int(characters // (max(map(len, handles)) + 6))
    figure.legend(
        handles.values(),
        handles,
        loc="outside lower center",
        ncols=min(4, max(1, fitting)),
        title=legend or None,
    )
    if title:
        figure.suptitle(title)
    return figure


def _curve(axes, linestyle, look, x, y, spread=None):
    """A line with a marker and a bar at each point; where there are many, a band."""
    style = {"color": look[0], "linestyle": linestyle, "markersize": 4}
    style |= {} if linestyle == LINES[0] else {"markerfacecolor": "white"}  # for a single point
    if len(x) <= MOST_MARKERS:
        return axes.errorbar(x, y, spread, marker=look[1], capsize=2, **style)
    if spread is not None:
        axes.fill_between(x, y - spread, y + spread, color=look[0], alpha=0.2, linewidth=0)
    (line,) = axes.plot(x, y, marker=look[1], markevery=len(x) // 8, **style)
    return line


def _has_bars(x, y, spread=None) -> bool:
    return spread is not None and len(x) <= MOST_MARKERS and bool(np.isfinite(spread).any())


def _set_apart(figure: Figure, axes: Axes, curves: Sequence[ErrorbarContainer]) -> None:
    """Moves lines with bars aside, so that those at the same place can all be read."""
    for place, curve in enumerate(curves):
        points = (place - (len(curves) - 1) / 2) * BAR_POINTS
        moved = offset_copy(axes.transData, figure, x=points, units="points")
        for part in curve.get_children():  # drawn before: the axes' limits are those of the data
            part.set_transform(moved)
    widest = max(0, len(curves) - 1) / 2 * BAR_POINTS
    axes.margins(x=0.05 + widest / (AXES_POINTS - 2 * widest))  # of the data's width


def _scale_y(axes: Axes, panel: Panel) -> None:
    """A logarithmic axis has a few ticks, however many powers of ten it spans."""
    if panel.y_scale == "log":
        lowest, highest = axes.get_ylim()
        powers = np.log10(highest / lowest)
        subs = (1, 1.5, 2, 3, 5, 7) if powers < 1.5 else (1, 3) if powers < 3 else (1,)
        axes.yaxis.set_major_locator(LogLocator(subs=subs))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())


def _scale_x(axes: Axes, panel: Panel) -> None:
    """A logarithmic axis has its ticks where the points are."""
    places = sorted({x for line in panel.lines.values() for x in np.asarray(line[0]).tolist()})
    if not places:  # no line has a point
        return
    if panel.x_scale == "linear":
        if all(float(x).is_integer() for x in places):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        return
    smallest = min((x for x in places if x > 0), default=1)
    options = {"linthresh": smallest} if panel.x_scale == "symlog" else {}
    axes.set_xscale(panel.x_scale, **options)
    step = -(-len(places) // 7)
    shown = sorted({places[0], *places[::-step]})  # with the first and the last
    axes.set_xticks(shown, [f"{x:g}" for x in shown])
    axes.minorticks_off()
