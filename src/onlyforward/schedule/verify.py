"""`schedule verify`: cost of a plan and value of a certificate, recomputed without kernels and without torch."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from onlyforward.core.errors import FileError, UsageError
from onlyforward.schedule.certificate import check_certificate, value
from onlyforward.schedule.command import Verify
from onlyforward.schedule.jobs import Jobs
from onlyforward.schedule.read import COLUMNS, read_instance, read_plan, text_of

if TYPE_CHECKING:
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result


def verify(options: Verify, context: Context) -> Result:
    """Check the plan's starts and costs, and the certificate's bound."""
    if not options.files or options.plan is None:
        raise UsageError("schedule verify needs an instance and --plan", "Give both files")
    jobs = read_instance(
        options.files[0],
        format=options.format,
        index=options.index or None,
        n=options.n or None,
        objective=options.objective or None,
    )
    objective = plan_cost(jobs, options)
    lower: Any = 0
    if options.certificate is not None:
        try:
            certificate = json.loads(text_of(options.certificate))
        except ValueError as error:
            raise FileError(f"{options.certificate} is no JSON", "Write it anew") from error
        lower = check_certificate(jobs, certificate)
        if lower > objective:
            raise UsageError(
                f"The bound {lower} passes the plan's cost {objective}", "One of the two files was changed"
            )
    result = context.result(question="Is this plan what it says, and is the bound proven?")
    result.metric("objective", objective)
    result.metric("lower_bound", lower)
    result.metric("gap", (objective - lower) / objective if objective else 0.0)
    result.metric("valid", 1)
    result.answer = f"The plan costs {objective}, and no plan costs less than {lower}: both re-checked."
    return result


def plan_cost(jobs: Jobs, options: Verify) -> Any:
    """Recompute starts, ends and costs of every row.

    Raises:
        FileError: a number in the plan is not what the instance gives.
    """
    path = options.plan
    assert path is not None
    order = read_plan(path, jobs)
    if len(order) != jobs.n:
        raise FileError(f"{path} holds {len(order)} of {jobs.n} jobs", "Give a complete plan")
    lines = [line for line in text_of(path).splitlines() if line.strip()]
    separator = max(",;\t", key=lines[0].count)
    heads = [COLUMNS.get(word.strip().lower(), word.strip().lower()) for word in lines[0].split(separator)]
    convert: Any = int if jobs.whole else float
    free, total = convert(0), convert(0)
    for row, (line, j) in enumerate(zip(lines[1:], order, strict=True), start=2):
        cells = dict(zip(heads, line.split(separator), strict=False))
        earliest = max(free, convert(jobs.r[j]))
        try:
            start = convert(cells["start"]) if "start" in cells else earliest
            end = convert(cells["end"]) if "end" in cells else start + convert(jobs.p[j])
            paid = convert(cells["cost"]) if "cost" in cells else None
            due = convert(cells["due"]) if "due" in cells else convert(jobs.due[j])
        except ValueError as error:
            raise FileError(f"{path}, row {row}: a cell is not a number", "Write the plan anew") from error
        length, scale = convert(jobs.p[j]), max(1.0, abs(float(end)))
        if start < earliest or abs(end - start - length) > (0 if jobs.whole else 1e-9 * scale):
            raise FileError(f"{path}, row {row}: {start} to {end} is not possible", "Write the plan anew")
        if due != convert(jobs.due[j]):
            raise FileError(f"{path}, row {row}: the due date is {jobs.due[j]}, not {due}", "Write the plan anew")
        knots, coef = jobs.pieces
        cost = value([convert(k) for k in knots[j]], coef[j].tolist(), end, convert)
        if paid is not None and abs(paid - cost) > (0 if jobs.whole else 1e-9 * max(1.0, abs(cost))):
            raise FileError(f"{path}, row {row}: the cost is {cost}, not {paid}", "Write the plan anew")
        free, total = end, total + cost
    return total
