"""What --help and --helpfull print: the flags that matter first, one line each, then settings."""

import dataclasses
import sys
from collections.abc import Iterator
from typing import Any

from absl import flags


def help_text(shared: list[str], config: Any = None) -> str:
    """The program's description, its flags, and with a `config` every setting and its value.

    Args:
      shared: names of the flags that all experiments have, in the order to show them in.
      config: a configuration; None: how to see one is told instead.
    """
    program = sys.modules["__main__"].__doc__ or ""
    own = [
        flag.name
        for flag in flags.FLAGS.get_key_flags_for_module(sys.argv[0])
        if flag.name not in shared
    ]
    lines = [program.strip(), "", "Flags, each --NAME=VALUE:"]
    lines += [_flag_line(name) for name in shared]
    if own:
        lines += ["", "For this program:", *(_flag_line(name) for name in own)]
    lines += ["", "Settings, each --config.NAME=VALUE (quote names with brackets):"]
    if config is None:
        lines.append("  --helpfull lists them all, with the values of --preset and --dataset.")
    else:
        values = dict(settings(config))
        width = max(map(len, values))
        lines += [f"  {name:{width}}  {value!r}" for name, value in values.items()]
    return "\n".join(lines)


def settings(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(path, value) of every field that `overrides.override` can set."""
    for field in dataclasses.fields(config):
        value, path = getattr(config, field.name), prefix + field.name
        if dataclasses.is_dataclass(value):
            yield from settings(value, f"{path}.")
        elif isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
            for index, element in enumerate(value):
                yield from settings(element, f"{path}[{index}].")
        else:
            yield path, value


def _flag_line(name: str) -> str:
    flag = flags.FLAGS[name]
    note, default = flag.help, flag.default
    if "default" not in note and default not in (None, False, "", []):
        note = f"{note.rstrip('.')} (default: {default})."
    return f"  {f'--{name}':16}{note}"
