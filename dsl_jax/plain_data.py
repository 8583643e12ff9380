"""Plain data, as JSON holds it: made of arrays, and in what two pieces of it differ."""

from typing import Any

import jax


def plain(values: Any) -> Any:
    """The same dicts, lists and tuples, their arrays as numbers and lists, which JSON can hold."""
    return jax.tree.map(lambda x: x.tolist() if hasattr(x, "tolist") else x, values)


def differences(ours: Any, theirs: Any, path: str = "") -> list[str]:
    """The fields in which nested dicts and lists differ, a line each."""
    if isinstance(ours, (list, tuple)) and isinstance(theirs, (list, tuple)):
        if len(ours) != len(theirs):
            there, here = (
                f"{len(x)} elements" if any(isinstance(e, dict) for e in x) else repr(list(x))
                for x in (theirs, ours)
            )
            return [f"{path}: {there} there, {here} here"]
        ours, theirs = dict(enumerate(ours)), dict(enumerate(theirs))
    if isinstance(ours, dict) and isinstance(theirs, dict):
        lines = []
        for name in sorted(ours.keys() | theirs.keys(), key=str):
            inner = f"{path}[{name}]" if isinstance(name, int) else f"{path}.{name}".lstrip(".")
            lines += differences(ours.get(name), theirs.get(name), inner)
        return lines
    return [] if ours == theirs else [f"{path}: {theirs!r} there, {ours!r} here"]
