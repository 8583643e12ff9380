"""What searched targets carry, for a report: a table, a picture, a sentence."""

from collections.abc import Sequence

import numpy as np

from dsl_jax.reports.pages import Table
from dsl_jax.targets.decomposition import Shares

HEADER = ("targets of", "natural", "class displacement", "neither", "cosine to natural")


def carried_table(shares: Sequence[Shares]) -> Table:
    """A line a block, and what it means."""
    lines = tuple(
        (
            f"block {number}",
            f"{one.natural:.1%}",
            f"{one.class_displacement:.1%}",
            f"{one.rest:.1%}",
            f"{one.cosine:.2f}",
        )
        for number, one in enumerate(shares)
    )
    rest = np.mean([one.rest for one in shares])
    text = (
        "Shares of the variance of a searched target: along its image's natural representation in "
        "the searched network; along its class's mean displacement, searched minus natural, of the "
        f"other images of the class; and neither, {rest:.0%} on average. With few images a class "
        "the second share is too low, and the third too high; with many, too, some of what a class "
        "has in common counts as neither. What is an image's own helps only as "
        "far as it can be told from the image; the control called permuted trains on the targets "
        "of another image of the class."
    )
    return Table("What the targets carry", HEADER, lines, text)
