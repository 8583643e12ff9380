"""The folder of a sweep: made, and refused where it holds something else."""

import json
from pathlib import Path

from dsl_jax.files import is_temporary, read_json, write_text


def prepare_folder(folder: Path, name: str) -> None:
    """Makes the folder, with the experiment's name in it. Raises as `make_folder`."""
    make_folder(folder, name)
    if read_json(folder / "sweep.json") is None:
        write_text(folder / "sweep.json", json.dumps({"experiment": name}))


def make_folder(folder: Path, name: str) -> None:
    """Makes the folder. Raises ValueError if that cannot be, or it holds something else."""
    theirs = read_json(folder / "sweep.json")
    if theirs is None:
        try:
            prepare_empty(folder)
        except ValueError:  # another process may have made it in between
            if (theirs := read_json(folder / "sweep.json")) is None:
                raise
    if theirs is not None and theirs["experiment"] != name:
        raise ValueError(f"{folder} holds a {theirs['experiment']}: choose another --output_dir")


def prepare_empty(folder: Path) -> None:
    """Makes a folder, or takes one with nothing in it. Raises ValueError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        is_empty = all(is_temporary(path) for path in folder.iterdir())  # another process's start
    except OSError as error:
        raise ValueError(
            f"cannot write the folder {folder} ({error.strerror}): choose --output_dir"
        ) from error
    if not is_empty:
        raise ValueError(f"{folder} is not empty and holds no sweep: choose --output_dir")
