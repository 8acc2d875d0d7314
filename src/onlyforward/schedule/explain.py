"""Why is this job late: which jobs hold the time before it, what that time costs, what moving it would change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onlyforward.schedule.jobs import Jobs, timetable

if TYPE_CHECKING:
    from onlyforward.schedule.solution import Solution


@dataclass(frozen=True)
class Explanation:
    """What a planner asks about one job.

    Attributes:
        job: its number.
        cost: what it pays.
        tardiness: end minus due date, at least 0.
        price_of_its_time: what the machine time from its start to its end is worth to the others, by the certificate.
        blockers: numbers of the jobs that run between its earliest possible start and its start, dearest first.
        best_alternative_start: start at the best other position, everything else in order.
        change_if_moved: change of the total cost at that position; below 0 the plan is not locally optimal.
    """

    job: int
    cost: Any
    tardiness: Any
    price_of_its_time: float
    blockers: tuple[int, ...]
    best_alternative_start: Any
    change_if_moved: Any

    def rows(self, jobs: Jobs) -> list[list[Any]]:
        """Questions and answers."""
        names = ", ".join(jobs.names[j] for j in self.blockers[:10]) or "none"
        return [
            ["tardiness", self.tardiness],
            ["price of its time", round(self.price_of_its_time, 3)],
            ["jobs that hold the time before it, dearest to delay first", names],
            ["best other start", self.best_alternative_start],
            ["change of the total cost there", self.change_if_moved],
        ]

    def sentence(self, jobs: Jobs) -> str:
        """The short form."""
        return (
            f"Job {jobs.names[self.job]} is {self.tardiness} late and pays {self.cost}; "
            f"its best other start, {self.best_alternative_start}, changes the total by {self.change_if_moved:+}."
        )


def explain(solution: Solution, job: int) -> Explanation:
    """Explain one job of a plan."""
    jobs, sequence = solution.jobs, solution.sequence
    place = int(np.flatnonzero(sequence == job)[0])
    certificate = solution.certificate
    fixed = 0 if certificate is None else len(certificate["fixed"])
    now = 0 if certificate is None else certificate["now"]
    rest = np.delete(sequence, place)
    trials = []
    for at in range(fixed, jobs.n):
        if at != place and place >= fixed:
            order = np.insert(rest, at, job)
            start, end = timetable(jobs, order, now=now, head=fixed)
            trials.append((jobs.costs(end).sum() - solution.objective, start[job]))
    change, start = min(trials) if trials else (jobs.p.dtype.type(0), solution.start[job])
    before = [int(j) for j in sequence[:place] if solution.completion[j] > jobs.r[job]]
    late = np.where(np.arange(jobs.n) >= 0, solution.completion + jobs.p[job], 0)
    delay = jobs.costs(late) - jobs.costs(solution.completion)
    price = 0.0
    if certificate is not None:
        edges = np.array(certificate["edges"], float)
        integral = np.concatenate([[0], np.cumsum(np.array(certificate["prices"], float) * np.diff(edges))])
        a, b = np.interp([float(solution.start[job]), float(solution.completion[job])], edges, integral)
        price = float(b - a) / certificate["scale"]
    return Explanation(
        job,
        jobs.costs(solution.completion)[job].item(),
        max(solution.completion[job] - jobs.due[job], 0).item(),
        price,
        tuple(sorted(before, key=lambda j: -delay[j])),
        start.item(),
        change.item(),
    )
