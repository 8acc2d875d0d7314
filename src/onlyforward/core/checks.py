"""Checks at the border: each returns its argument or raises a UsageError that names the argument and the remedy."""

from __future__ import annotations

import difflib
import importlib
import math
from collections.abc import Iterable
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

from onlyforward.core.errors import Diverged, MissingExtra, UsageError

if TYPE_CHECKING:
    from torch import Tensor

Number = TypeVar("Number", int, float)


def check_choice(value: str, choices: Iterable[str], *, name: str) -> str:
    """Return `value` if it is one of `choices`; otherwise a UsageError with the nearest names."""
    known = sorted(choices)
    if value in known:
        return value
    near = difflib.get_close_matches(value, known, n=3, cutoff=0.4) or known[:3]
    raise UsageError(f"Unknown {name} {value!r}", f"The nearest names are {', '.join(near)}; known: {', '.join(known)}")


def check_range(
    value: Number, *, name: str, low: float = -math.inf, high: float = math.inf, open_low: bool = False, why: str = ""
) -> Number:
    """Return `value` if it is finite and low <= value <= high (low < value with `open_low`)."""
    inside = low < value <= high if open_low else low <= value <= high
    if inside and math.isfinite(value):
        return value
    bounds = f"{'above' if open_low else 'at least'} {low:g}" if math.isinf(high) else f"between {low:g} and {high:g}"
    reason = f", because {why}" if why else ""
    raise UsageError(f"{name} is {value}", f"It must be {bounds}{reason}")


def check_shape(x: Tensor, pattern: str, *, name: str, **sizes: int) -> Tensor:
    """Return `x` if its shape fits `pattern`, such as "n b": letters are free but equal letters are equal sizes.

    Numbers in the pattern and sizes given as keywords are exact; a closing "..." admits further dimensions.
    """
    words = pattern.split()
    rest = bool(words) and words[-1] == "..."
    words = words[:-1] if rest else words
    fits = len(x.shape) >= len(words) if rest else len(x.shape) == len(words)
    known = dict(sizes)
    for word, size in zip(words, x.shape, strict=False):
        expected = int(word) if word.isdigit() else known.setdefault(word, size)
        fits = fits and expected == size
    if fits:
        return x
    exact = "".join(f", {key} = {value}" for key, value in sizes.items())
    raise UsageError(f"{name} has shape {list(x.shape)}", f"It must be [{', '.join(pattern.split())}]{exact}")


def check_finite(x: Tensor, *, name: str, site: str = "", step: int | None = None, hint: str = "") -> Tensor:
    """Return `x` if every element is finite; otherwise Diverged, which names the site and the step."""
    if bool(x.isfinite().all()):
        return x
    bad = int((~x.isfinite()).sum())
    where = f" at {site}" if site else ""
    where += f" in step {step}" if step is not None else ""
    raise Diverged(
        f"{name} has {bad} non-finite values{where}", hint or "Lower the learning rate", site=site, step=step
    )


def check_integer_labels(labels: Tensor, *, classes: int, name: str = "labels") -> Tensor:
    """Return `labels` [b] if they are integers in 0..classes-1, or -1 for an unlabelled datum."""
    if labels.is_floating_point() or labels.is_complex():
        raise UsageError(f"{name} have dtype {labels.dtype}", "Give integers")
    wrong = ((labels < -1) | (labels >= classes)).nonzero().flatten()
    if len(wrong):
        row = int(wrong[0])
        value = int(labels.flatten()[row])
        raise UsageError(f"{name} hold {value} in row {row}", f"Labels run from 0 to {classes - 1}; -1 is unlabelled")
    return labels


def require(module: str, extra: str) -> ModuleType:
    """Import an optional dependency, or raise MissingExtra with the pip command that installs it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and module.split(".")[0] == error.name.split(".")[0]:
            raise MissingExtra(module.split(".")[0], extra) from error
        raise
