"""The demonstration: a generated weighted-tardiness instance, beside it ATC and CP-SAT at the same time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from onlyforward.schedule import rules
from onlyforward.schedule.command import Solve
from onlyforward.schedule.generate import weighted_tardiness
from onlyforward.schedule.pipeline import solve
from onlyforward.schedule.problem import make_problem

if TYPE_CHECKING:
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result


def demo(options: Solve, context: Context) -> Result:
    """100 jobs; every method gets the same seconds."""
    jobs = weighted_tardiness(options.n or 100, context.key.at(site="demo"), tightness=0.6, spread=0.4)
    ours = solve(jobs, time_limit=options.time_limit, seed=options.seed)
    problem = make_problem(jobs)
    begin = time.perf_counter()
    best = min(problem.cost(order) for name, order in rules.starts(problem) if name.startswith("ATC"))
    rows: list[list[Any]] = [
        ["onlyforward", ours.objective, ours.lower_bound, ours.gap, ours.runtime],
        ["ATC, best of its grid", int(best), None, None, time.perf_counter() - begin],
    ]
    try:
        from onlyforward.schedule.peers import cpsat

        found = cpsat(jobs, options.time_limit)
        gap = None if found.objective is None else (found.objective - found.lower_bound) / max(found.objective, 1)
        rows.append(["CP-SAT, 8 workers", found.objective, found.lower_bound, gap, found.seconds])
    except ImportError:
        rows.append(["CP-SAT, 8 workers", "not installed", None, None, None])
    result = context.result(question=f"How good a plan of {jobs.n} jobs is there after {options.time_limit:g} s?")
    result.table("One machine, weighted tardiness", ["method", "cost", "bound", "certified gap", "time [s]"], rows)
    result.metric("schedule_gap", ours.gap, timing=True)
    result.metric("objective", ours.objective)
    result.answer = f"Cost {ours.objective}, certified at most {100 * ours.gap:.2f} % above the best possible."
    return result
