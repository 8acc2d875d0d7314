"""Benchmarks: cases run one after the other in one process, their metrics named `<case>_<arm>_<quantity>`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from onlyforward.core.checks import check_choice
from onlyforward.run.context import Common, Context
from onlyforward.run.result import Result


@dataclass(frozen=True, kw_only=True)
class BenchOptions(Common):
    """Options of every benchmark."""

    seeds: int = 5
    """Number of seeds, 0 to seeds - 1."""
    quick: bool = False
    """A short form of the same cases: two seeds, same settings."""
    cases: str = ""
    """Comma-separated cases (default: all)."""


Case = Callable[[BenchOptions, Context, Result], None]


def chosen(names: str, known: Mapping[str, Case]) -> list[str]:
    """The cases that a comma-separated list names, in the order given; all of them for an empty list."""
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    return [check_choice(name, known, name="case") for name in wanted] or list(known)


def run_cases(options: BenchOptions, context: Context, cases: Mapping[str, Case]) -> Result:
    """Run the chosen cases into one result; each also gives `<case>_seconds`."""
    result = context.result()
    for name in chosen(options.cases, cases):
        begin = time.perf_counter()
        context.say(f"case {name}")
        cases[name](options, context, result)
        result.metric(f"{name.replace('-', '_')}_seconds", time.perf_counter() - begin, timing=True)
    return result


def seeds(options: BenchOptions) -> range:
    """The seeds of a benchmark: two with --quick."""
    return range(min(options.seeds, 2) if options.quick else options.seeds)
