"""`onlyforward bench startup`: CPU seconds of fresh processes, and which heavy packages they load."""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
from dataclasses import dataclass

from onlyforward.run.context import Common, Context
from onlyforward.run.result import Result

HEAVY = ("torch", "numpy", "pandas", "matplotlib", "ray")
REPEATS = 5


@dataclass(frozen=True, kw_only=True)
class Startup(Common):
    """CPU seconds of help, errors, doctor and import, in fresh processes."""


COMMANDS = {
    "help": ["--help"],
    "command_help": ["train", "fit", "--help"],
    "doctor": ["doctor"],
    "error": ["train", "fit", "--no-such-option"],
}


def run(options: Startup, context: Context) -> Result:
    """Medians of five; `heavy_imports` counts heavy packages over all five kinds of process."""
    result = context.result(question="How long does the command line take to answer?")
    rows: list[tuple[str, float, float, float]] = []
    heavy: set[str] = set()
    probes = {name: probe(arguments) for name, arguments in COMMANDS.items()}
    probes["import"] = f"import onlyforward; {LOADED}"
    for name, code in probes.items():
        seconds = []
        for _ in range(REPEATS):
            spent, loaded = fresh(code)
            seconds.append(spent)
            heavy |= {f"{name}: {package}" for package in loaded}
        median = statistics.median(seconds)
        result.metric(f"{name}_cpu_seconds", median, timing=True)
        rows.append((name, median, min(seconds), max(seconds)))
    result.metric("heavy_imports", len(heavy))
    result.table(
        "CPU seconds of a fresh process",
        ["what", "median [s]", "least [s]", "most [s]"],
        rows,
        ", ".join(sorted(heavy)),
    )
    slowest = max(median for _, median, _, _ in rows)
    result.answer = f"The slowest answer takes {slowest:.2f} CPU seconds; {len(heavy)} heavy imports."
    return result


LOADED = f"import sys, json; sys.stderr.write('\\n' + json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"


def probe(arguments: list[str]) -> str:
    """Code that runs a command line and then reports the heavy modules."""
    return f"import onlyforward.cli.main as m; m.main({arguments!r}); {LOADED}"


def fresh(code: str) -> tuple[float, list[str]]:
    """User and system seconds of a new interpreter, and the heavy packages it loaded."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "NO_COLOR": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)  # noqa: S603
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return spent, json.loads(done.stderr.strip().splitlines()[-1])
