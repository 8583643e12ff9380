"""Controls of targets: what each keeps and what it takes away, against plain NumPy."""

import jax
import numpy as np
import pytest
import toy_targets as toy
from hypothesis import given, settings
from hypothesis import strategies as st

from dsl_jax.evolution.image import SearchResult
from dsl_jax.targets import controls, reading
from dsl_jax.targets.controls import class_statistics
from dsl_jax.targets.decomposition import decompose
from dsl_jax.targets.reading import Naturals

KEY = jax.random.key(0)
LABELS = toy.LABELS.astype(np.int32)  # 0, 1, 2, three images each


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return toy.run(tmp_path_factory.mktemp("targets") / "store")


@pytest.fixture(scope="module")
def naturals():
    return Naturals(toy.STAGES, toy.IMAGES)


@pytest.fixture(scope="module")
def statistics(store, naturals):
    return class_statistics(store, naturals, LABELS, 3)


def natural_by_hand(image):
    """Both blocks of one image, one matrix product after another, normalised."""
    found, h = [], image.reshape(-1)
    for weights in toy.WEIGHTS[:2]:
        h = np.tanh(h @ weights)
        found.append((h - h.mean()) / np.sqrt(h.var() + 1e-5))
    return found


def unit(x):
    return x / np.linalg.norm(x)


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(0, 2**32 - 1))
def test_permuted_rows_are_others_of_the_class_each_once(labels, seed):
    labels = np.array(labels)
    rows = controls.permuted_rows(jax.random.key(seed), labels)
    assert sorted(rows) == list(range(len(labels)))
    assert (labels[rows] == labels).all()
    own = rows == np.arange(len(labels))
    assert (own == (np.bincount(labels)[labels] == 1)).all()


def test_permuted_moves_all_layers_of_an_image_together(store):
    control, whole = controls.permuted(KEY, store, LABELS), store.read()
    others = controls.permuted_rows(KEY, LABELS)
    rows = np.array([7, 0, 3])
    for got, before in zip(control.read(rows).representations, whole.representations, strict=True):
        np.testing.assert_array_equal(got, before[others[rows]])
    assert (control.ids == store.ids).all()


def test_natural_representations_are_those_of_the_clean_image_alone(naturals):
    for row in (0, 5):
        by_hand = natural_by_hand(toy.IMAGES[row])
        for ours, theirs in zip(naturals.read(np.array([row, 1])), by_hand, strict=True):
            np.testing.assert_allclose(ours[0].reshape(-1), theirs, rtol=1e-4, atol=1e-5)


def test_class_statistics_are_means_over_each_class(store, statistics):
    targets = [np.asarray(h, np.float64) for h in store.read().representations[:-1]]
    by_hand = [natural_by_hand(image) for image in toy.IMAGES]
    assert statistics.counts.tolist() == [3, 3, 3]
    for block, target in enumerate(targets):
        n = np.array([one[block] for one in by_hand]).reshape(target.shape)
        for label in range(3):
            own = label == LABELS
            mean, moved = statistics.means[block][label], statistics.displacements[block][label]
            np.testing.assert_allclose(mean, target[own].mean(0), atol=1e-5)
            np.testing.assert_allclose(moved, (target - n)[own].mean(0), atol=1e-5)
        each = [
            np.corrcoef(t.reshape(-1), m.reshape(-1))[0, 1] for t, m in zip(target, n, strict=True)
        ]
        assert statistics.cosines[block] == pytest.approx(np.mean(each), abs=1e-5)


def test_a_class_part_is_what_the_targets_of_a_class_share_besides_the_natural():
    naturals, labels = Naturals(toy.STAGES, toy.IMAGES[:4]), np.array([0, 1, 0, 1])
    natural, parts = naturals.read(np.arange(4)), []
    for n in natural:  # at right angles to all natural ones, of mean 0 and variance 1
        taken = np.linalg.qr(np.concatenate([np.ones((1, n[0].size)), n.reshape(4, -1)]).T)[0]
        drawn = np.random.default_rng(3).normal(size=(2, n[0].size))
        left = drawn - drawn @ taken @ taken.T
        parts.append((left / left.std(axis=1, keepdims=True)).reshape(2, *n.shape[1:]))
    blocks = [0.6 * n + 0.8 * part[labels] for n, part in zip(natural, parts, strict=True)]
    targets = SearchResult((*blocks, np.zeros((4, 3), np.float32)), ())
    found = class_statistics(targets, naturals, labels, 3)
    np.testing.assert_allclose(found.cosines, 0.6, atol=1e-4)
    for ours, theirs in zip(found.parts, parts, strict=True):
        np.testing.assert_allclose(ours[:2], 0.8 * theirs, atol=1e-3)
    again = controls.natural_plus(found.parts, found.cosines, targets, naturals, labels)
    for ours, theirs in zip(again.representations[:-1], blocks, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=3e-3)


def test_reading_in_parts_changes_nothing(store, naturals, statistics, monkeypatch):
    whole = controls.class_means(store, LABELS, statistics).read()
    monkeypatch.setattr(reading, "CHUNK", 2)
    again = class_statistics(store, naturals, LABELS, 3)
    for ours, theirs in zip(jax.tree.leaves(again), jax.tree.leaves(statistics), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    parts = controls.class_means(store, LABELS, statistics).read()
    jax.tree.map(np.testing.assert_array_equal, parts, whole)


def test_a_store_is_never_read_whole(store, naturals, statistics, monkeypatch):
    """A run's store may not fit the memory."""
    monkeypatch.setattr(reading, "CHUNK", 2)
    asked = []

    class Recorded:
        ids = store.ids

        def read(self, rows=None):
            asked.append(len(store.ids) if rows is None else len(rows))
            return store.read(rows)

    parts, few = Recorded(), np.array([5, 2])
    class_statistics(parts, naturals, LABELS, 3)
    controls.class_part_targets(toy.STAGES, parts, naturals, LABELS, 3)
    decompose(parts, naturals, LABELS, 3)
    for control in (
        controls.permuted(KEY, parts, LABELS),
        controls.class_means(parts, LABELS, statistics),
        controls.natural(parts, naturals),
        controls.natural_plus(statistics.parts, statistics.cosines, parts, naturals, LABELS),
        controls.with_blocks_of(parts, parts),
    ):
        control.read(few)
    assert asked and max(asked) == 2


def test_a_control_of_the_blocks_keeps_the_images_own_logits(store, naturals, statistics):
    logits = store.read().representations[-1]
    made = {
        "means": controls.class_means(store, LABELS, statistics),
        "natural": controls.natural(store, naturals),
        "displaced": controls.natural_plus(
            statistics.displacements, statistics.cosines, store, naturals, LABELS
        ),
    }
    for control in made.values():
        read = control.read().representations
        np.testing.assert_array_equal(read[-1], logits)
        assert [h.dtype for h in read] == ["float16", "float16", "float32"]
    blocks = made["means"].read().representations[0]
    np.testing.assert_array_equal(blocks[0], blocks[3])  # the same class
    assert np.abs(blocks[0] - blocks[1]).max() > 0.1


@pytest.mark.parametrize("value", [0.0, 0.2, 0.95, 1.0])
def test_moved_has_the_cosine_and_lies_between_its_two_parts(value):
    random = np.random.default_rng(0)
    natural, direction = random.normal(size=(2, 3, 3, 4)).astype(np.float32) * 5 + 1
    found = np.asarray(controls.moved(natural, direction, value), np.float64).reshape(-1)
    n, d = (unit((x - x.mean()).reshape(-1)) for x in (natural, direction))
    d = unit(d - (d @ n) * n)
    assert found.mean() == pytest.approx(0, abs=1e-5) and found.std() == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose(unit(found), value * n + np.sqrt(1 - value**2) * d, atol=1e-5)


def test_random_codes_are_of_class_block_and_channel_or_element():
    shapes = [(2, 2, 3), (6,)]
    by_channel, vector = controls.random_code(KEY, shapes, 4, "channel")
    assert by_channel.shape == (4, 2, 2, 3) and vector.shape == (4, 6)
    assert np.ptp(by_channel, axis=(1, 2)).max() == 0
    assert len(np.unique(by_channel[:, 0, 0])) == 12
    by_element = controls.random_code(KEY, shapes, 4, "element")[0]
    assert len(np.unique(by_element)) == 48
    with pytest.raises(ValueError, match="pixel"):
        controls.random_code(KEY, shapes, 4, "pixel")


def test_blocks_of_another_search_are_taken_with_these_logits(store, tmp_path):
    labels = controls.shuffled_labels(jax.random.key(3), LABELS)
    assert sorted(labels) == sorted(LABELS) and (labels != LABELS).any()
    other = toy.run(tmp_path / "shuffled", labels=labels)
    found = controls.with_blocks_of(other, store).read().representations
    for ours, theirs in zip(found[:-1], other.read().representations[:-1], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(found[-1], store.read().representations[-1])
    elsewhere = toy.run(tmp_path / "elsewhere", ids=np.arange(toy.NUM_IMAGES))
    with pytest.raises(ValueError, match="different images"):
        controls.with_blocks_of(elsewhere, store)


def test_a_search_result_serves_like_a_store(store, statistics):
    in_memory = SearchResult(*store.read())
    for make in (
        lambda targets: controls.permuted(KEY, targets, LABELS),
        lambda targets: controls.class_means(targets, LABELS, statistics),
        lambda targets: controls.with_blocks_of(targets, targets),
    ):
        ours = make(in_memory)
        assert isinstance(ours, SearchResult)  # has no ids, and so `learn` asks for none
        for got, expected in zip(
            ours.representations, make(store).read().representations, strict=True
        ):
            np.testing.assert_array_equal(got, expected)


def test_what_does_not_fit_is_named(store, naturals, statistics):
    with pytest.raises(ValueError, match="9 images have targets, but there are 8"):
        class_statistics(store, Naturals(toy.STAGES, toy.IMAGES[:8]), LABELS, 3)
    with pytest.raises(ValueError, match="labels go from 0 to 2"):
        class_statistics(store, naturals, LABELS, 2)
    with pytest.raises(ValueError, match="no rows are asked for"):
        naturals.read(np.arange(0))
    with pytest.raises(ValueError, match="2 directions but 1 cosines"):
        controls.natural_plus(statistics.displacements, [0.5], store, naturals, LABELS)
    with pytest.raises(ValueError, match=r"cosine 1\.5 is none"):
        controls.natural_plus(statistics.displacements, [0.5, 1.5], store, naturals, LABELS)


def test_what_is_of_another_kind_is_named(store, naturals):
    with pytest.raises(ValueError, match="images are uint8: normalise them first"):
        Naturals(toy.STAGES, np.uint8(toy.IMAGES)).read(np.arange(2))
    with pytest.raises(TypeError, match="stages are a ndarray: give a tuple of functions"):
        Naturals(toy.IMAGES, toy.IMAGES)
    with pytest.raises(TypeError, match=r"naturals are a ndarray: give dsl_jax\.controls\.Nat"):
        decompose(store, toy.IMAGES, LABELS, 3)
    with pytest.raises(ValueError, match="labels are float64: they must be integers"):
        controls.permuted(KEY, store, LABELS * 1.0)
    with pytest.raises(TypeError, match="targets are a str: give what search returns, a TargetS"):
        controls.permuted(KEY, "runs/mine", LABELS)
    for control in (
        lambda: controls.permuted(0, store, LABELS),
        lambda: controls.shuffled_labels(0, LABELS),
        lambda: controls.random_code(0, [(3,)], 3, "channel"),
    ):
        with pytest.raises(TypeError, match=r"the key is 0 \(int\): give one key"):
            control()


def test_targets_images_and_labels_must_be_as_many(store, statistics):
    few, directions = Naturals(toy.STAGES, toy.IMAGES[:5]), statistics.displacements
    for control in (
        lambda: controls.natural(store, few),
        lambda: controls.natural_plus(directions, statistics.cosines, store, few, LABELS),
        lambda: controls.permuted(KEY, store, LABELS[:5]),
        lambda: controls.class_means(store, LABELS[:5], statistics),
    ):
        with pytest.raises(ValueError, match=r"9 images|5 labels"):
            control()
