"""Plans: which module learns by what, as globs over module paths."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import lru_cache

from torch import nn

from onlyforward.core.checks import check_choice
from onlyforward.core.errors import UsageError

KINDS = ("lr", "bp", "channel", "weights", "exact", "frozen")
"""Likelihood ratio at the output; backpropagation; per-datum noise on scale and shift; noise on the weights that a
batch shares; backpropagation from the loss to here alone; not trained."""


def check_plan(plan: Mapping[str, str], model: nn.Module) -> None:
    """Refuse kinds and globs that mean nothing.

    Raises:
        UsageError: an unknown kind, or a glob that matches no module.
    """
    paths = [path for path, _ in model.named_modules()]
    for glob, kind in plan.items():
        check_choice(kind, KINDS, name=f"plan value of {glob!r}")
        if not any(fnmatchcase(path, glob) for path in paths):
            known = ", ".join(path for path, module in model.named_children())
            raise UsageError(f"The plan names {glob!r}, which matches no module", f"Top-level modules: {known}")


def planned(plan: Mapping[str, str], path: str) -> str | None:
    """The kind of the last glob that matches the path or a module that contains it."""
    glob = last_match(tuple(plan), path)
    return None if glob is None else plan[glob]


@lru_cache(maxsize=4096)
def last_match(globs: tuple[str, ...], path: str) -> str | None:
    """The last glob that matches the path or a module that contains it; every step asks this of every module."""
    parents = [path]
    while "." in parents[-1]:
        parents.append(parents[-1].rpartition(".")[0])
    return next((glob for glob in reversed(globs) if any(fnmatchcase(parent, glob) for parent in parents)), None)
