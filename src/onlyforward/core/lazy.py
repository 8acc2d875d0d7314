"""Public names that are imported on first use, so that importing a package stays free of torch."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def attach(package: str, names: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The module functions `__getattr__` and `__dir__` that resolve `names` (public name -> module) on first use.

    A name whose place ends with a colon stands for that module itself.
    """

    def get(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        place = names[name]
        module = importlib.import_module(place.removesuffix(":"))
        value = module if place.endswith(":") else getattr(module, name)
        setattr(sys.modules[package], name, value)
        return value

    return get, lambda: sorted(names)
