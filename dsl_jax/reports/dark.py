"""Figures for dark screens: the same, their paper dark and their ink light."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.text import Text

from dsl_jax.reports.plots import GREY

PAPER, INK, DIM, GRID = "#161616", "#e8e8e8", "#a9a9a9", "#444444"
CHANGED = {to_rgba("black"): INK, to_rgba(GREY): DIM, to_rgba("white"): PAPER}


def in_dark(figure: Figure) -> Figure:
    """Changes the figure's colours in place, and returns it; what is drawn on images stays."""
    on_images = {id(text) for axes in figure.axes if axes.images for text in axes.texts}
    figure.set_facecolor(PAPER)
    for axes in figure.axes:
        _axes_in_dark(axes)
    for text in figure.findobj(Text):
        if id(text) not in on_images:
            text.set_color(_changed(text.get_color()))
    for legend in figure.findobj(Legend):
        legend.get_frame().set(facecolor=PAPER, edgecolor=GRID)
    return figure


def _axes_in_dark(axes: Axes) -> None:
    axes.set_facecolor(PAPER)
    axes.tick_params(colors=INK, which="both")
    for spine in axes.spines.values():
        spine.set_edgecolor(DIM)
    for line in axes.findobj(Line2D):
        line.set_color(_changed(line.get_color()))
        line.set_markerfacecolor(_changed(line.get_markerfacecolor()))
    for bars in axes.findobj(LineCollection):
        bars.set_color([_changed(color) for color in bars.get_color()])
    for line in (*axes.get_xgridlines(), *axes.get_ygridlines()):
        line.set_color(GRID)


def _changed(color: Any) -> Any:
    """Black, grey and white as they are on dark paper; other colours, and none, as they are."""
    is_none = isinstance(color, str) and color == "none"
    return color if is_none else CHANGED.get(to_rgba(color), color)
