"""What a run would refuse, found out without running it, by the same code: for --dry_run."""

import contextlib
from collections.abc import Callable
from pathlib import Path

from common.command_line import DATA_DIR
from dsl_jax.data.load import foresee


def try_folder(folder: Path, prepare: Callable[[Path], None]) -> None:
    """Prepares a folder, and takes away again what was not there. Raises what `prepare` does."""
    new = absent(folder)
    try:
        prepare(folder)
    finally:
        take_away(new)


def absent(folder: Path) -> list[Path]:
    """Of a folder and those above it the ones that are not there, the innermost first."""
    return [path for path in (folder, *folder.parents) if not path.exists()]


def take_away(folders: list[Path]) -> None:
    """Removes folders, the innermost first, as far as they are there and empty."""
    for path in folders:
        with contextlib.suppress(OSError):  # not made, or another process has begun in it
            path.rmdir()


def check_data(name: str, preset: str) -> None:
    """Raises ValueError for a dataset that cannot be had, as loading it would."""
    if (refusal := foresee(name, preset, DATA_DIR.value).refusal) is not None:
        raise refusal
