"""Plots: what a figure shows is checked on its artists, and every figure must render cleanly."""

import io
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.colors import to_hex

from dsl_jax.reports import plots
from dsl_jax.reports.dark import INK, PAPER, in_dark


def png(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=50)
    return buffer.getvalue()


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


def test_fitness_band_is_from_the_10th_to_the_90th_percentile():
    values = np.repeat(np.arange(101.0)[:, None], 3, axis=1)
    (band,) = plots.plot_fitness([values]).axes[0].collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (10, 90)


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
# Representations
# --------------------------------------------------------------------------------------------


def representations(*, seed, shapes=((5, 5, 4), (6,), (4, 3), (10,))):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def test_a_map_is_the_first_principal_component_of_the_natural_channels():
    pattern = np.array([[1.0, -1.0], [2.0, -2.0]])
    natural = pattern[..., None] * [3.0, 4.0] + 7
    searched = pattern.T[..., None] * [6.0, 8.0] + [[[4.0, -3.0]]]  # a constant shift
    figure = plots.plot_representations(
        np.zeros((4, 4, 1)), [natural, np.ones(3)], [searched, np.ones(3)]
    )
    top, bottom = (figure.axes[i].images[0] for i in (1, 4))
    np.testing.assert_allclose(top.get_array(), pattern * 5, atol=1e-12)
    np.testing.assert_allclose(bottom.get_array(), pattern.T * 10, atol=1e-12)
    assert top.get_clim() == pytest.approx((-10, 10))  # each its own scale
    assert bottom.get_clim() == pytest.approx((-20, 20))


def test_vectors_tokens_and_logits_are_bars_on_one_scale():
    natural, searched = representations(seed=0), representations(seed=1)
    figure = plots.plot_representations(
        np.zeros((8, 8, 3), np.uint8), natural, searched, "title", labels=7
    )
    columns = len(natural) + 1
    top, bottom = figure.axes[columns - 1], figure.axes[2 * columns - 1]
    for axes, values in ((top, natural[-1]), (bottom, searched[-1])):
        np.testing.assert_allclose([bar.get_height() for bar in axes.patches], values)
        colors = [bar.get_facecolor() for bar in axes.patches]
        assert [i for i, color in enumerate(colors) if color != colors[0]] == [7]
    assert top.get_ylim() == bottom.get_ylim()
    assert [len(axes.patches) for axes in figure.axes[:columns]] == [0, 0, 6, 4, 10]
    assert "class 7" in figure.axes[0].get_title() and figure.get_suptitle() == "title"
    assert [axes.get_ylabel() for axes in figure.axes[1::columns]] == ["natural", "searched"]
    assert png(figure)


def test_several_images_are_stacked():
    natural = [np.stack([h] * 3) for h in representations(seed=0)]
    images = np.random.default_rng(0).normal(size=(3, 8, 8, 1))
    figure = plots.plot_representations(images, natural, natural, labels=[1, 2, 3])
    titles = [axes.get_title() for axes in figure.axes]
    assert [t for t in titles if "class" in t] == [f"class {i}" for i in (1, 2, 3)]
    names = ("cat", "dog", "cow", "hen")
    named = plots.plot_representations(
        images, natural, natural, labels=[1, 2, 3], class_names=names
    )
    assert {"dog", "cow", "hen"} <= {axes.get_title() for axes in named.axes}
    shown = figure.axes[0].images[0].get_array()
    assert (shown.min(), shown.max()) == (0, 1)
    assert png(figure)


def test_constant_images_and_representations_render():
    flat = [np.zeros((3, 3, 2)), np.zeros(4)]
    assert png(plots.plot_representations(np.zeros((4, 4, 3), np.float32), flat, flat))


def test_bad_representations_are_named():
    natural = representations(seed=0)
    with pytest.raises(ValueError, match="the same shapes in natural and searched"):
        plots.plot_representations(np.zeros((8, 8, 3)), natural, natural[:-1])
    with pytest.raises(ValueError, match=r"image has shape \(8, 8\)"):
        plots.plot_representations(np.zeros((8, 8)), natural, natural)
    with pytest.raises(ValueError, match="expected 2 of rank"):
        plots.plot_representations(np.zeros((2, 8, 8, 3)), natural, natural)


# --------------------------------------------------------------------------------------------
# Mistakes, and dark screens
# --------------------------------------------------------------------------------------------


def test_confusion_is_in_percent_of_the_true_class():
    figure = plots.plot_confusion([0, 0, 0, 0, 1], [0, 1, 1, 1, 1], ("cat", "dog"))
    texts = {(t.get_position()[1], t.get_position()[0]): t.get_text() for t in figure.axes[0].texts}
    assert texts == {(0, 0): "25.0", (0, 1): "75.0", (1, 1): "100.0"}
    assert png(plots.plot_confusion(np.arange(30), np.arange(30), [str(i) for i in range(30)]))


def test_mistakes_show_the_given_and_the_true_class_of_wrong_images_alone():
    images = np.zeros((4, 5, 5, 1), np.uint8)
    figure = plots.plot_mistakes(images, [0, 1, 0, 1], [0, 0, 1, 1], ("cat", "dog"))
    titles = [axes.get_title() for axes in figure.axes if axes.images]
    assert titles == ["cat\n(true: dog)", "dog\n(true: cat)"]
    with pytest.raises(ValueError, match="no image is classified wrong"):
        plots.plot_mistakes(images, [0] * 4, [0] * 4, ("cat", "dog"))


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
    confusion = plots.plot_confusion([0, 1], [0, 1], ("cat", "dog"))
    before = [text.get_color() for text in confusion.axes[0].texts]
    assert [text.get_color() for text in in_dark(confusion).axes[0].texts] == before
