"""Functions that a user names as "file.py:function": code the user chose, and the only foreign code that is run."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from onlyforward.core.errors import FileError


def user_function(reference: str) -> Callable[..., Any]:
    """Load "file.py:function".

    Raises:
        FileError: no such file, no Python, or no such function in it.
    """
    file, _, name = reference.rpartition(":")
    if not Path(file).is_file():
        raise FileError(f"There is no file {file}", "Name it as file.py:factory")
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    if spec is None or spec.loader is None:
        raise FileError(f"{file} is no Python file", "Name it as file.py:factory")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise FileError(f"{file} is no Python: {error.msg} in line {error.lineno}", "Mend it") from error
    found = getattr(module, name, None)
    if not callable(found):
        raise FileError(f"{file} has no function {name!r}", "Name one of its functions after the colon")
    return found  # type: ignore[no-any-return]
