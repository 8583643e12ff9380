"""Pictures: what is shown is checked on the artists, and every one must render cleanly."""

import numpy as np
import pytest
from figures import png

from dsl_jax.evolution.image import SearchResult
from dsl_jax.reports import pictures


def representations(*, seed, shapes=((5, 5, 4), (6,), (4, 3), (10,))):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def test_a_map_is_the_first_principal_component_of_the_natural_channels():
    pattern = np.array([[1.0, -1.0], [2.0, -2.0]])
    natural = pattern[..., None] * [3.0, 4.0] + 7
    searched = pattern.T[..., None] * [6.0, 8.0] + [[[4.0, -3.0]]]  # a constant shift
    figure = pictures.plot_representations(
        np.zeros((4, 4, 1)), [natural, np.ones(3)], [searched, np.ones(3)]
    )
    top, bottom = (figure.axes[i].images[0] for i in (1, 4))
    np.testing.assert_allclose(top.get_array(), pattern * 5, atol=1e-12)
    np.testing.assert_allclose(bottom.get_array(), pattern.T * 10, atol=1e-12)
    assert top.get_clim() == pytest.approx((-10, 10))  # each its own scale
    assert bottom.get_clim() == pytest.approx((-20, 20))


def test_vectors_tokens_and_logits_are_bars_on_one_scale():
    natural, searched = representations(seed=0), representations(seed=1)
    figure = pictures.plot_representations(
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
    figure = pictures.plot_representations(images, natural, natural, labels=[1, 2, 3])
    titles = [axes.get_title() for axes in figure.axes]
    assert [t for t in titles if "class" in t] == [f"class {i}" for i in (1, 2, 3)]
    names = ("cat", "dog", "cow", "hen")
    named = pictures.plot_representations(
        images, natural, natural, labels=[1, 2, 3], class_names=names
    )
    assert {"dog", "cow", "hen"} <= {axes.get_title() for axes in named.axes}
    shown = figure.axes[0].images[0].get_array()
    assert (shown.min(), shown.max()) == (0, 1)
    assert png(figure)


def test_constant_images_and_representations_render():
    flat = [np.zeros((3, 3, 2)), np.zeros(4)]
    assert png(pictures.plot_representations(np.zeros((4, 4, 3), np.float32), flat, flat))


def test_bad_representations_are_named():
    natural = representations(seed=0)
    with pytest.raises(ValueError, match="the same shapes in natural and searched"):
        pictures.plot_representations(np.zeros((8, 8, 3)), natural, natural[:-1])
    with pytest.raises(ValueError, match=r"image has shape \(8, 8\)"):
        pictures.plot_representations(np.zeros((8, 8)), natural, natural)
    with pytest.raises(ValueError, match="expected 2 of rank"):
        pictures.plot_representations(np.zeros((2, 8, 8, 3)), natural, natural)
    image = np.zeros((8, 8, 3))
    with pytest.raises(ValueError, match=f"1 layer_names for {len(natural)} layers"):
        pictures.plot_representations(image, natural, natural, layer_names=["a"])
    with pytest.raises(ValueError, match=r"labels have shape \(2,\): 1 images need one each"):
        pictures.plot_representations(image, natural, natural, labels=[0, 1])


def test_what_search_returns_is_drawn_as_its_representations_are():
    natural, searched = representations(seed=0), tuple(representations(seed=1))
    image = np.zeros((8, 8, 3))
    ours = pictures.plot_representations(image, natural, SearchResult(searched, ()))
    assert png(ours) == png(pictures.plot_representations(image, natural, searched))


def test_confusion_is_in_percent_of_the_true_class():
    figure = pictures.plot_confusion([0, 0, 0, 0, 1], [0, 1, 1, 1, 1], ("cat", "dog"))
    texts = {(t.get_position()[1], t.get_position()[0]): t.get_text() for t in figure.axes[0].texts}
    assert texts == {(0, 0): "25.0", (0, 1): "75.0", (1, 1): "100.0"}
    assert png(pictures.plot_confusion(np.arange(30), np.arange(30), [str(i) for i in range(30)]))


def test_mistakes_show_the_given_and_the_true_class_of_wrong_images_alone():
    images = np.zeros((4, 5, 5, 1), np.uint8)
    figure = pictures.plot_mistakes(images, [0, 1, 0, 1], [0, 0, 1, 1], ("cat", "dog"))
    titles = [axes.get_title() for axes in figure.axes if axes.images]
    assert titles == ["cat\n(true: dog)", "dog\n(true: cat)"]
    with pytest.raises(ValueError, match="no image is classified wrong"):
        pictures.plot_mistakes(images, [0] * 4, [0] * 4, ("cat", "dog"))
