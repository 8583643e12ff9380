"""Checks of single values: each names the value, and says what would be right."""

import dataclasses
import math
import operator
import types
import typing
from collections.abc import Iterable
from typing import Any

import numpy as np

LARGEST = 2**32  # what counters and random keys can tell apart


def one_of(what: str, value: Any, allowed: tuple) -> None:
    """Raises ValueError, with the list, for a value that is not allowed."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{what} {value!r} is unknown: choose one of {', '.join(allowed)}")


def instance_of(cls: type, what: str, value: Any) -> None:
    """Raises TypeError for a value that is no instance of one of our classes."""
    if not isinstance(value, cls):
        raise TypeError(f"the {what} is a {type(value).__name__}: give a dsl_jax.{cls.__name__}")


def whole_number(what: str, value: Any) -> int:
    """The value as a plain integer. Raises TypeError if it is none."""
    try:
        return operator.index(value)
    except TypeError as error:
        raise TypeError(f"{what} is {value!r}: it must be an integer") from error


def at_least(minimum: float, config: Any, *names: str) -> None:
    """Raises ValueError for a field, or a number in it, that is too low or large; None passes."""
    for name in names:
        value = getattr(config, name)
        for number in value if isinstance(value, tuple) else (value,):
            if number is None:
                continue
            if not number >= minimum:  # also catches NaN
                raise ValueError(f"{name} is {number}: it must be at least {minimum}")
            if isinstance(number, int) and number >= LARGEST:
                raise ValueError(f"{name} is {number}: it must be below {LARGEST}")
            if math.isinf(number):
                raise ValueError(f"{name} is {number}: it must be finite")


def a_share(config: Any, *names: str) -> None:
    """Raises ValueError for a field that is not above 0 and at most 1."""
    for name in names:
        if not 0 < (value := getattr(config, name)) <= 1:
            raise ValueError(f"{name} is {value}: it must be above 0 and at most 1")


def check_cosines(values: Iterable[float]) -> None:
    """Raises ValueError for a number that is no cosine."""
    for value in values:
        if not -1 <= value <= 1:
            raise ValueError(f"the cosine {value} is none: it must lie between -1 and 1")


def check_types(config: Any) -> None:
    """Makes a dataclass's fields what their annotations say: of NumPy's numbers Python's, of lists
    tuples.

    Raises:
      ValueError: a field holds something else.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        try:
            fitting = _as(field.type, value)
        except TypeError as error:
            wanted = str(error)
            raise ValueError(f"{field.name} is {value!r}: it must be {wanted}") from error
        object.__setattr__(config, field.name, fitting)


def _as(kind: Any, value: Any) -> Any:
    """The value as an annotation has it. Raises TypeError, with what it must be."""
    if typing.get_origin(kind) is tuple:
        return _as_tuple(typing.get_args(kind)[0], value)
    if isinstance(kind, types.UnionType):
        return _as_one_of(typing.get_args(kind), value)
    if isinstance(value, np.generic) or getattr(value, "shape", None) == ():
        value = value.item()
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise TypeError(f"of the type {kind.__name__}")
    return value


def _as_one_of(kinds: tuple, value: Any) -> Any:
    """The value as the first of the types that it fits."""
    if value is None and types.NoneType in kinds:
        return None
    wanted = []
    for kind in [kind for kind in kinds if kind is not types.NoneType]:
        try:
            return _as(kind, value)
        except TypeError as error:
            wanted.append(str(error))
    raise TypeError(" or ".join(wanted))


def _as_tuple(kind: Any, values: Any) -> tuple:
    if not isinstance(values, tuple | list):
        raise TypeError(f"a tuple, each of the type {getattr(kind, '__name__', kind)}")
    try:
        return tuple(_as(kind, value) for value in values)
    except TypeError as error:
        raise TypeError(f"a tuple, each {error}") from error
