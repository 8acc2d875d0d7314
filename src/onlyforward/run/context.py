"""Options that every command shares, and the context in which a command runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from onlyforward.core.checks import check_choice
from onlyforward.core.errors import CheckpointError, UsageError
from onlyforward.core.keys import Key
from onlyforward.run.bounds import NotNegative, Within
from onlyforward.run.checkpoint import Checkpoint, load_newest
from onlyforward.run.checkpoint import save as save_checkpoint
from onlyforward.run.events import EVERY, EventLog, Progress, Tracker
from onlyforward.run.folder import RunFolder, options_digest, read_description
from onlyforward.run.result import Result, plain
from onlyforward.run.signals import Signals

if TYPE_CHECKING:
    from torch import Tensor

State = Callable[[], "tuple[Mapping[str, Tensor], Mapping[str, Any]]"]
"""Gives the tensors and the JSON data that the next step depends on."""


@dataclass(frozen=True, kw_only=True)
class Common:
    """Options that every long command shares.

    Attributes:
        CUDA: whether the command also computes on CUDA devices.
    """

    CUDA: ClassVar[bool] = False

    out: Path | None = None
    """Folder for result.json, report.html, figures, checkpoints and events (default: nothing is written)."""
    seed: int = 0
    """Run coordinate of every random number."""
    json: bool = False
    """Print exactly one JSON object on stdout; everything else goes to stderr."""
    verbose: bool = False
    """One line of progress every 10 s where there is no terminal."""
    threads: Annotated[int, Within(1, 1024)] = 1
    """Threads per process for torch and onnxruntime."""
    device: str = "auto"
    """auto, cpu or cuda."""
    checkpoint_seconds: NotNegative = 30.0
    """Seconds between checkpoints; 0 is every step. Needs --out."""
    track: bool = False
    """Also write the numbers of every step for TensorBoard, below --out."""
    config: Path | None = None
    """TOML file of options, such as the options.toml of another run; flags win over it."""
    traceback: bool = False
    """Show the Python traceback of an error."""


def check_common(options: Common, command: str) -> None:
    """Refuse shared options that cannot be.

    Raises:
        UsageError: a device that the command or the machine does not have; --track without --out.
    """
    check_choice(options.device, ("auto", "cpu", "cuda"), name="device")
    if options.device == "cuda" and not options.CUDA:
        raise UsageError(f"{command} computes on the CPU alone", "Take --device cpu")
    if options.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise UsageError("There is no CUDA device", "Take --device cpu")
    if options.track and options.out is None:
        raise UsageError("--track has nowhere to write", "Give --out DIR")


class Context:
    """Everything a command needs from its surroundings: key, folder, checkpoints, progress, messages.

    Args:
        options: the command's options, `Common` included.
        application: name of the application or tool.
        command: the command's words, for `run.json` and `resume`.
        resuming: continue the run that the folder holds.
    """

    def __init__(self, options: Common, *, application: str, command: str = "", resuming: bool = False) -> None:
        self.options = options
        self.application = application
        self.command = command or application
        check_common(options, self.command)
        self.key = Key(run=options.seed)
        self.folder = options.out
        self.started = time.perf_counter()
        self.signals = Signals()
        self.resumed_from: list[int] = []
        self.saved_at = time.monotonic()
        self.saved_step = -1
        self.latest: tuple[int, State] | None = None
        self.resuming = resuming
        self.run_folder: RunFolder | None = None
        self.events: EventLog | None = None
        self.binding = ""
        self.tracker: Tracker | None = None
        if self.folder is not None:
            self.open(self.folder)

    def open(self, folder: Path) -> None:
        """Lock the folder, claim it or continue what it holds, and begin its events."""
        if self.resuming and not folder.is_dir():
            raise CheckpointError(f"{folder} is no folder", "Give the --out folder of an interrupted run")
        self.run_folder = RunFolder(folder)
        try:
            if self.resuming:
                self.binding = options_digest(read_description(folder))
            else:
                self.binding = self.run_folder.begin(self.command, self.options)
        except BaseException:
            self.run_folder.close()
            raise
        self.events = EventLog(folder / "events.jsonl")
        if self.options.track:
            self.tracker = Tracker(folder / "tensorboard")
        self.resumed_from = self.events.resumed_from if self.resuming else []
        self.event("resume" if self.resuming else "start", command=self.command)

    def close(self) -> None:
        """Let the folder's lock go."""
        if self.tracker is not None:
            self.tracker.close()
        if self.run_folder is not None:
            self.run_folder.close()

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
        self.event("warning", message=text)

    def event(self, kind: str, *, step: int | None = None, **fields: Any) -> None:
        """Append one event to events.jsonl."""
        if self.events is not None:
            self.events.write(kind, step, fields)

    @contextmanager
    def progress(self, total: int, *, label: str) -> Iterator[Callable[..., None]]:
        """A progress display; call what it yields after each step, with numbers to show as keywords.

        `to=` sets the number of steps done, for runs that continue. A signal ends the run at the next call, unless the
        command saves checkpoints: then `save` ends it, so that no step is lost.
        """
        display = Progress(total, label, verbose=self.options.verbose, say=self.say)
        shown = time.monotonic()

        def tick(*, to: int | None = None, **numbers: Any) -> None:
            nonlocal shown
            display.advance(numbers, to=to)
            if self.tracker is not None:
                self.tracker.write(label, display.done, numbers)
            if self.events is not None and time.monotonic() - shown >= EVERY:
                shown = time.monotonic()
                self.event("step", **{**plain(numbers), "step": display.done})
            if self.latest is None:
                self.signals.check()

        try:
            yield tick
        finally:
            display.close()

    def restore(self) -> Checkpoint | None:
        """The newest usable checkpoint of the run that is resumed, or None for a fresh run.

        Raises:
            CheckpointError: the run has checkpoints and none can be used.
        """
        if not self.resuming or self.run_folder is None:
            return None
        found = load_newest(self.run_folder.checkpoints, options=self.binding, warn=self.warn)
        if found is not None:
            self.resumed_from.append(found.step)
            self.saved_step = found.step
            self.event("resume", step=found.step)
        return found

    def save(self, step: int, state: State) -> None:
        """Call once after every step: writes `state()` as a checkpoint when the interval has passed.

        After SIGINT or SIGTERM it writes at once and ends the run with exit code 130 or 143.
        """
        self.latest = (step, state)
        due = time.monotonic() - self.saved_at >= self.options.checkpoint_seconds
        if self.run_folder is not None and (due or self.signals.received):
            self.write(step, state)
        self.signals.check()

    def write(self, step: int, state: State) -> None:
        """Write one checkpoint now."""
        if self.run_folder is None or step == self.saved_step:
            return
        tensors, data = state()
        save_checkpoint(self.run_folder.checkpoints, Checkpoint(step, tensors, data), options=self.binding)
        self.saved_at, self.saved_step = time.monotonic(), step
        self.event("checkpoint", step=step)

    def finish(self) -> None:
        """Write the last state if its interval had not passed yet."""
        if self.latest is not None:
            self.write(*self.latest)

    def artefact(self, name: str) -> Path | None:
        """Where an output file of this run belongs, or None without --out."""
        return None if self.folder is None else self.folder / name

    def elapsed(self) -> float:
        """Wall seconds since the command began."""
        return time.perf_counter() - self.started
