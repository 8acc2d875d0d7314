"""What an application declares about itself: strings only, so that listing applications imports none of them."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

NAMES = ("train", "tune", "explain", "decide", "schedule", "detect", "prune")
"""The seven applications, in the order in which they are shown."""


@dataclass(frozen=True)
class Benchmark:
    """One `onlyforward bench NAME`.

    Attributes:
        claim: what it shows, in one sentence.
        options: "module:Class", the frozen dataclass of its options.
        run: "module:function" with signature (options, context) -> Result.
        peers: importable names of the packages it compares with.
    """

    claim: str
    options: str
    run: str
    peers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Application:
    """One folder of `onlyforward`.

    Attributes:
        name: the word on the command line.
        sentence: what it does, for help and reports.
        options: subcommand -> "module:Class", a frozen dataclass that extends `Common`; the key "" stands for an
            application without subcommands.
        run: "module:function" with signature (options, context) -> Result.
        demo: "module:NAME" of a `Demo`.
        benches: name -> Benchmark.
    """

    name: str
    sentence: str
    options: Mapping[str, str]
    run: str
    demo: str
    benches: Mapping[str, Benchmark] = field(default_factory=dict)


@dataclass(frozen=True)
class Demo:
    """The part of an application in `onlyforward demo`.

    Attributes:
        options: an options object that the application's `run` accepts.
        targets: metric -> (">=" or "<=", bound): what `<app>_ok` asks for; the first one is the headline.
    """

    options: Any
    targets: Mapping[str, tuple[str, float]]


def resolve(reference: str) -> Any:
    """The object behind "module:name"."""
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


def applications() -> dict[str, Application]:
    """The applications that exist: the package's own folders in the order of NAMES, then installed entry points."""
    from importlib.metadata import entry_points

    import onlyforward

    folders = {module.name for module in pkgutil.iter_modules(onlyforward.__path__) if module.ispkg}
    found = {name: resolve(f"onlyforward.{name}:APPLICATION") for name in NAMES if name in folders}
    for entry in entry_points(group="onlyforward.applications"):
        found.setdefault(entry.name, entry.load())
    return found
