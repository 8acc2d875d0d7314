"""The command line for Python programs: run a command, continue a run, read a result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from onlyforward.core.errors import CheckpointError, UsageError
from onlyforward.run.result import Result, stored


def launch(application: str, **options: Any) -> Result:
    """Run one command as the command line would, and return its result instead of printing it.

    Args:
        application: the command's words, such as "train fit" or "bench laws".
        options: the command's options by name; `out=DIR` leaves the same files as `--out DIR`.

    Raises:
        UsageError: an unknown command or option, or an option that is missing.
        OnlyForwardError: what the command itself raises.
    """
    from onlyforward.cli.execute import perform
    from onlyforward.cli.main import choose
    from onlyforward.cli.options import parse
    from onlyforward.cli.settings import to_flags

    command, rest = choose(application.split())
    if command is None or rest:
        raise UsageError(f"{application!r} is no command", "Give its words, such as 'train fit'")
    words = to_flags(command.options, options)
    return perform(command, parse(command.options, words, prog=f"onlyforward {command.words}"))[0]


def resume(folder: str | Path) -> Result:
    """Continue an interrupted run to the result that it would have had; a finished one is read.

    Raises:
        CheckpointError: the folder holds no run that can be continued.
    """
    from onlyforward.cli.execute import perform
    from onlyforward.cli.resume import interrupted_run

    path = Path(folder)
    command, options = interrupted_run(path)
    if (path / "result.json").exists():
        found = load_result(path)
        if found.status == "done":
            return found
    return perform(command, options, resuming=True)[0]


def load_result(folder: str | Path) -> Result:
    """The result that a finished run left in its folder; artefact tensors stay in their own files.

    Raises:
        CheckpointError: there is none.
    """
    found = stored(Path(folder))
    if found is None:
        raise CheckpointError(f"{folder} holds no result", f"Finish the run with onlyforward resume {folder}")
    return found
