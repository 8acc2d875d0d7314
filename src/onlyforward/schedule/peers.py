"""Competitors behind one signature: CP-SAT (8 workers) and PyJobShop, with the same wall limit."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from onlyforward.core.checks import require
from onlyforward.core.errors import UsageError
from onlyforward.schedule.jobs import Jobs, timetable


@dataclass(frozen=True)
class Answer:
    """What a peer found.

    Attributes:
        objective: cost of its plan; None without one.
        lower_bound: what it proves.
        proved: whether it proves optimality.
        seconds: wall time.
    """

    objective: Any
    lower_bound: Any
    proved: bool
    seconds: float


def to_cpsat(jobs: Jobs, hint: np.ndarray | None = None) -> Any:
    """A CP-SAT model (intervals, no overlap, one tardiness variable a job) with a complete hint of every variable.

    Raises:
        UsageError: fractional numbers, or a cost other than weighted completion or tardiness.
    """
    cp_model = require("ortools.sat.python.cp_model", "schedule")
    knots, coef = jobs.pieces
    if not jobs.whole or (coef[..., 2] > 0).any() or (coef[:, 1:, 0] > 0).any() or knots.shape[1] > 2:
        raise UsageError("The bridge to CP-SAT takes integer tardiness or completion costs", "Scale the times or costs")
    model, horizon = cp_model.CpModel(), int(jobs.horizon)
    given = timetable(jobs, hint) if hint is not None else None
    intervals, terms = [], []
    for j in range(jobs.n):
        start = model.new_int_var(int(jobs.r[j]), horizon - int(jobs.p[j]), f"start{j}")
        intervals.append(model.new_fixed_size_interval_var(start, int(jobs.p[j]), f"job{j}"))
        if given is not None:
            model.add_hint(start, int(given[0][j]))
        last = knots.shape[1] - 1
        knot, rate = int(knots[j, last]), int(coef[j, last, 1])
        if last == 0 or knot >= horizon:
            terms.append(int(coef[j, 0, 0]) + int(coef[j, 0, 1]) * (start + int(jobs.p[j])))
            continue
        late = model.new_int_var(0, horizon, f"late{j}")
        model.add(late >= start + int(jobs.p[j]) - knot)
        terms.append(rate * late)
        if given is not None:
            model.add_hint(late, max(0, int(given[1][j]) - knot))
    model.add_no_overlap(intervals)
    model.minimize(sum(terms))
    return model


def cpsat(jobs: Jobs, time_limit: float, hint: np.ndarray | None = None, workers: int = 8) -> Answer:
    """CP-SAT with its own default of 8 workers, on the same cores and with the same wall limit."""
    cp_model = require("ortools.sat.python.cp_model", "schedule")
    model = to_cpsat(jobs, hint)
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = time_limit
    solver.parameters.num_workers = workers
    begin = time.perf_counter()
    status = solver.solve(model)
    found = status in (cp_model.OPTIMAL, cp_model.FEASIBLE)
    objective = round(solver.objective_value) if found else None
    lower = max(0, int(np.ceil(solver.best_objective_bound - 1e-6)))
    return Answer(objective, lower, status == cp_model.OPTIMAL, time.perf_counter() - begin)


def pyjobshop(jobs: Jobs, time_limit: float) -> Answer:
    """PyJobShop's own model of the same instance (weighted tardiness; CP-SAT behind it)."""
    library = require("pyjobshop", "peers")
    model = library.Model()
    machine = model.add_machine()
    for j in range(jobs.n):
        job = model.add_job(weight=int(jobs.weight[j]), due_date=int(jobs.due[j]), release_date=int(jobs.r[j]))
        task = model.add_task(job)
        model.add_mode(task, machine, int(jobs.p[j]))
    model.set_objective(weight_total_tardiness=1)
    begin = time.perf_counter()
    found = model.solve(time_limit=time_limit, display=False, num_workers=8)
    objective = None if not np.isfinite(found.objective) else round(found.objective)
    lower = max(0, int(np.ceil(found.lower_bound - 1e-6)))
    return Answer(objective, lower, str(found.status.value).lower() == "optimal", time.perf_counter() - begin)
