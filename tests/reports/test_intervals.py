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


def test_one_seed_is_over_images_alone_and_equal_images_over_seeds_alone():
    ours, theirs = np.random.default_rng(2).random((2, 1, 50)) < 0.7
    assert of_paired_seeds_and_images(ours, theirs) == of_paired_images(ours[0], theirs[0])
    ours = np.repeat([[True], [False], [True]], 40, axis=1)
    theirs = np.zeros((3, 40), bool)
    expected = of_paired_seeds([1, 0, 1], [0, 0, 0])
    np.testing.assert_allclose(of_paired_seeds_and_images(ours, theirs), expected)


def test_text_has_the_interval_if_there_is_one():
    assert in_percent(Interval(0.9885, 0.9862, 0.9904)) == "98.85 (98.62 to 99.04)"
    assert in_percent(Interval(0.001, np.nan, np.nan), sign=True) == "+0.10"
