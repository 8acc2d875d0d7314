"""Run one parsed command in its context and deliver its result: terminal, JSON, files."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from onlyforward.run.context import Common, Context

if TYPE_CHECKING:
    from onlyforward.cli.main import Command


def execute(command: Command, options: Any) -> int:
    """Run `command` with `options`; returns the exit code of a run that did not raise."""
    if not isinstance(options, Common):
        return int(command.run(options))
    os.environ.setdefault("OMP_NUM_THREADS", str(options.threads))
    context = Context(options, application=command.application)
    result = command.run(options, context)
    result.seconds = context.elapsed()
    report = result.to_json()
    if context.folder is not None:
        (context.folder / "result.json").write_text(json.dumps(report, indent=1) + "\n")
    if options.json:
        print(json.dumps(report))
    else:
        print(report["answer"])
    return 0
