"""Options that every command shares, and the context in which a command runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onlyforward.core.errors import UsageError
from onlyforward.core.keys import Key
from onlyforward.run.result import Result, plain

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Common:
    """Options that every long command shares."""

    out: Path | None = None
    """Folder for result.json, report.html, figures, checkpoints and events (default: nothing is written)."""
    seed: int = 0
    """Run coordinate of every random number."""
    json: bool = False
    """Print exactly one JSON object on stdout; everything else goes to stderr."""
    verbose: bool = False
    """One line of progress every 10 s where there is no terminal."""
    threads: int = 1
    """Threads per process for torch and onnxruntime."""
    device: str = "auto"
    """auto, cpu or cuda."""
    checkpoint_seconds: float = 30.0
    """Seconds between checkpoints; 0 is every step. Needs --out."""
    traceback: bool = False
    """Show the Python traceback of an error."""


@dataclass(frozen=True)
class Checkpoint:
    """A saved state: `step` steps are done; `tensors` by name; `data` is what JSON can hold."""

    step: int
    tensors: Mapping[str, Tensor]
    data: Mapping[str, Any]


class Context:
    """Everything a command needs from its surroundings: key, folder, checkpoints, progress, messages.

    Args:
        options: the command's options, `Common` included.
        application: name of the application or tool.
    """

    def __init__(self, options: Common, *, application: str) -> None:
        self.options = options
        self.application = application
        self.key = Key(run=options.seed)
        self.folder = options.out
        self.started = time.perf_counter()
        if self.folder is not None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UsageError(
                    f"--out {self.folder} cannot be made: {error.strerror}", "Choose another folder"
                ) from error

    def result(self, *, question: str = "") -> Result:
        """A fresh result that carries this run's application, seed and options."""
        return Result(
            app=self.application, question=question, seed=self.options.seed, config=plain(asdict(self.options))
        )

    def say(self, text: str) -> None:
        """One line for the person who watches: stderr, never stdout."""
        print(text, file=sys.stderr, flush=True)  # noqa: T201

    def warn(self, text: str) -> None:
        """A warning: one line on stderr and one event."""
        self.say(f"warning: {text}")

    def event(self, kind: str, *, step: int | None = None, **fields: Any) -> None:
        """Append one event to events.jsonl."""

    @contextmanager
    def progress(self, total: int, *, label: str) -> Iterator[Callable[..., None]]:
        """A progress display; call what it yields after each step, with numbers to show as keywords."""
        yield lambda **numbers: None

    def restore(self) -> Checkpoint | None:
        """The newest usable checkpoint of the run that is resumed, or None for a fresh run."""
        return None

    def save(self, step: int, state: Callable[[], tuple[Mapping[str, Tensor], Mapping[str, Any]]]) -> None:
        """Call once after every step: writes `state()` as a checkpoint when the interval has passed.

        After SIGINT or SIGTERM it writes at once and ends the run with exit code 130 or 143.
        """

    def artefact(self, name: str) -> Path | None:
        """Where an output file of this run belongs, or None without --out."""
        return None if self.folder is None else self.folder / name

    def elapsed(self) -> float:
        """Wall seconds since the command began."""
        return time.perf_counter() - self.started
