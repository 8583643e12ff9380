"""Plots: what a figure shows is checked on its artists, and every figure must render cleanly."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from figures import png
from matplotlib.colors import to_hex

from dsl_jax.evolution.image import SearchResult
from dsl_jax.learning.result import LearnResult
from dsl_jax.reports import pictures, plots
from dsl_jax.reports.carried import carried_table
from dsl_jax.reports.dark import INK, PAPER, in_dark
from dsl_jax.reports.intervals import Interval
from dsl_jax.targets.decomposition import Shares


def rising_fitness(num_images=20, generations=(4, 0, 3)):
    rng = np.random.default_rng(0)
    steps = [rng.exponential(0.1, (num_images, g + 1)) for g in generations]
    return [np.cumsum(s, axis=1) - 3 + i for i, s in enumerate(steps)]


def row(name, *accuracies, reference=False):
    return SimpleNamespace(name=name, test_accuracy=accuracies, is_reference=reference)


def test_pyplot_and_its_global_state_are_not_used():
    code = "import sys, dsl_jax.reports.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# --------------------------------------------------------------------------------------------
# Fitness
# --------------------------------------------------------------------------------------------


def test_fitness_draws_the_mean_of_each_layer_after_the_one_before():
    fitness = rising_fitness()
    figure = plots.plot_fitness(fitness)
    (axes,) = figure.axes
    lines = [line for line in axes.lines if not line.get_label().startswith("_")]
    assert [line.get_label() for line in lines] == ["layer 0", "layer 1", "logits"]
    assert [list(line.get_xdata()) for line in lines] == [[0, 1, 2, 3, 4], [4], [4, 5, 6, 7]]
    assert lines[1].get_marker() == "o"  # one point would be invisible as a line
    for line, values in zip(lines, fitness, strict=True):
        np.testing.assert_allclose(line.get_ydata(), values.mean(axis=0))
    assert "log-likelihood" in axes.get_ylabel() and "higher is better" in axes.get_ylabel()
    assert axes.get_xlabel().startswith("generation")
    assert png(figure)
    (axes,) = plots.plot_fitness(fitness, measure="fitness mine:margin").axes
    assert axes.get_ylabel() == "fitness mine:margin\n(higher is better)"


def test_fitness_band_is_from_the_10th_to_the_90th_percentile():
    values = np.repeat(np.arange(101.0)[:, None], 3, axis=1)
    (band,) = plots.plot_fitness([values]).axes[0].collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (10, 90)


class Kept:
    """Of which fitness is a method, as of a `TargetStore`."""

    def __init__(self, fitness):
        self._fitness = fitness

    def fitness(self):
        return self._fitness


def test_what_search_and_learn_return_is_drawn_as_it_is():
    fitness, records = rising_fitness(), [{"epoch": 1, "train_loss": 2.0}]
    for ours, theirs in (
        (plots.plot_fitness(SearchResult((), tuple(fitness))), plots.plot_fitness(fitness)),
        (plots.plot_fitness(Kept(fitness)), plots.plot_fitness(fitness)),
        (
            plots.plot_learning({"mine": LearnResult(None, records)}),
            plots.plot_learning({"mine": records}),
        ),
    ):
        for line, expected in zip(ours.axes[0].lines, theirs.axes[0].lines, strict=True):
            np.testing.assert_array_equal(line.get_ydata(), expected.get_ydata())


def test_images_with_non_finite_fitness_are_left_out_and_counted():
    first, *rest = rising_fitness()
    first[3, 2] = -np.inf
    axes = plots.plot_fitness([first, *rest]).axes[0]
    kept = np.delete(first, 3, axis=0)
    np.testing.assert_allclose(axes.lines[0].get_ydata(), kept.mean(axis=0))
    assert "19 images; 1 with non-finite values left out" in axes.get_title()


def test_bad_fitness_is_named():
    with pytest.raises(ValueError, match=r"shapes \[\(5,\)\]: expected"):
        plots.plot_fitness([np.zeros(5)])
    with pytest.raises(ValueError, match=r"shapes \[\]: expected"):
        plots.plot_fitness([])
    with pytest.raises(ValueError, match=r"\[2, 3\] images"):
        plots.plot_fitness([np.zeros((2, 4)), np.zeros((3, 4))])
    with pytest.raises(ValueError, match="1 layer_names for 3 layers"):
        plots.plot_fitness(rising_fitness(), ["a"])
    with pytest.raises(ValueError, match="no image has finite values"):
        plots.plot_fitness([np.full((2, 3), np.nan)])


# --------------------------------------------------------------------------------------------
# Learning
# --------------------------------------------------------------------------------------------


def test_learning_draws_the_loss_and_the_accuracy_in_percent():
    records = [
        {"epoch": 1, "train_loss": 2.0, "validation_accuracy": None},
        {"epoch": 2, "train_loss": 1.0, "validation_accuracy": 0.5},
        {"epoch": 3, "train_loss": 0.1},
        {"epoch": 4, "train_loss": 0.05, "validation_accuracy": 0.75},
    ]
    figure = plots.plot_learning({"targets": records, "sgd": records[:2]})
    loss, accuracy = figure.axes
    assert loss.lines[0].get_xydata().tolist() == [[1, 2], [2, 1], [3, 0.1], [4, 0.05]]
    assert accuracy.lines[0].get_xydata().tolist() == [[2, 50], [4, 75]]
    assert accuracy.lines[1].get_xydata().tolist() == [[2, 50]]
    assert accuracy.lines[1].get_marker() == "o"  # one point would be invisible as a line
    assert loss.get_yscale() == "log" and accuracy.get_yscale() == "linear"
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["targets", "sgd"]
    assert accuracy.get_ylabel().endswith("%") and loss.get_xlabel() == "epoch"
    assert png(figure)


@pytest.mark.parametrize("losses", [[0.0, 0.0], [1.0, 1.2], [np.nan, np.nan], [-1.0, 10.0], []])
def test_learning_falls_back_to_a_linear_loss_axis(losses):
    records = [
        {"epoch": e, "train_loss": loss, "validation_accuracy": 0.1}
        for e, loss in enumerate(losses)
    ]
    figure = plots.plot_learning({"a": records})
    assert figure.axes[0].get_yscale() == "linear"
    assert png(figure)


def test_one_diverged_loss_does_not_change_the_axis():
    losses = [10.0, np.nan, 1.0]
    records = [{"epoch": e, "train_loss": loss} for e, loss in enumerate(losses)]
    assert plots.plot_learning({"a": records}).axes[0].get_yscale() == "log"


def test_every_history_is_drawn_and_twelve_can_be_told_apart():
    record = {"epoch": 1, "train_loss": 1.0, "validation_accuracy": 0.5}
    figure = plots.plot_learning({f"run {i}": [record, {**record, "epoch": 2}] for i in range(30)})
    styles = [(line.get_color(), line.get_linestyle()) for line in figure.axes[1].lines]
    assert len(styles) == 30 and len(set(styles[:12])) == 12


def test_no_history_is_an_error():
    with pytest.raises(ValueError, match="histories is empty"):
        plots.plot_learning({})


# --------------------------------------------------------------------------------------------
# Accuracy
# --------------------------------------------------------------------------------------------


def test_accuracy_shows_mean_and_sample_deviation_in_percent():
    rows = [row("one seed", 0.9), row("three seeds", 0.95, 0.96, 0.97), row("empty")]
    figure = plots.plot_accuracy(rows)
    (axes,) = figure.axes
    assert [t.get_text() for t in axes.get_yticklabels()] == ["one seed", "three seeds"]
    assert [t.get_text() for t in axes.texts] == ["90.00", "96.00 ± 1.00"]
    (bar,) = axes.containers  # only where there are several seeds
    np.testing.assert_allclose(bar.lines[2][0].get_segments()[0], [[95, 1], [97, 1]])
    assert "standard deviation" in axes.get_xlabel()
    assert png(figure)


def test_accuracy_says_where_its_axis_starts_unless_at_zero():
    cut = plots.plot_accuracy([row("a", 0.9), row("b", 0.95)]).axes[0]
    assert f"the axis starts at {cut.get_xlim()[0]:.1f} %, not at 0" in cut.get_xlabel()
    whole = plots.plot_accuracy([row("a", 0.0), row("b", 0.95)]).axes[0]
    assert whole.get_xlim()[0] == 0 and whole.get_xlabel() == "test accuracy, %"
    assert plots.plot_accuracy([row("a", 1.0), row("b", 0.95)]).axes[0].get_xlim()[1] <= 100.5


def test_accuracy_marks_references():
    axes = plots.plot_accuracy([row("ours", 0.9), row("paper", 0.95, reference=True)]).axes[0]
    assert [line.get_markerfacecolor() for line in axes.lines] == [plots.COLORS[0], "white"]
    assert "hollow: reference" in axes.get_xlabel()


@pytest.mark.parametrize("accuracies", [(0.5,), (1.0, 1.0)])
def test_a_single_row_renders(accuracies):
    assert png(plots.plot_accuracy([row("a rather long name of a row" * 2, *accuracies)]))


def test_no_accuracy_is_an_error():
    with pytest.raises(ValueError, match="no row has a test accuracy"):
        plots.plot_accuracy([row("empty")])


# --------------------------------------------------------------------------------------------
# Intervals, and dark screens
# --------------------------------------------------------------------------------------------


def test_one_seeds_interval_is_a_bar_and_says_so():
    one = SimpleNamespace(name="a", test_accuracy=(0.9,), is_reference=False, interval=(0.88, 0.91))
    axes = plots.plot_accuracy([one]).axes[0]
    (bar,) = axes.collections
    np.testing.assert_allclose(bar.get_segments()[0][:, 0], (88, 91))
    assert "interval over other test images" in axes.get_xlabel()


def test_on_dark_paper_ink_is_light_but_not_on_images():
    figure = in_dark(plots.plot_accuracy([row("a", 0.9), row("b", 0.95)]))
    assert {to_hex(text.get_color()) for text in figure.axes[0].texts} == {INK}
    assert to_hex(figure.get_facecolor()) == to_hex(figure.axes[0].get_facecolor()) == PAPER
    confusion = pictures.plot_confusion([0, 1], [0, 1], ("cat", "dog"))
    before = [text.get_color() for text in confusion.axes[0].texts]
    assert [text.get_color() for text in in_dark(confusion).axes[0].texts] == before


# --------------------------------------------------------------------------------------------
# What targets carry
# --------------------------------------------------------------------------------------------

SHARES = (Shares(0.1, 0.3, 0.6, 0.31), Shares(0.0, 0.75, 0.25, 0.0))


def test_shares_of_a_block_follow_each_other_up_to_all_of_it():
    figure = plots.plot_shares(SHARES)
    bars = [(bar.get_x(), bar.get_width()) for bar in figure.axes[0].patches]
    for block, one in enumerate(SHARES):
        parts = bars[block :: len(SHARES)]
        np.testing.assert_allclose([width for _, width in parts], [100 * x for x in one[:3]])
        np.testing.assert_allclose([x for x, _ in parts], 100 * np.cumsum([0, *one[:2]]))
    assert png(figure)


def test_shares_in_a_table_have_the_mean_of_what_is_neither():
    table = carried_table(SHARES)
    assert table.lines[0] == ("block 0", "10.0%", "30.0%", "60.0%", "0.31")
    assert "neither, 42% on average" in table.text  # 42.5, to even


def test_differences_are_points_beside_the_zero_line():
    figure = plots.plot_differences({"": {"": {"permuted": Interval(0.01, -0.005, 0.02)}}})
    axes = figure.axes[0]
    (bar,) = axes.collections
    np.testing.assert_allclose(bar.get_segments()[0][:, 0], (-0.5, 2))
    assert axes.lines[0].get_xdata()[0] == 0 and axes.get_yticklabels()[0].get_text() == "permuted"
    assert png(figure)


def test_differences_in_panels_stand_at_the_heights_of_their_names():
    one, two, three = (Interval(x, x - 0.01, x + 0.02) for x in (0.01, 0.03, -0.02))
    panels = {
        "mnist": {
            "all layers": {"permuted": one, "natural": two},
            "skip block 0": {"natural": one},
        },
        "cifar10": {"skip block 0": {"natural": three}},
    }
    figure = plots.plot_differences(panels)
    mnist, cifar10 = figure.axes
    assert [axes.get_title() for axes in figure.axes] == list(panels)
    assert [x.get_text() for x in mnist.get_yticklabels()] == ["permuted", "natural"]
    first, second = mnist.collections
    assert [np.round(s[0, 1]) for s in first.get_segments()] == [0, 1]
    ((start, end),) = second.get_segments()
    assert np.round(start[1]) == 1 and start[1] != first.get_segments()[1][0, 1]
    np.testing.assert_allclose((start[0], end[0]), (0, 3), atol=1e-9)
    (bar,) = cifar10.collections
    assert np.allclose(bar.get_colors(), second.get_colors())  # a series is of one colour
    assert png(figure)
