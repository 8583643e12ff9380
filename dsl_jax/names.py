"""One's own functions and classes by name, "module:name", as a configuration holds them."""

import hashlib
import importlib
import inspect
import sys
from typing import Any


def name_of(what: str, value: Any) -> str:
    """The name of a function or class of a module's top level; text stays as it is.

    Raises:
      ValueError: it is not found by its name, so that another process could not have it.
    """
    if isinstance(value, str):
        return value
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if name is None or getattr(sys.modules.get(module or ""), name, None) is not value:
        raise ValueError(
            f"{what} is {value!r}, which is not found by a name: give a function or class that is "
            "defined at the top level of a module (a notebook is one), or its 'module:name'"
        )
    return f"{module}:{name}"


def find(what: str, name: str) -> Any:
    """What a "module:name" names.

    Raises:
      ValueError: there is no such module, or no such name in it.
    """
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{what} {name!r} cannot be imported: {error}") from error


def source_hash(value: Any) -> str | None:
    """SHA-256 of the text that defines a function or class; None where there is no text.

    Of a class in a notebook, which Python does not find, the text of its methods is taken; of what
    has none of its own, such as a `partial`, its module's.
    """
    methods = [each for each in getattr(value, "__dict__", {}).values() if inspect.isfunction(each)]
    for parts in ([value], methods, [sys.modules.get(getattr(value, "__module__", ""))]):
        try:
            text = "\n".join(map(inspect.getsource, parts))
        except (OSError, TypeError):
            continue
        if text:
            return hashlib.sha256(text.encode()).hexdigest()
    return None
