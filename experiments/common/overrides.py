"""Fields of a configuration set by name, as the command lines do it."""

import ast
import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Iterable
from typing import Any, NamedTuple

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
    given = [
        _Assignment(re.findall(r"\[\d+\]|[^.\[\]]+", path), text, f"{name}.{path}")
        for path, text in sorted(assignments.items())  # a later cycle copies the one before it
    ]
    return _assign(config, given)


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


def refuse_fields(options: dict[str, dict[str, str]], where: str, *fields: str) -> None:
    """Raises ValueError for a field of an option that a sweep sets itself."""
    for name, assignments in options.items():
        for path in assignments:
            if is_of(path, fields):
                raise ValueError(f"{where}: {path} of {name} has no effect here: the sweep sets it")


def is_of(path: str, fields: Iterable[str]) -> bool:
    """Whether a path such as search.layers[0].generations is one of the fields, or part of one."""
    return any(path == field or path.startswith((f"{field}.", f"{field}[")) for field in fields)


def parse_assignments(pairs: str, where: str) -> dict[str, str]:
    """From "FIELD=VALUE;FIELD=VALUE" the values by field. Raises as `parse_options`."""
    parts = [pair.partition("=") for pair in pairs.split(";")]
    if not all(equals for _, equals, _ in parts):
        raise ValueError(f"{where}: {pairs!r} should read FIELD=VALUE;FIELD=VALUE")
    values = {field: value for field, _, value in parts}
    if len(values) < len(parts):
        raise ValueError(f"{where}: {pairs!r} has a field twice")
    return values


class _Assignment(NamedTuple):
    """The rest of a path, the value as text, and the whole path for errors."""

    parts: list[str]
    text: str
    path: str


def _assign(config: Any, given: list[_Assignment], kind: Any = None) -> Any:
    """`config` with all that is given set in it; fields of a dataclass at once, as they may only
    fit together. kind: how it is annotated where it is a field."""
    below: dict[str, list[_Assignment]] = {}
    for parts, text, path in given:
        if parts:
            below.setdefault(parts[0], []).append(_Assignment(parts[1:], text, path))
        else:
            config = _parse(config, text, path, kind)
    changes = {}
    for head, rest in below.items():
        path = rest[0].path
        if head.startswith("["):
            config = _with_element(config, int(head[1:-1]), rest)
            continue
        kinds = {f.name: f.type for f in dataclasses.fields(config)} if _is_config(config) else {}
        if head not in kinds:
            near = difflib.get_close_matches(head, kinds, n=1)
            hint = (
                f"did you mean {near[0]}?" if near else f"there are: {', '.join(kinds) or 'none'}"
            )
            raise ValueError(f"{path}: no field {head!r}; {hint}")
        changes[head] = _assign(getattr(config, head), rest, kinds[head])
    return dataclasses.replace(config, **changes) if changes else config


def _with_element(config: Any, index: int, given: list[_Assignment]) -> tuple[Any, ...]:
    """A tuple with what is given set in one of its elements."""
    path = given[0].path
    if not isinstance(config, tuple):
        raise ValueError(f"{path}: [{index}] is of what has no elements")
    if config and index == len(config) and isinstance(config[-1], CycleConfig):
        config = (*config, config[-1])  # a further cycle is like the last, but for this
    if index >= len(config):
        raise ValueError(f"{path}: there is no element [{index}]; there are {len(config)}")
    return (*config[:index], _assign(config[index], given), *config[index + 1 :])


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
