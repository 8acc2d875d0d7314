"""Bridges to exact solvers: CP-SAT with a complete hint, HiGHS on the time-indexed model, PyJobShop's data.

Side constraints (precedence, calendars, setups) belong there: take the model, add them, and give our order as hint.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onlyforward.core.checks import require
from onlyforward.core.errors import UsageError
from onlyforward.schedule.cost import evaluate
from onlyforward.schedule.jobs import Jobs, timetable

if TYPE_CHECKING:
    from onlyforward.schedule.solution import Solution

MOST_CELLS = 2_000_000
"""Jobs times time units beyond which a time-indexed table is refused."""
PROVABLE = 60
"""Jobs up to which `--prove` asks an exact solver."""


@dataclass(frozen=True)
class Answer:
    """What a solver found.

    Attributes:
        objective: cost of its plan; None without one.
        lower_bound: what it proves.
        proved: whether it proves optimality.
        seconds: wall time.
        start: [n] start times of its plan; None without one.
    """

    objective: Any
    lower_bound: Any
    proved: bool
    seconds: float
    start: np.ndarray | None = None


def need_whole(jobs: Jobs, name: str) -> None:
    """Exact solvers take integers."""
    if not jobs.whole:
        raise UsageError(f"{name} takes whole times and costs", "Scale the times or costs to integers")


def cost_table(jobs: Jobs, name: str) -> np.ndarray:
    """[n, T + 1] costs of ending at every time unit.

    Raises:
        UsageError: the table would hold more than MOST_CELLS numbers.
    """
    cells = jobs.n * (int(jobs.horizon) + 1)
    if cells > MOST_CELLS:
        raise UsageError(f"{name} would need {cells} cells of time", f"Use larger units of time: {MOST_CELLS} at most")
    ends = np.arange(int(jobs.horizon) + 1, dtype=np.int64)
    return evaluate(*jobs.pieces, np.arange(jobs.n)[:, None], ends[None])


def to_cpsat(jobs: Jobs, hint: np.ndarray | None = None) -> Any:
    """A CP-SAT model: intervals, no overlap, and per job a tardiness variable or an element of its cost table.

    Args:
        jobs: whole numbers.
        hint: [n] an order; its left-shifted schedule hints every variable of the model.

    Raises:
        UsageError: fractional numbers, or a cost table of more than MOST_CELLS.
    """
    cp_model = require("ortools.sat.python.cp_model", "schedule")
    need_whole(jobs, "CP-SAT")
    knots, coef = jobs.pieces
    linear = knots.shape[1] <= 2 and not (coef[..., 2] > 0).any() and not (coef[:, 1:, 0] > 0).any()
    table = None if linear else cost_table(jobs, "CP-SAT's cost table")
    model, horizon = cp_model.CpModel(), int(jobs.horizon)
    given = timetable(jobs, hint) if hint is not None else None
    intervals, terms = [], []
    for j in range(jobs.n):
        p, low = int(jobs.p[j]), int(jobs.r[j])
        start = model.new_int_var(low, horizon - p, f"start{j}")
        intervals.append(model.new_fixed_size_interval_var(start, p, f"job{j}"))
        if given is not None:
            model.add_hint(start, int(given[0][j]))
        if table is not None:
            row = table[j, p : horizon + 1].tolist()
            paid = model.new_int_var(row[0], row[-1], f"cost{j}")
            model.add_element(start, row, paid)
            terms.append(paid)
            if given is not None:
                model.add_hint(paid, row[int(given[0][j])])
            continue
        last = knots.shape[1] - 1
        knot, rate = int(knots[j, last]), int(coef[j, last, 1])
        if last == 0 or knot >= horizon:
            terms.append(int(coef[j, 0, 0]) + int(coef[j, 0, 1]) * (start + p))
            continue
        late = model.new_int_var(0, horizon, f"late{j}")
        model.add(late >= start + p - knot)
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
    start = None
    if found:
        names = {variable.name: k for k, variable in enumerate(model.proto.variables)}
        values = solver.response_proto.solution
        start = np.array([values[names[f"start{j}"]] for j in range(jobs.n)], np.int64)
    return Answer(objective, lower, status == cp_model.OPTIMAL, time.perf_counter() - begin, start)


def to_highs(jobs: Jobs) -> Any:
    """The time-indexed model as a HiGHS object: x_jt = 1 iff job j starts at t; one row per job, one per time unit.

    Raises:
        UsageError: fractional numbers, or more than MOST_CELLS cells.
    """
    highspy = require("highspy", "schedule")
    need_whole(jobs, "HiGHS")
    table, horizon = cost_table(jobs, "The time-indexed model"), int(jobs.horizon)
    model = highspy.Highs()
    model.silent()
    for _ in range(jobs.n):
        model.addRow(1.0, 1.0, 0, np.array([], np.int32), np.array([]))
    for _ in range(horizon):
        model.addRow(0.0, 1.0, 0, np.array([], np.int32), np.array([]))
    column = 0
    for j in range(jobs.n):
        p = int(jobs.p[j])
        for t in range(int(jobs.r[j]), horizon - p + 1):
            rows = np.concatenate([[j], jobs.n + np.arange(t, t + p)]).astype(np.int32)
            model.addCol(float(table[j, t + p]), 0.0, 1.0, len(rows), rows, np.ones(len(rows)))
            model.changeColIntegrality(column, highspy.HighsVarType.kInteger)
            column += 1
    return model


def highs(jobs: Jobs, time_limit: float, *, relaxed: bool = False) -> Answer:
    """HiGHS on the time-indexed model; `relaxed`: its linear program, the limit of our certificates."""
    highspy = require("highspy", "schedule")
    model = to_highs(jobs)
    model.setOptionValue("time_limit", float(time_limit))
    if relaxed:
        model.setOptionValue("solve_relaxation", True)
    begin = time.perf_counter()
    model.run()
    info, status = model.getInfo(), model.getModelStatus()
    proved = status == highspy.HighsModelStatus.kOptimal
    lower = info.objective_function_value if proved else info.mip_dual_bound
    found = proved or info.primal_solution_status == 2
    return Answer(info.objective_function_value if found else None, lower, proved, time.perf_counter() - begin)


def to_mps(jobs: Jobs, path: Path | str) -> None:
    """Write the time-indexed model as an MPS file, which every MIP solver reads."""
    to_highs(jobs).writeModel(str(path))


def from_pyjobshop(data: Any) -> Jobs:
    """The jobs of a PyJobShop `ProblemData` with one machine and one task and mode per job (weighted tardiness).

    Raises:
        UsageError: it needs more than one machine, or a job of several tasks or modes.
    """
    if data.num_machines != 1 or data.num_tasks != data.num_jobs or data.num_modes != data.num_tasks:
        raise UsageError(
            f"The problem has {data.num_machines} machines, {data.num_jobs} jobs, {data.num_tasks} tasks and "
            f"{data.num_modes} modes",
            "Give one machine, and one task and mode per job",
        )
    length = {mode.task: mode.duration for mode in data.modes}
    task_of = {task.job: k for k, task in enumerate(data.tasks)}
    jobs = data.jobs
    far = sum(length.values()) + max(job.release_date for job in jobs)
    return Jobs(
        [length[task_of[k]] for k in range(len(jobs))],
        r=[job.release_date for job in jobs],
        weight=[job.weight for job in jobs],
        due=[far if job.due_date is None else job.due_date for job in jobs],
        names=[job.name or str(k + 1) for k, job in enumerate(jobs)],
    )


def prove(solution: Solution, time_limit: float) -> Solution:
    """Close what is left of the gap with CP-SAT, hinted by our plan, at n <= PROVABLE; a better plan is taken over.

    The certificate stays as it is: what CP-SAT proves rests on CP-SAT.
    """
    jobs = solution.jobs
    if solution.status == "optimal" or jobs.n > PROVABLE or not jobs.whole:
        return solution
    found = cpsat(jobs, time_limit, hint=solution.sequence)
    lower = max(solution.lower_bound, found.lower_bound)
    if found.start is not None and found.objective < solution.objective:
        sequence = np.argsort(found.start, kind="stable")
        start, end = timetable(jobs, sequence)
        cost = jobs.costs(end).sum().item()
        solution = replace(solution, objective=cost, sequence=sequence, start=start, completion=end)
    lower = min(lower, solution.objective)
    status = "optimal" if lower >= solution.objective else "feasible"
    seconds = solution.runtime + found.seconds
    return replace(solution, lower_bound=lower, status=status, runtime=seconds)
