"""Files written whole or not at all: a reader, or a run that is killed, never meets half of one."""

import contextlib
import json
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import jax


def read_json(path: Path) -> Any:
    """The contents of a JSON file, or None where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def write_json(path: Path, values: Any) -> None:
    """`write_text` of a JSON file."""
    write_text(path, json.dumps(values, indent=2))


def plain(values: Any) -> Any:
    """The same dicts, lists and tuples, their arrays as numbers and lists, which JSON can hold."""
    return jax.tree.map(lambda x: x.tolist() if hasattr(x, "tolist") else x, values)


def write_text(path: Path, text: str) -> None:
    """Writes a file in UTF-8, whole or not at all; makes its folder. Raises OSError."""
    with replacing(path) as file:
        file.write(text.encode())


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write bytes to, which takes the place of `path` if the block ends without error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        with open(temporary, "xb") as file:
            yield file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_name(path: Path) -> Path:
    """A name beside `path` that no other process uses."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}")


def is_temporary(path: Path) -> bool:
    """Whether a file is one that is being written, or was when its process was killed."""
    return re.fullmatch(r"\..+\.[0-9a-f]{32}", path.name) is not None


def cache_dir() -> Path:
    """Where decoded images and compiled programs are kept: $DSL_JAX_CACHE, or the user's cache."""
    if folder := os.environ.get("DSL_JAX_CACHE"):
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "dsl_jax"
