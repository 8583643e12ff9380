"""What the programs share. Importing it makes up for what may be lacking where one is started."""

import importlib.util
import os
import sys


def _open_streams() -> None:
    """Started without an output or error stream (2>&-), what is written there goes nowhere."""
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            try:
                os.fstat(descriptor)
            except OSError:  # so that no file is opened in its place, to be written to by others
                os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))


def _drop_absent_backend() -> None:
    """A notebook hands its MPLBACKEND on, also to a Python that lacks it; matplotlib would stop."""
    module = os.environ.get("MPLBACKEND", "").removeprefix("module://")
    if module != os.environ.get("MPLBACKEND", "") and not _is_there(module):
        del os.environ["MPLBACKEND"]


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:  # not even the package that it is in
        return False


_open_streams()
_drop_absent_backend()
