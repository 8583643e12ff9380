"""How sure an accuracy is: intervals over test images, and over seeds.

Letters: N test images, S seeds. All intervals have 95 %.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A number and where it lies, all as fractions or in one unit."""

    value: float
    low: float
    high: float

    @property
    def excludes_0(self) -> bool:
        """Whether 0 lies outside."""
        return self.low > 0 or self.high < 0


def of_accuracy(accuracy: float, num_images: int) -> Interval:
    """Wilson's interval of an accuracy over other test images of the same kind.

    Args:
      accuracy: share of right predictions, a fraction.
      num_images: N, at least 1.
    """
    test = stats.binomtest(round(accuracy * num_images), num_images)
    low, high = test.proportion_ci(CONFIDENCE, method="wilson")
    return Interval(accuracy, low, high)


def of_paired_images(ours: np.ndarray, theirs: np.ndarray) -> Interval:
    """Difference of two networks' accuracies on the same images: over other images of the kind.

    Args:
      ours, theirs: bool [N], whether a prediction is right.
    """
    differences = np.subtract(ours, theirs, dtype=np.float64)
    half = stats.norm.ppf((1 + CONFIDENCE) / 2) * differences.std() / len(differences) ** 0.5
    return Interval(differences.mean(), differences.mean() - half, differences.mean() + half)


def of_paired_seeds(ours: Sequence[float], theirs: Sequence[float]) -> Interval:
    """Student's t of the mean difference of values [S] of paired seeds; NaN for a single pair."""
    differences = np.subtract(ours, theirs)
    mean = float(differences.mean())
    if len(differences) < 2:
        return Interval(mean, np.nan, np.nan)
    half = stats.t.ppf((1 + CONFIDENCE) / 2, len(differences) - 1) * stats.sem(differences)
    return Interval(mean, mean - half, mean + half)


def of_paired_seeds_and_images(ours: np.ndarray, theirs: np.ndarray) -> Interval:
    """Difference of two methods' accuracies: over other seeds and other images of the kind.

    Seeds and images are crossed random effects; the variance of the mean has a part of each, and
    Student's t the degrees of freedom of Satterthwaite. With one seed `of_paired_images`. With two,
    whose effect may look small by chance, the wider of this and `of_paired_seeds`.

    Args:
      ours, theirs: bool [S, N], whether a prediction is right; or differences of such, of -1 to 1.
    """
    differences = np.subtract(ours, theirs, dtype=np.float64)
    seeds, images = differences.shape
    if seeds == 1:
        return of_paired_images(ours[0], theirs[0])
    mean = differences.mean()
    by_seed = differences.mean(axis=1, keepdims=True)
    by_image = differences.mean(axis=0, keepdims=True)
    rest = differences - by_seed - by_image + mean
    free = np.array([seeds - 1, images - 1, (seeds - 1) * (images - 1)])
    squares = (  # mean squares of seeds, images, and what is left
        np.array(
            [
                images * np.sum((by_seed - mean) ** 2),
                seeds * np.sum((by_image - mean) ** 2),
                np.sum(rest**2),
            ]
        )
        / free
    )
    variance = squares @ [1, 1, -1]
    if variance <= squares[:2].max():  # one of the effects is not there: the larger alone
        part = int(squares[1] > squares[0])
        variance, freedom = squares[part], free[part]
    else:
        freedom = variance**2 / np.sum(squares**2 / free)
    half = stats.t.ppf((1 + CONFIDENCE) / 2, freedom) * (variance / differences.size) ** 0.5
    if seeds == 2:
        alone = of_paired_seeds(ours.mean(axis=1), theirs.mean(axis=1))
        half = max(half, alone.high - alone.value)
    return Interval(float(mean), float(mean - half), float(mean + half))


def in_percent(interval: Interval, sign: bool = False) -> str:
    """In percent or points, such as "98.85 (98.62 to 99.04)"; without an interval the number."""
    form = "+.2f" if sign else ".2f"
    value, low, high = (format(100 * x, form) for x in interval)
    return value if np.isnan(interval.low) else f"{value} ({low} to {high})"
