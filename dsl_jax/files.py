"""Files written whole or not at all: a reader, or a run that is killed, never meets half of one.

What is written is on the disk before it takes its name, so that a power cut leaves no empty file.
A file of JSON holds a checksum of its own contents, so that a changed byte is noticed.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np

T = TypeVar("T")


class DiskFault(OSError):
    """A disk that is full, read-only, or cannot be written for another reason."""


class DamagedFile(ValueError):
    """A file that is empty, cut short, or else not what was written."""

    def __init__(self, path: Path, reason: Any, remedy: str):
        super().__init__(f"{path} is damaged ({reason}): {remedy}")


def read_json(path: Path, remedy: str = "restore it from a copy") -> Any:
    """The contents of a JSON file, without its checksum, or None where there is none.

    Raises:
      DamagedFile: it is empty, no JSON, or not what was written; the message says so, and the
        remedy.
    """
    if not path.exists():
        return None
    try:
        return unsealed(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:  # JSONDecodeError, UnicodeDecodeError
        reason = error if path.stat().st_size else "it is empty"
        raise DamagedFile(path, reason, remedy) from error


def read_as(path: Path, make: Callable[[Any], T], remedy: str) -> T | None:
    """What `make` makes of the contents of a JSON file, or None if it is not there.

    Raises:
      DamagedFile: it cannot make it of these.
    """
    if (values := read_json(path, remedy)) is None:
        return None
    try:
        return make(values)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise DamagedFile(path, error, remedy) from error


def write_json(path: Path, values: dict[str, Any], only_new: bool = False) -> None:
    """Writes a JSON file, with a checksum; for `only_new` see `replacing`."""
    with replacing(path, only_new) as file:
        file.write(json.dumps(sealed(values), indent=2).encode())


class Arrays(dict[str, np.ndarray]):
    """The arrays of a file by name. Raises DamagedFile for a name that it does not have."""

    def __init__(self, arrays: Mapping[str, np.ndarray], path: Path, remedy: str):
        super().__init__(arrays)
        self._path, self._remedy = path, remedy

    def __missing__(self, name: str) -> np.ndarray:
        raise DamagedFile(self._path, f"it has no {name!r}", self._remedy)


def read_arrays(path: Path, remedy: str) -> Arrays:
    """The arrays of a NumPy archive (.npz) by name.

    Raises:
      DamagedFile: it is not there, or not as it was written.
      OSError, MemoryError: the system does not let it be read; it may be whole.
    """
    try:
        # A zip file, with a checksum; opened here, as NumPy leaves a damaged one open.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return Arrays(arrays, path, remedy)
    except Exception as error:  # of what is damaged, NumPy and zipfile raise anything
        if not is_of_the_file(error):
            raise
        raise DamagedFile(path, error, remedy) from error


def is_of_the_file(error: Exception) -> bool:
    """Whether a file that cannot be read is to blame, and not the system, which may read it later:
    a disk or network that fails, a permission, too many files that are open, too little memory."""
    if isinstance(error, OSError):
        # EINVAL: what a damaged zip file says of its length leads to a place before its start.
        of_it = (None, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL)
        return error.errno in of_it
    return not isinstance(error, MemoryError)


def sealed(values: dict[str, Any]) -> dict[str, Any]:
    """What JSON can hold, and its checksum."""
    return values | {"checksum": _checksum(values)}


def unsealed(values: Any) -> Any:
    """What was given to `sealed`. Raises ValueError if it is not; without a checksum it may be."""
    if not isinstance(values, dict) or "checksum" not in values:
        return values
    contents = {name: value for name, value in values.items() if name != "checksum"}
    if values["checksum"] != _checksum(contents):
        raise ValueError(
            "its checksum differs; if you changed it yourself, delete the line of the checksum"
        )
    return contents


def _checksum(values: dict[str, Any]) -> str:
    as_read = json.loads(json.dumps(values))
    return hashlib.sha256(json.dumps(as_read, sort_keys=True).encode()).hexdigest()[:16]


def write_text(path: Path, text: str) -> None:
    """Writes a file in UTF-8, whole or not at all; makes its folder. Raises OSError."""
    with replacing(path) as file:
        file.write(text.encode())


@contextlib.contextmanager
def replacing(path: Path, only_new: bool = False) -> Iterator[IO[bytes]]:
    """A file to write bytes to, which takes the place of `path` if the block ends without error.

    only_new: unless something is there by then, which another process may have written.
    """
    temporary = temporary_name(path)
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if only_new:
                _take_free_name(temporary, path)
            else:
                os.replace(temporary, path)
            _sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):  # on a disk that turned read-only it stays
            temporary.unlink(missing_ok=True)


_DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


@contextlib.contextmanager
def writing(path: Any) -> Iterator[None]:
    """Raises DiskFault, which names `path`, in place of what a library says of a disk's fault."""
    try:
        yield
    except DiskFault:
        raise
    except Exception as error:
        if (fault := _disk_fault(error)) is None:
            raise
        raise DiskFault(
            fault,
            f"cannot write {path}: {os.strerror(fault)}. What was written before is kept, and the "
            "same command goes on when this is mended",
        ) from error


def _disk_fault(error: BaseException | None) -> int | None:
    """The number of a fault of the disk, in an error or in one that led to it."""
    while error is not None:
        number = getattr(error, "errno", None)
        if found := re.search(r"os_error_code='(\d+)'", str(error)):  # tensorstore's
            number = int(found[1])
        if number in _DISK_FAULTS:
            return number
        error = error.__cause__ or error.__context__
    return None


def _take_free_name(temporary: Path, path: Path) -> None:
    """Gives a file its name, unless that is taken."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise
        if not path.exists():  # a file system without links, where two may still be too close
            os.replace(temporary, path)


def _sync_folder(folder: Path) -> None:
    """Puts the names of a folder's files on the disk, where the system can."""
    with contextlib.suppress(OSError):  # some file systems refuse, and Windows opens no folder
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def make_folder(folder: Path) -> Path:
    """Makes a folder, and those above it, if it is not there; gives it back.

    Raises:
      ValueError: a file is in its place, or in that of one above it.
      OSError: it cannot be made.
    """
    refuse_file(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def refuse_file(folder: Path) -> None:
    """Raises ValueError where a file is in a folder's place, or in that of one above it."""
    for path in (folder, *folder.parents):
        if path.exists():
            if not path.is_dir():
                raise ValueError(f"{path} is a file, where a folder should be: move it away")
            return


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
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "dsl_jax"
