"""What happened, as JSON lines in `events.jsonl` and as a progress display for the person who watches."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from onlyforward.core.checks import require

KINDS = ("start", "step", "checkpoint", "warning", "query", "resume", "end")
EVERY = 0.5
"""Seconds between step events: a run of a million steps must not write a million lines."""
VERBOSE_EVERY = 10.0
"""Seconds between lines of progress on a pipe with --verbose."""


class EventLog:
    """Append-only JSON lines; a torn last line of an earlier process is dropped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sequence = 0
        self.resumed_from: list[int] = []
        if path.exists():
            whole = [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
            kept = [line for line in whole if is_object(line)]
            path.write_bytes(b"".join(kept))
            self.sequence = len(kept)
            earlier = [json.loads(line) for line in kept]
            self.resumed_from = [e["step"] for e in earlier if e["kind"] == "resume" and e["step"] is not None]

    def write(self, kind: str, step: int | None, fields: dict[str, Any]) -> None:
        """One line."""
        line = {"seq": self.sequence, "time": round(time.time(), 3), "kind": kind, "step": step, **fields}
        self.sequence += 1
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, default=str) + "\n")


def is_object(line: bytes) -> bool:
    """Whether a line is one JSON object."""
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


class Progress:
    """A bar with rate and remaining time on a terminal; a line every ten seconds on a pipe with --verbose.

    Args:
        total: steps in all.
        label: what is going on.
        verbose: whether to print lines on a pipe.
        say: prints one line.
    """

    def __init__(self, total: int, label: str, *, verbose: bool, say: Callable[[str], None]) -> None:
        self.total, self.label, self.verbose, self.say = total, label, verbose, say
        self.done = 0
        self.begin = self.shown = time.monotonic()
        self.bar: Any = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[numbers]}"),
            )
            self.bar = RichProgress(*columns, console=Console(stderr=True), transient=True)
            self.task = self.bar.add_task(label, total=total, rate="", numbers="")
            self.bar.start()

    def advance(self, numbers: dict[str, Any], *, to: int | None = None) -> None:
        """One step done, or `to` steps in all."""
        self.done = self.done + 1 if to is None else to
        now = time.monotonic()
        rate = self.done / max(now - self.begin, 1e-9)
        text = " ".join(f"{name} {value:.4g}" for name, value in numbers.items() if isinstance(value, int | float))
        if self.bar is not None:
            self.bar.update(self.task, completed=self.done, rate=f"{rate:.1f}/s", numbers=text)
        elif self.verbose and now - self.shown >= VERBOSE_EVERY:
            self.shown = now
            left = (self.total - self.done) / max(rate, 1e-9)
            self.say(f"{self.label}: {self.done} of {self.total}, {rate:.1f}/s, {left:.0f} s left {text}")

    def close(self) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.stop()


class Tracker:
    """The numbers of every step as TensorBoard scalars.

    Args:
        folder: where its event files go.

    Raises:
        MissingExtra: tensorboard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        require("tensorboard", "track")
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder))  # type: ignore[no-untyped-call]

    def write(self, label: str, step: int, numbers: dict[str, Any]) -> None:
        """One scalar a number, named `label/name`."""
        for name, value in numbers.items():
            self.writer.add_scalar(f"{label}/{name}", value, step)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Write what is left."""
        self.writer.close()  # type: ignore[no-untyped-call]
