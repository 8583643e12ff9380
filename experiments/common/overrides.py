"""Fields of a configuration set by name, as the command lines do it."""

import ast
import dataclasses
import difflib
import re
import types
import typing
from typing import Any

from dsl_jax.config import CycleConfig


def override(config: Any, assignments: dict[str, str], name: str = "config") -> Any:
    """A copy of `config` with fields set by name.

    Args:
      config: a config dataclass.
      assignments: from a path, such as "search.num_parents" or "search.layers[0].generations",
        to the value as text: a Python literal, or a bare word for a string.
      name: what errors call the config.

    Raises:
      ValueError: no such field (the nearest one is suggested), or a value of the wrong type.
    """
    for path, text in sorted(assignments.items()):  # a later cycle copies the one before it
        parts = re.findall(r"\[\d+\]|[^.\[\]]+", path)
        config = _assign(config, parts, text, f"{name}.{path}")
    return config


def parse_options(text: str, where: str) -> dict[str, dict[str, str]]:
    """Named sets of assignments, such as "weak:search.num_parents=5;cycles=2|strong:...".

    Raises:
      ValueError: it does not read so; `where` is what it was given as.
    """
    options = {}
    for part in filter(None, text.split("|")):
        name, _, pairs = part.partition(":")
        if not re.fullmatch(r"[\w.-]+", name) or not all("=" in p for p in pairs.split(";")):
            raise ValueError(f"{where}: {part!r} should read NAME:FIELD=VALUE;FIELD=VALUE")
        if name in options:
            raise ValueError(f"{where}: {name} is there twice; give its fields together")
        options[name] = parse_assignments(pairs, where)
    return options


def parse_assignments(pairs: str, where: str) -> dict[str, str]:
    """From "FIELD=VALUE;FIELD=VALUE" the values by field. Raises as `parse_options`."""
    parts = [pair.partition("=") for pair in pairs.split(";")]
    if not all(equals for _, equals, _ in parts):
        raise ValueError(f"{where}: {pairs!r} should read FIELD=VALUE;FIELD=VALUE")
    return {field: value for field, _, value in parts}


def _assign(config: Any, parts: list[str], text: str, path: str, kind: Any = None) -> Any:
    """`config` with the rest of a path set in it. kind: how it is annotated where it is a field."""
    if not parts:
        return _parse(config, text, path, kind)
    head, rest = parts[0], parts[1:]
    if head.startswith("["):
        index = int(head[1:-1])
        if not isinstance(config, tuple):
            raise ValueError(f"{path}: {head} is of what has no elements")
        if config and index == len(config) and isinstance(config[-1], CycleConfig):
            config = (*config, config[-1])  # a further cycle is like the last, but for this
        if index >= len(config):
            raise ValueError(f"{path}: there is no element {head}; there are {len(config)}")
        return (*config[:index], _assign(config[index], rest, text, path), *config[index + 1 :])
    kinds = {f.name: f.type for f in dataclasses.fields(config)} if _is_config(config) else {}
    if head not in kinds:
        near = difflib.get_close_matches(head, kinds, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(kinds) or 'none'}"
        raise ValueError(f"{path}: no field {head!r}; {hint}")
    value = _assign(getattr(config, head), rest, text, path, kinds[head])
    return dataclasses.replace(config, **{head: value})


def _is_config(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _parse(old: Any, text: str, path: str, kind: Any) -> Any:
    """What `text` means, where a value like `old` is expected, or one of the kind X | None."""
    try:
        new = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        new = {"true": True, "false": False}.get(text.lower(), text)
    if isinstance(new, list):
        new = tuple(new)
    if isinstance(old, tuple) and isinstance(new, str):  # words, separated by commas
        new = tuple(new.split(","))
    if isinstance(old, tuple) and isinstance(new, int | float):  # one of them
        new = (new,)
    expected = typing.get_args(kind) if isinstance(kind, types.UnionType) else (type(old),)
    if expected[0] is float and type(new) is int:
        new = float(new)
    if isinstance(old, tuple) and isinstance(new, tuple):
        of = type(old[0]) if old else (typing.get_args(kind) or (None,))[0]
        if of is float:
            new = tuple(float(x) if type(x) is int else x for x in new)
        if isinstance(of, type) and any(type(element) is not of for element in new):
            such = f"such as {old[0]!r}" if old else f"of the type {of.__name__}"
            raise ValueError(f"{path}={text}: expected elements {such}")
    if type(new) not in expected:
        raise ValueError(
            f"{path}={text}: expected {expected[0].__name__}, such as {old!r}, "
            f"got {type(new).__name__}"
        )
    return new
