"""One process at a time: what two must not do at once in a run's folder."""

import contextlib
import errno
import fcntl
import logging
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from dsl_jax.files import make_folder, writing

LOCK = ".lock"

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def alone(folder: Path, doing: str) -> Iterator[None]:
    """Waits until no other process is in such a block for this folder, and keeps others out.

    The system ends it with the process, however that ends; the file that it uses stays. On a file
    system that has no locks nothing is kept out, with a warning.

    Args:
      folder: made if it is not there.
      doing: what the other process does then, for who waits.
    """
    path = make_folder(folder) / LOCK
    with writing(path):
        path.touch()
    with contextlib.ExitStack() as files:
        other = path.read_text(errors="replace").strip() or "another process"
        try:
            _wait(files, path, f"{folder}: waiting for {other}, which {doing}")
        except OSError as error:
            logger.warning(
                "%s cannot be locked (%s): see that no other process %s", folder, error, doing
            )
        with writing(path):
            path.write_text(f"process {os.getpid()} on {platform.node()}\n")
        yield


@contextlib.contextmanager
def if_free(path: Path) -> Iterator[bool]:
    """Whether no other process is in such a block for this file; then others are kept out of it.

    Nobody waits. The system ends it with the process, and the file stays, as with `alone`; on a
    file system that has no locks all are let in, with a warning.

    Args:
      path: made if it is not there, with its folder.
    """
    make_folder(path.parent)
    with writing(path):
        path.touch()
    with contextlib.ExitStack() as files:
        try:
            _lock(files, path, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError as error:
            logger.warning("%s cannot be locked (%s): run one process at a time", path, error)
        yield True


def _wait(files: contextlib.ExitStack, path: Path, notice: str) -> None:
    try:
        _lock(files, path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        logger.warning(notice)
        _lock(files, path, fcntl.LOCK_EX)


def _lock(files: contextlib.ExitStack, path: Path, operation: int) -> None:
    """Locks a file until `files` are closed.

    NFS locks only what is open for writing. Elsewhere it is opened for reading, as what is open for
    writing keeps a disk from being made read-only.
    """
    for mode in (os.O_RDONLY, os.O_RDWR):
        descriptor = os.open(path, mode)
        files.callback(os.close, descriptor)
        try:
            fcntl.flock(descriptor, operation)
        except OSError as error:
            if error.errno != errno.EBADF or mode == os.O_RDWR:
                raise
        else:
            return
