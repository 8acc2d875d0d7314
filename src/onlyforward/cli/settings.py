"""A command's options in three forms: the dataclass, the flags of a command line, and a TOML file."""

from __future__ import annotations

import dataclasses
import json
import tomllib
import typing
from pathlib import Path
from typing import Any

from onlyforward.core.checks import check_choice
from onlyforward.core.errors import FileError
from onlyforward.run.result import plain

SILENT = ("json", "traceback", "verbose", "config")
"""Options that say how to show a run, not which run it is."""


def changed(options: Any) -> dict[str, Any]:
    """Name -> value of every option that differs from its default, as JSON and TOML hold them."""
    found = {}
    for field in dataclasses.fields(options):
        value = plain(getattr(options, field.name))
        default = plain(field.default) if field.default is not dataclasses.MISSING else None
        if field.name not in SILENT and value is not None and value != default:
            found[field.name] = value
    return found


def to_flags(kind: type[Any], values: dict[str, Any]) -> list[str]:
    """The words of a command line that say the same as `values`; positional ones stand first.

    Args:
        kind: the options dataclass.
        values: name -> string, number, bool or list of them; underscores or dashes in the names.

    Raises:
        UsageError: a name that is no option, with the nearest ones.
    """
    from tyro.conf import Positional

    hints = typing.get_type_hints(kind, include_extras=True)
    positional: list[str] = []
    flags: list[str] = []
    for given, value in values.items():
        name = check_choice(given.replace("-", "_"), hints, name="option")
        words = [str(item) for item in value] if isinstance(value, (list, tuple)) else [str(value)]
        if Positional in typing.get_args(hints[name])[1:]:
            positional += words
        elif value is True:
            flags.append(f"--{name.replace('_', '-')}")
        elif value is not False and value is not None:
            flags += [f"--{name.replace('_', '-')}", *words]
    return positional + flags


def to_toml(options: Any) -> str:
    """The options that differ from their defaults, one line each, for `--config`."""
    # A JSON string, number, list or lower-case bool reads the same in TOML, but for surrogate pairs and a raw DEL.
    lines = (f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in changed(options).items())
    return "".join(lines).replace("\x7f", "\\u007f")


def from_toml(kind: type[Any], path: Path) -> list[str]:
    """The flags that a TOML file of options stands for.

    Raises:
        FileError: no such file, or no flat TOML.
        UsageError: a name that is no option.
    """
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise FileError(f"--config {path} cannot be read: {error}", "Give lines such as copies = 64") from error
    for name, value in values.items():
        if isinstance(value, dict):
            raise FileError(f"--config {path} has a table [{name}]", "Give flat lines such as copies = 64")
    return to_flags(kind, values)


def with_config(kind: type[Any], arguments: list[str]) -> list[str]:
    """The arguments with those of their `--config` file in front, so that flags win over the file."""
    for index, word in enumerate(arguments):
        if word == "--config" and index + 1 < len(arguments):
            return from_toml(kind, Path(arguments[index + 1])) + arguments
        if word.startswith("--config="):
            return from_toml(kind, Path(word.removeprefix("--config="))) + arguments
    return arguments
