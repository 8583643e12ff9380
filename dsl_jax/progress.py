"""The one progress bar: rate and time left, on the error stream."""

import sys
from typing import Any


def progress_bar(total: int, *, unit: str, description: str, show: bool, done: int = 0) -> Any:
    """A tqdm bar; where the output is not a terminal, a line every ten seconds at most."""
    from tqdm import tqdm

    return tqdm(
        total=total,
        initial=done,
        unit=unit,
        desc=description,
        disable=not show,
        dynamic_ncols=True,
        mininterval=0.2 if sys.stderr.isatty() else 10,
    )
