"""The training runs of a benchmark, each remembered: a benchmark killed after an hour repeats only its last run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onlyforward.run.context import Context


class Sweep:
    """Numbers of finished runs by name, in the checkpoints of the command's folder (with --out).

    Args:
        context: of the benchmark.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        saved = context.restore()
        self.done: dict[str, list[float]] = dict(saved.data["done"]) if saved is not None else {}

    def run(self, name: str, work: Callable[[], Sequence[float]]) -> tuple[list[float], float]:
        """The numbers of the run called `name`, made now or remembered, and the wall seconds that it took."""
        if name not in self.done:
            begin = time.perf_counter()
            numbers = [float(value) for value in work()]
            self.done[name] = [time.perf_counter() - begin, *numbers]
            self.context.say(f"{name}: {', '.join(f'{value:.4g}' for value in numbers)} ({self.done[name][0]:.0f} s)")
            self.context.save(len(self.done), lambda: ({}, {"done": self.done}))
        seconds, *numbers = self.done[name]
        return numbers, seconds
