"""`onlyforward resume DIR`: continue an interrupted run to the result that it would have had."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from onlyforward.core.errors import CheckpointError
from onlyforward.run.folder import read_description, restore_options

if TYPE_CHECKING:
    from onlyforward.cli.main import Command


@dataclass(frozen=True, kw_only=True)
class Options:
    """Continue an interrupted run from its newest checkpoint."""

    folder: tyro.conf.Positional[Path]
    """The run's --out folder."""
    json: bool = False
    """Print one JSON object, whatever the original command printed."""
    traceback: bool = False
    """Show the Python traceback of an error."""


def run(options: Options) -> int:
    """Print what the original command would have printed; a finished run prints its stored result with no work."""
    from onlyforward.cli.execute import execute, show

    command, restored = interrupted_run(options.folder)
    restored = dataclasses.replace(restored, json=restored.json or options.json)
    finished = options.folder / "result.json"
    if finished.exists():
        report = json.loads(finished.read_text(encoding="utf-8"))
        if report["status"] == "done":
            show(report, as_json=restored.json)
            return 0
    return execute(command, restored, resuming=True)


def interrupted_run(folder: Path) -> tuple[Command, Any]:
    """The command and the options of the run that a folder holds.

    Raises:
        CheckpointError: it holds none.
    """
    from onlyforward.cli.main import choose

    if not folder.is_dir():
        raise CheckpointError(f"{folder} is no folder", "Give the --out folder of an interrupted run")
    description = read_description(folder)
    command, _ = choose(description["command"].split())
    if command is None:
        raise CheckpointError(f"{folder} was made by an unknown command", "Start the run anew")
    return command, dataclasses.replace(restore_options(command.options, description["options"]), out=folder)
