"""What targets are made of, against closed forms."""

import jax
import numpy as np
import pytest

from dsl_jax.evolution.image import SearchResult
from dsl_jax.targets.decomposition import decompose, shares_of, without_own
from dsl_jax.targets.reading import Naturals

SIDE, CLASSES = 16, 4
SIZE = SIDE * SIDE


def directions(count):
    """Orthonormal rows of mean 0."""
    random = np.random.default_rng(0).normal(size=(SIZE, count + 1))
    random[:, 0] = 1
    return np.linalg.qr(random)[0].T[1 : count + 1]


def made_of(natural, common, rest, counts):
    """A toy search: images that are their own natural representations, and targets of such parts.

    Every image has a natural and a rest orthogonal to all others; every class a direction.
    """
    labels = np.repeat(np.arange(CLASSES), counts)
    axes = directions(2 * len(labels) + CLASSES)
    n, r, d = np.split(axes, [len(labels), 2 * len(labels)])
    targets = natural * n + common * d[labels] + rest * r
    images = (np.sqrt(SIZE) * n).reshape(-1, SIDE, SIDE, 1).astype(np.float32)
    stages = (lambda x: x, lambda x: x.reshape(len(x), -1)[:, :CLASSES])
    blocks = (np.sqrt(SIZE) * targets).reshape(images.shape).astype(np.float32)
    result = SearchResult((blocks, np.eye(CLASSES, dtype=np.float32)[labels]), ())
    return result, Naturals(stages, images), labels


def test_shares_of_known_parts():
    n, d, r = directions(3)
    target = 0.6 * n + 0.3 * d + 0.74 * r
    size = 0.36 + 0.09 + 0.74**2
    # The displacement has some of the natural in it, which is taken away; means do not count.
    along, common = shares_of(target[None] + 4, 3 * n[None] + 7, (2 * d - 5 * n)[None] - 2)
    assert along[0] == pytest.approx(0.36 / size, abs=1e-5)
    assert common[0] == pytest.approx(0.09 / size, abs=1e-5)
    nothing = np.zeros((1, SIZE))
    assert [x[0] for x in shares_of(target[None], nothing, n[None])] == pytest.approx(
        [0, 0.36 / size], abs=1e-5
    )


def test_an_image_is_left_out_of_its_own_classs_displacement():
    values = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
    means = np.repeat(values.mean(axis=0, keepdims=True), 5, axis=0)
    for row, found in enumerate(without_own(means, values, np.full(5, 5))):
        np.testing.assert_allclose(found, np.delete(values, row, 0).mean(axis=0), atol=1e-6)
    assert not without_own(values[:1], values[:1], np.array([1])).any()


@pytest.mark.parametrize("counts", [[2, 2, 2, 2], [10, 3, 12, 5]])
def test_what_is_each_images_own_is_no_part_of_its_class(counts):
    (shares,) = decompose(*made_of(0.0, 0.0, 1.0, counts), CLASSES)
    # With itself in the mean, a pair would have half of it in common.
    assert shares.natural < 1e-4 and shares.class_displacement < 1e-3 and shares.rest > 0.99


def test_parts_are_found_again():
    counts = [12] * CLASSES
    natural, common, rest = 0.5, 0.6, np.sqrt(1 - 0.25 - 0.36)
    (shares,) = decompose(*made_of(natural, common, rest, counts), CLASSES)
    assert shares.natural == pytest.approx(0.25, abs=1e-3)
    assert shares.cosine == pytest.approx(0.5, abs=1e-3)
    # The mean of 11 others: the class's direction, and what they have of their own.
    others = 0.36 + ((natural - 1) ** 2 + rest**2) / 11
    assert shares.class_displacement == pytest.approx(0.36 * 0.36 / others, abs=1e-3)
    assert sum(shares[:3]) == pytest.approx(1)


def test_parts_read_apart_are_the_same(monkeypatch):
    made = made_of(0.5, 0.6, 0.6, [8] * CLASSES)
    (whole,) = decompose(*made, CLASSES)
    monkeypatch.setattr("dsl_jax.targets.reading.CHUNK", 5)
    (parts,) = decompose(*made, CLASSES)
    assert parts == pytest.approx(whole, abs=1e-6)


def test_a_class_of_one_image_has_nothing_in_common():
    result, naturals, labels = made_of(0.0, 1.0, 0.0, [1] * CLASSES)
    (shares,) = decompose(result, naturals, labels, CLASSES)
    assert shares.class_displacement == 0 and shares.rest > 0.99


def test_blocks_stand_in_order():
    result, _, labels = made_of(1.0, 0.0, 0.0, [6] * CLASSES)
    images = result.representations[0]
    rest = jax.random.normal(jax.random.key(0), images.shape)
    stages = (lambda x: x, lambda x: 2 * x + 1, lambda x: x.reshape(len(x), -1)[:, :CLASSES])
    both = SearchResult((images, np.asarray(rest), result.representations[1]), ())
    first, second = decompose(both, Naturals(stages, images), labels, CLASSES)
    assert first.natural > 0.99 and second.natural < 0.1
