"""Where tasks run: the protocol that every engine keeps, and the engine of this process.

A task is "module:function" with `function(shared, key) -> mapping of tensors`, pure in both, so that a retry is safe
and a duplicate harmless.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from onlyforward.core.keys import Key
from onlyforward.run.application import resolve


class Engine(Protocol):
    """Runs pure tasks; `run.ray.RayEngine` is the other one."""

    def map(self, task: str, keys: Sequence[Key], *, shared: Mapping[str, Any]) -> Iterator[tuple[Key, Any]]:
        """Run a task for every key; yields (key, result) in any order, each key once."""
        ...

    def close(self) -> None:
        """Let go of workers and memory."""
        ...


class InProcess:
    """The default engine: a loop on one torch thread."""

    def map(self, task: str, keys: Sequence[Key], *, shared: Mapping[str, Any]) -> Iterator[tuple[Key, Any]]:
        """Run a task for every key, in their order."""
        function = resolve(task)
        for key in keys:
            with one_thread():
                result = function(shared, key)
            yield key, result

    def close(self) -> None:
        """Nothing to let go of."""


@contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread within the block; the number that the caller had is put back."""
    import torch

    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
