"""Compilation by numba where it is installed; otherwise the same functions as plain Python, with one warning."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

try:
    import numba
except ImportError:  # pragma: no cover - the tests run with numba
    numba = None

COMPILED = numba is not None
"""Whether kernels are compiled."""


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a kernel without the global lock, cached on disk where the disk allows it."""
    if numba is None:  # pragma: no cover - the tests run with numba
        return function
    try:
        return numba.njit(nogil=True, cache=True)(function)  # type: ignore[no-any-return]
    except RuntimeError:
        # numba finds no folder to write its cache to: compile in every process instead.
        warn_once("numba's cache cannot be written, so that every process compiles anew; set NUMBA_CACHE_DIR")
        return numba.njit(nogil=True)(function)  # type: ignore[no-any-return]


said: set[str] = set()


def warn_once(sentence: str) -> None:
    """One warning per sentence and process."""
    if sentence not in said:
        said.add(sentence)
        warnings.warn(sentence, RuntimeWarning, stacklevel=3)


def engine() -> tuple[Any, Any]:
    """The modules that hold the passes, `kernels` and `wide`: compiled, or their numpy twin without numba."""
    if COMPILED:
        from onlyforward.schedule import kernels, wide

        return kernels, wide
    from onlyforward.schedule import kernels_plain

    warn_once('The search runs without numba, many times slower; pip install "onlyforward[schedule]"')
    return kernels_plain, kernels_plain
