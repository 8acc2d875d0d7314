"""`onlyforward demo`: every application's demonstration, one table, one report."""

from __future__ import annotations

import operator
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from onlyforward.core.checks import check_choice
from onlyforward.core.errors import OnlyForwardError
from onlyforward.run.application import NAMES, Demo, applications, resolve
from onlyforward.run.context import Common, Context
from onlyforward.run.result import Result, Table

COMPARE: dict[str, Callable[[float, float], bool]] = {">=": operator.ge, "<=": operator.le}


@dataclass(frozen=True, kw_only=True)
class Options(Common):
    """Run every application's demonstration and write one report."""

    only: str = ""
    """Comma-separated applications (default: all that exist)."""


def run(options: Options, context: Context) -> Result:
    """Run the demonstrations one after the other; one that fails is shown with its sentence, the others run on."""
    found = applications()
    wanted = [check_choice(name.strip(), NAMES, name="application") for name in options.only.split(",") if name.strip()]
    result = context.result(question="What does onlyforward do on this machine?")
    rows: list[list[Any]] = []
    details: list[Table] = []
    failed = []
    for name in wanted or NAMES:
        if name not in found:
            rows.append([name, "not built yet", None, "", None])
            result.metric(f"{name}_ok", 0)
            continue
        begin = time.perf_counter()
        outcome, sentence, part = attempt(name, found[name].demo, found[name].run, options, context)
        seconds = time.perf_counter() - begin
        result.metric(f"{name}_ok", outcome == "ok")
        result.metric(f"{name}_seconds", seconds, timing=True)
        if outcome != "ok":
            failed.append(name)
        headline = None
        if part is not None:
            headline = next(iter(resolve(found[name].demo).targets))
            for metric, value in part.metrics.items():
                if metric.startswith(f"{name}_") and value is not None:
                    result.metric(metric, value, timing=metric in part.timing)
            result.forward_runs += part.forward_runs
            result.curves += part.curves
            details += part.tables
            result.artefacts |= {f"{name}.{key}": tensor for key, tensor in part.artefacts.items()}
        value = None if part is None or headline is None else part.metrics.get(headline)
        rows.append([name, outcome, value, sentence, seconds])
    ok = sum(row[1] == "ok" for row in rows)
    result.table("Demonstrations", ["application", "outcome", "headline", "in one sentence", "time [s]"], rows)
    result.tables += details
    result.metric("apps", len(NAMES))
    result.metric("apps_ok", ok)
    result.metric("seconds", context.elapsed(), timing=True)
    result.metric("forward_runs", result.forward_runs)
    result.metric("report_bytes", report_bytes(result), timing=True)
    built = sum(name in found for name in wanted or NAMES)
    result.answer = f"{ok} of {built} applications that are built met their target; {len(NAMES)} are planned."
    if failed:
        result.status = "failed"
        result.answer += f" Not met: {', '.join(failed)}."
    return result


def attempt(name: str, demo: str, work: str, options: Options, context: Context) -> tuple[str, str, Result | None]:
    """One demonstration: "ok", "target missed" or "failed", its sentence, its result."""
    context.say(f"demo {name}")
    try:
        entry: Demo = resolve(demo)
        own = replace(entry.options, seed=options.seed, threads=options.threads, verbose=options.verbose)
        inner = Context(own, application=name)
        inner.signals = context.signals
        part: Result = resolve(work)(own, inner)
    except OnlyForwardError as error:
        return "failed", str(error), None
    except ImportError as error:
        return "failed", f'{error}. Run: pip install "onlyforward[all]".', None
    met = all(
        (value := part.metrics.get(metric)) is not None and COMPARE[sign](value, bound)
        for metric, (sign, bound) in entry.targets.items()
    )
    return ("ok" if met else "target missed"), part.answer, part


def report_bytes(result: Result) -> int:
    """Size of the report that this result makes."""
    from onlyforward.report.html import page

    return len(page({**result.to_json(), "command": ""}).encode())
