"""`onlyforward resume DIR`: continue an interrupted run to the result that it would have had."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import tyro

from onlyforward.core.errors import CheckpointError
from onlyforward.run.folder import read_description, restore_options


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
    from onlyforward.cli.main import choose

    if not options.folder.is_dir():
        raise CheckpointError(f"{options.folder} is no folder", "Give the --out folder of an interrupted run")
    description = read_description(options.folder)
    command, _ = choose(description["command"].split())
    if command is None:
        raise CheckpointError(f"{options.folder} was made by an unknown command", "Start the run anew")
    restored = restore_options(command.options, description["options"])
    restored = dataclasses.replace(restored, out=options.folder, json=restored.json or options.json)
    finished = options.folder / "result.json"
    if finished.exists():
        report = json.loads(finished.read_text(encoding="utf-8"))
        if report["status"] == "done":
            show(report, as_json=restored.json)
            return 0
    return execute(command, restored, resuming=True)
