"""Intervals against their closed forms and by simulation."""

import numpy as np
import pytest
from scipy import stats

from dsl_jax.reports.intervals import (
    Interval,
    in_percent,
    of_accuracy,
    of_paired_images,
    of_paired_seeds,
    of_paired_seeds_and_images,
)


def test_an_accuracys_interval_is_wilsons():
    z, n, p = stats.norm.ppf(0.975), 1000, 0.97
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    np.testing.assert_allclose(of_accuracy(p, n), (p, centre - half, centre + half))
    assert of_accuracy(1.0, 50).high == 1 and of_accuracy(1.0, 50).low < 0.95


def test_paired_images_cover_the_true_difference_as_often_as_said():
    random = np.random.default_rng(0)
    covered = []
    for _ in range(400):
        hard = random.random(300) < 0.3  # both fail together: pairing matters
        ours = np.where(hard, random.random(300) < 0.4, True)
        theirs = np.where(hard, random.random(300) < 0.5, True)
        interval = of_paired_images(ours, theirs)
        covered.append(interval.low <= 0.3 * (0.4 - 0.5) <= interval.high)
    assert 0.92 < np.mean(covered) < 0.98


def test_paired_seeds_have_students_t():
    ours, theirs = [0.9, 0.92, 0.91], [0.88, 0.89, 0.91]
    expected = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    np.testing.assert_allclose(of_paired_seeds(ours, theirs)[1:], expected)
    assert np.isnan(of_paired_seeds([0.9], [0.8])[1:]).all()


@pytest.mark.parametrize(("of_seeds", "of_images"), [(0.04, 0.0), (0.0, 0.2), (0.02, 0.2)])
def test_crossed_seeds_and_images_cover_the_true_difference(of_seeds, of_images):
    random = np.random.default_rng(1)
    covered = []
    for _ in range(400):
        chance = 0.6 + of_seeds * random.normal(size=(4, 1)) + of_images * random.normal(size=200)
        ours, theirs = random.random((2, 4, 200)) < np.stack([chance, np.full((4, 200), 0.6)])
        interval = of_paired_seeds_and_images(ours, theirs)
        covered.append(interval.low <= 0 <= interval.high)
    assert 0.92 < np.mean(covered) <= 0.99


def test_three_seeds_that_differ_much_are_covered_a_little_less_often_than_said():
    """As docs/what_targets_carry.md says of its intervals."""
    random = np.random.default_rng(1)
    covered = []
    for _ in range(4000):
        chance = 0.6 + 0.06 * random.normal(size=(3, 1)) + 0.1 * random.normal(size=200)
        ours, theirs = random.random((2, 3, 200)) < np.stack([chance, np.full((3, 200), 0.6)])
        interval = of_paired_seeds_and_images(ours, theirs)
        covered.append(interval.low <= 0 <= interval.high)
    assert np.mean(covered) == pytest.approx(0.93, abs=0.005)


def test_one_seed_is_over_images_alone_and_equal_images_over_seeds_alone():
    ours, theirs = np.random.default_rng(2).random((2, 1, 50)) < 0.7
    assert of_paired_seeds_and_images(ours, theirs) == of_paired_images(ours[0], theirs[0])
    ours = np.repeat([[True], [False], [True]], 40, axis=1)
    theirs = np.zeros((3, 40), bool)
    expected = of_paired_seeds([1, 0, 1], [0, 0, 0])
    np.testing.assert_allclose(of_paired_seeds_and_images(ours, theirs), expected)


def of_totals(differences):
    """The two-way interval from totals of rows, columns and squares, as books have it."""
    s, n = differences.shape
    correction = differences.sum() ** 2 / (s * n)
    seeds = (differences.sum(1) ** 2).sum() / n - correction
    images = (differences.sum(0) ** 2).sum() / s - correction
    rest = (differences**2).sum() - correction - seeds - images
    squares = [seeds / (s - 1), images / (n - 1), rest / ((s - 1) * (n - 1))]
    of_mean = squares[0] + squares[1] - squares[2]
    freedom = of_mean**2 / (
        squares[0] ** 2 / (s - 1)
        + squares[1] ** 2 / (n - 1)
        + squares[2] ** 2 / ((s - 1) * (n - 1))
    )
    return squares, stats.t.ppf(0.975, freedom) * np.sqrt(of_mean / (s * n))


def test_seeds_and_images_are_the_two_way_analysis_of_variance():
    ours = np.array(["1111110000", "1110000000", "1111111110"], dtype="S10")
    ours = np.array([[letter == ord("1") for letter in row] for row in ours.tolist()])
    theirs = np.zeros((3, 10), bool)
    theirs[1, 9] = theirs[2, 0] = True
    (seeds, images, rest), half = of_totals(np.subtract(ours, theirs, dtype=float))
    assert seeds > rest and images > rest  # both effects are there
    interval = of_paired_seeds_and_images(ours, theirs)
    np.testing.assert_allclose(interval, (16 / 30, 16 / 30 - half, 16 / 30 + half))
    # Pairs of seeds belong together.
    assert of_paired_seeds_and_images(ours, theirs[::-1]) != pytest.approx(interval)


def test_an_effect_that_is_not_there_leaves_the_other_alone():
    images = np.arange(200) % 4 == 0  # the same in every seed: no seed differs from another
    ours, theirs = np.tile(images, (3, 1)), np.zeros((3, 200), bool)
    half = stats.t.ppf(0.975, 199) * images.std(ddof=1) / 200**0.5
    found = of_paired_seeds_and_images(ours, theirs)
    np.testing.assert_allclose(found, (0.25, 0.25 - half, 0.25 + half))


def test_two_seeds_have_at_least_the_interval_over_seeds():
    random = np.random.default_rng(3)
    covered = []
    for _ in range(400):
        chance = 0.6 + 0.03 * random.normal(size=(2, 1))
        ours, theirs = random.random((2, 2, 500)) < np.stack([chance, np.full((2, 1), 0.6)])
        interval = of_paired_seeds_and_images(ours, theirs)
        assert interval.high > of_paired_seeds(ours.mean(1), theirs.mean(1)).high - 1e-9
        covered.append(interval.low <= 0 <= interval.high)
    assert np.mean(covered) > 0.94


def test_text_has_the_interval_if_there_is_one():
    assert in_percent(Interval(0.9885, 0.9862, 0.9904)) == "98.85 (98.62 to 99.04)"
    assert in_percent(Interval(0.001, np.nan, np.nan), sign=True) == "+0.10"
