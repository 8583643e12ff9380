"""Curves: what a figure shows is checked on its artists, and every figure must render cleanly."""

import io

import numpy as np
import pytest
from common import curves


def test_curves_keep_their_look_from_panel_to_panel_and_their_values():
    line = ([0, 1, 10, 100], [4.0, 3.0, 2.0, 1.0], [0.1, 0.2, 0.3, 0.4])
    panels = [
        curves.Panel({"a": line, "b": line[:2]}, "generations", "loss, nats", "first", "symlog"),
        curves.Panel({"b": line}, "generations", "loss, nats", x_scale="linear"),
    ]
    figure = curves.plot_curves(panels, "title", "layer")
    first, second = figure.axes
    (mean, caps, (bars,)), _ = first.containers
    np.testing.assert_array_equal(mean.get_xydata(), np.transpose(line[:2]))
    lows = [segment[0, 1] for segment in bars.get_segments()]
    np.testing.assert_allclose(lows, [3.9, 2.8, 1.7, 0.6])
    assert len(caps) == 2
    looks = [(c[0].get_color(), c[0].get_marker()) for c in (*first.containers, *second.containers)]
    assert looks[0] != looks[1] == looks[2]
    assert [tick.get_text() for tick in first.get_xticklabels()] == ["0", "1", "10", "100"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b"]
    figure.savefig(io.BytesIO(), format="png", dpi=50)


def test_single_points_of_many_lines_look_each_otherwise():
    panel = curves.Panel({str(n): ([1], [n]) for n in range(11)}, "images", "accuracy")
    containers = curves.plot_curves([panel]).axes[0].containers
    lines = [container[0] for container in containers]
    looks = {(x.get_color(), x.get_marker(), x.get_markerfacecolor()) for x in lines}
    assert len(looks) == 11


def test_bars_at_one_place_stand_beside_each_other():
    bars = ([1, 2], [3.0, 4.0], [0.5, 0.5])
    panel = curves.Panel({"a": bars, "bare": bars[:2], "b": bars}, "x", "y", x_scale="log")
    figure = curves.plot_curves([panel])
    figure.canvas.draw()
    (axes,) = figure.axes
    a, bare, b = [container[0] for container in axes.containers]
    places = [line.get_transform().transform(line.get_xydata()) for line in (a, bare, b)]
    apart = curves.BAR_POINTS / 72 * figure.dpi  # in pixels
    np.testing.assert_allclose(places[2] - places[0], [[apart, 0]] * 2, atol=1e-6)
    np.testing.assert_allclose(places[1], (places[0] + places[2]) / 2, atol=1e-6)
    low, high = axes.get_ylim()
    assert 2 < low < 2.5 and 4.5 < high < 5
    (_, _, (segments,)) = axes.containers[0]
    assert segments.get_transform() == a.get_transform()  # the bar goes with its marker


def test_what_is_moved_aside_stays_within_the_axes():
    bars = ([20_000, 46_000], [3.0, 4.0], [0.5, 0.5])
    lines = {f"line {number}": bars for number in range(9)}
    panels = [curves.Panel(lines, "x", "y", x_scale=scale) for scale in ("log", "linear")]
    figure = curves.plot_curves(panels)
    figure.savefig(io.BytesIO(), format="png")
    for axes in figure.axes:
        for container in axes.containers:
            marker = container[0]
            places = marker.get_transform().transform(marker.get_xydata())
            assert ((places > axes.bbox.min) & (places < axes.bbox.max)).all()


def test_many_points_have_a_band_and_few_markers():
    x = np.arange(90)
    panel = curves.Panel({"a": (x, x + 1.0, np.full(90, 0.5))}, "epoch", "y", y_scale="log")
    (axes,) = curves.plot_curves([panel]).axes
    (line,), (band,) = axes.lines, axes.collections
    assert line.get_markevery() == 11
    assert band.get_paths()[0].get_extents().y1 == 90.5


@pytest.mark.parametrize("scale", ("linear", "log", "symlog"))
def test_lines_without_a_point_are_drawn_as_nothing(scale):
    """As where no search has found anything."""
    panel = curves.Panel({"a": ([], []), "b": ([], [])}, "x", "y", x_scale=scale)
    (axes,) = curves.plot_curves([panel]).axes
    assert axes.get_xlabel() == "x"


def test_panels_fill_rows_and_none_is_an_error():
    panel = curves.Panel({"a": ([1, 2], [1.0, 2.0])}, "x", "y")
    for panels, places in ((1, 1), (3, 3), (4, 4), (5, 6)):
        figure = curves.plot_curves([panel] * panels)
        assert sum(axes.axison for axes in figure.axes) == panels
        assert len(figure.axes) == places
    for bad in ([], [curves.Panel({}, "x", "y")]):
        with pytest.raises(ValueError, match="at least one"):
            curves.plot_curves(bad)
