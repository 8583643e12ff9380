"""How results look in a notebook: dtypes and shapes, where all numbers would fill pages."""

from typing import Any


def short_repr(value: Any, **parts: Any) -> str:
    """The class's name and its parts."""
    named = "; ".join(f"{name}: {_in_short(part)}" for name, part in parts.items())
    return f"{type(value).__name__}({named})"


def _in_short(part: Any) -> str:
    if hasattr(part, "dtype") and hasattr(part, "shape"):
        return f"{part.dtype}{list(part.shape)}"
    if type(part) in (tuple, list):
        return ", ".join(map(_in_short, part))
    return repr(part)
