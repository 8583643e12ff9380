"""What searched targets carry, for a report: a table, a picture, a sentence."""

from collections.abc import Sequence

import numpy as np

from dsl_jax.reports.pages import Table
from dsl_jax.targets.decomposition import Shares

HEADER = ("targets of", "natural", "class", "rest", "cosine to natural")


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
        "the searched network; along what the targets of the other images of its class have in "
        f"common; the rest, {rest:.0%} on average, which is this image's own. A network can only "
        "learn of the rest what can be told from the image; --controls=permuted trains on targets "
        "whose rest belongs to another image of the class."
    )
    return Table("What the targets carry", HEADER, lines, text)
