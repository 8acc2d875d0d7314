"""SIGINT and SIGTERM: the first one asks the run to end at its next step, the second one ends it at once."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType


class Interrupted(Exception):
    """The run ended because of a signal; `exit_code` is 130 (SIGINT) or 143 (SIGTERM)."""

    def __init__(self, number: int) -> None:
        self.exit_code = 128 + number
        super().__init__(f"stopped by {signal.Signals(number).name}")


class Signals:
    """A context manager that remembers the first signal; `received` is its number or 0."""

    def __init__(self) -> None:
        self.received = 0
        self.before: dict[int, object] = {}

    def __enter__(self) -> Signals:
        """Install the handlers, in the main thread only."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.before[number] = signal.signal(number, self.handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the earlier handlers back."""
        for number, handler in self.before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Remember the first signal; leave at once on the second."""
        if self.received:
            os._exit(128 + number)
        self.received = number

    def check(self) -> None:
        """Raise Interrupted if a signal has come."""
        if self.received:
            raise Interrupted(self.received)
