"""Run one parsed command in its context and deliver its result: terminal, JSON, files."""

from __future__ import annotations

import json
import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onlyforward.cli.settings import changed, to_flags, to_toml
from onlyforward.core.errors import BudgetSpent, OnlyForwardError
from onlyforward.run.checkpoint import write_atomically
from onlyforward.run.context import Common, Context
from onlyforward.run.result import Result
from onlyforward.run.signals import Interrupted

if TYPE_CHECKING:
    from onlyforward.cli.main import Command


def execute(command: Command, options: Any, *, resuming: bool = False) -> int:
    """Run `command` with `options`, deliver what it returns and show it; returns the exit code."""
    if not isinstance(options, Common):
        return int(command.run(options))
    try:
        result, report = perform(command, options, resuming=resuming)
    except Interrupted as stop:
        return interrupted(stop, command.application, options)
    if not follower():
        show(report, as_json=options.json)
    return result.exit_code or int(result.status == "failed")


def perform(command: Command, options: Any, *, resuming: bool = False) -> tuple[Result, dict[str, Any]]:
    """Run `command` in its context and write its files; returns the result and its JSON form.

    Raises:
        Interrupted: a signal ended the run after its checkpoint.
        OnlyForwardError: what the command raised.
    """
    if follower():
        options = replace(options, out=None)
    context = Context(options, application=command.application, command=command.words, resuming=resuming)
    os.environ.setdefault("OMP_NUM_THREADS", str(options.threads))
    try:
        if context.folder is not None and not resuming:
            write_atomically(context.folder / "options.toml", to_toml(options).encode())
        with context.signals:
            result = command.run(options, context)
            result.seconds = context.elapsed()
            result.resumed_from = context.resumed_from
            context.finish()
            report = deliver(result, context, command.words)
        context.event("end", status=result.status)
    except Interrupted:
        context.event("end", status="stopped")
        raise
    except BudgetSpent as spent:
        if isinstance(spent.partial, Result):
            spent.partial.status = "partial"
            deliver(spent.partial, context, command.words)
        raise
    except OSError as error:
        raise OnlyForwardError(f"The system refused: {error}", "Check the disk and the folder, then resume") from error
    finally:
        context.close()
    return result, report


def follower() -> bool:
    """Whether this is a further worker under torchrun: the first one alone writes and prints."""
    return int(os.environ.get("RANK", "0")) > 0


def deliver(result: Result, context: Context, words: str) -> dict[str, Any]:
    """The result as JSON, and in the run's folder as result.json and report.html."""
    report = {**result.to_json(), "command": command_line(words, context.options)}
    if words.startswith("bench "):
        write_benchmark(words.removeprefix("bench "), report, context)
    if context.folder is not None:
        from onlyforward.report.html import write_report

        write_atomically(context.folder / "result.json", (json.dumps(report, indent=1) + "\n").encode())
        write_report(report, context.folder)
    return report


def write_benchmark(name: str, report: dict[str, Any], context: Context) -> None:
    """`benchmarks/NAME/results/CASES.json` and the Markdown tables, where a folder `benchmarks` stands."""
    here = Path("benchmarks")
    if not here.is_dir():
        return
    from onlyforward.report.tables import markdown

    folder = here / name / "results"
    folder.mkdir(parents=True, exist_ok=True)
    picked = report["config"].get("cases") or report["config"].get("only") or report["config"].get("part") or "all"
    # A run of some agents only must not overwrite the table of all.
    narrowed = report["config"].get("agents") or ""
    tag = "-".join(word.replace(",", "+") for word in (picked, narrowed) if word)
    tag += "-quick" if report["config"].get("quick") else ""
    # Where the run's folder stood is nobody's business but the user's.
    command = command_line(f"bench {name}", replace(context.options, out=None))
    kept = {key: value for key, value in report.items() if key != "config"} | {"command": command}
    (folder / f"{tag}.json").write_text(json.dumps(kept, indent=1) + "\n")
    pages = [f"# bench {name}: {tag}\n\n`{command}`\n", report["answer"] + "\n"]
    pages += [markdown(table) for table in report["tables"]]
    (folder / f"{tag}.md").write_text("\n".join(pages))


def command_line(words: str, options: Common) -> str:
    """The exact command that repeats the run: every option that differs from its default."""
    return shlex.join(["onlyforward", *words.split(), *to_flags(type(options), changed(options))])


def interrupted(stop: Interrupted, application: str, options: Common) -> int:
    """Say how to go on; with --json still one object."""
    hint = f"Continue with: onlyforward resume {options.out}" if options.out else "Use --out to be able to resume"
    print(f"{stop}. {hint}", file=sys.stderr, flush=True)
    if options.json:
        print(
            json.dumps(
                {
                    "app": application,
                    "status": "stopped",
                    "error": str(stop),
                    "hint": hint,
                    "exit_code": stop.exit_code,
                    "metrics": {},
                }
            )
        )
    return stop.exit_code


def show(report: dict[str, Any], *, as_json: bool) -> None:
    """The result for a program or for a person."""
    if as_json:
        print(json.dumps(report))
        return
    from onlyforward.report.tables import to_terminal

    to_terminal(report, sys.stdout)
