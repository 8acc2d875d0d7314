"""The command line: the first words choose a command, and only then is anything of weight imported."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onlyforward.core.checks import check_choice
from onlyforward.core.errors import OnlyForwardError, UsageError
from onlyforward.run.application import NAMES, applications, resolve

TOOLS = {
    "demo": "Run every application's demonstration and write one report.",
    "bench": "Run a benchmark: ours and the peers side by side.",
    "resume": "Continue an interrupted run from its newest checkpoint.",
    "report": "Rebuild the report of a finished run in any format.",
    "doctor": "Check the installation, the data sets and files.",
}


@dataclass(frozen=True)
class Command:
    """One runnable command: its words, its options class and its function."""

    words: str
    application: str
    options: type[Any]
    run: Callable[..., Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return dispatch(argv)
    except OnlyForwardError as error:
        return fail(error, argv)
    except ModuleNotFoundError as error:
        return fail(missing(error), argv)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        return 130


def dispatch(argv: list[str]) -> int:
    """Choose the command, parse its options and execute it."""
    if not argv or argv[0] in ("-h", "--help"):
        overview("onlyforward", {name: app.sentence for name, app in applications().items()} | TOOLS)
        return 0 if argv else 2
    command, rest = choose(argv)
    if command is None:
        return 0
    from onlyforward.cli.execute import execute

    if command.words == "doctor" and not rest:  # nothing to parse: the parser is not loaded
        return execute(command, command.options())
    from onlyforward.cli.options import parse

    try:
        options = parse(command.options, rest, prog=f"onlyforward {command.words}")
    except SystemExit:
        return 0
    return execute(command, options)


def choose(argv: list[str]) -> tuple[Command | None, list[str]]:
    """The command that the leading words name, and the remaining arguments; None after help was printed."""
    if argv[0] in TOOLS:
        return tool(argv[0], argv[1:])
    if argv[0] in NAMES:  # our own: the installed entry points need not be read, which takes a tenth of a second
        first, app = argv[0], resolve(f"onlyforward.{argv[0]}:APPLICATION")
    else:
        found = applications()
        first = check_choice(argv[0], [*found, *TOOLS], name="command")
        app = found[first]
    if "" in app.options:
        return Command(first, first, resolve(app.options[""]), resolve(app.run)), argv[1:]
    return nested(first, {name: (first, reference, app.run) for name, reference in app.options.items()}, argv[1:])


def tool(name: str, rest: list[str]) -> tuple[Command | None, list[str]]:
    """The tools of the command line itself; `bench` has one subcommand a benchmark."""
    if name != "bench":
        return Command(
            name, name, resolve(f"onlyforward.cli.{name}:Options"), resolve(f"onlyforward.cli.{name}:run")
        ), rest
    table = {}
    from onlyforward.cli.bench import PLATFORM

    for key, bench in PLATFORM.items():
        table[key] = ("bench", bench.options, bench.run)
    for app in applications().values():
        for key, bench in app.benches.items():
            table[key] = (app.name, bench.options, bench.run)
    return nested("bench", table, rest)


def nested(first: str, table: Mapping[str, tuple[str, str, str]], rest: list[str]) -> tuple[Command | None, list[str]]:
    """The subcommand that the next word names."""
    if not rest or rest[0] in ("-h", "--help"):
        overview(f"onlyforward {first}", {name: sentence(resolve(entry[1])) for name, entry in table.items()})
        if not rest:
            raise UsageError(f"onlyforward {first} needs a subcommand", f"One of: {', '.join(table)}")
        return None, []
    second = check_choice(rest[0], table, name=f"{first} command")
    application, options, run = table[second]
    return Command(f"{first} {second}", application, resolve(options), resolve(run)), rest[1:]


def sentence(options: type) -> str:
    """The first line of an options class's docstring."""
    return (options.__doc__ or "").strip().splitlines()[0]


def missing(error: ModuleNotFoundError) -> OnlyForwardError:
    """An optional package that some module imports, as the sentence that mends it; our own modules are defects."""
    name = (error.name or "").split(".")[0]
    if name == "onlyforward" or not name:
        raise error
    return UsageError(f"The package {name!r} is not installed", 'Run: pip install "onlyforward[all]"')


def overview(prog: str, commands: Mapping[str, str]) -> None:
    """Print the names of the commands and what each does."""
    width = max(map(len, commands)) + 2
    lines = [f"usage: {prog} COMMAND [OPTIONS]", "", *(f"  {name:<{width}}{text}" for name, text in commands.items())]
    print("\n".join([*lines, "", f"{prog} COMMAND --help shows a command's options."]))


def fail(error: OnlyForwardError, argv: Sequence[str]) -> int:
    """Print the error as one line on stderr and, with --json, as one object on stdout."""
    if "--traceback" in argv:
        traceback.print_exception(error)
    print(f"error: {error}", file=sys.stderr)
    if "--json" in argv:
        report = {
            "app": argv[0],
            "status": "failed",
            "error": error.message,
            "hint": error.hint,
            "exit_code": error.exit_code,
            "metrics": {},
        }
        sys.stdout.flush()
        print(json.dumps(report))
    return error.exit_code
