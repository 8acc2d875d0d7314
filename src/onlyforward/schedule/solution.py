"""What a solve gives back: the plan with its proof, and the incumbent that is kept on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from onlyforward.schedule.certificate import Certificate
from onlyforward.schedule.jobs import Jobs
from onlyforward.schedule.problem import Problem


@dataclass(frozen=True, eq=False)
class Solution:
    """A plan with its proof.

    Attributes:
        jobs: the instance.
        objective: cost of the plan.
        lower_bound: no plan is cheaper.
        status: "optimal" or "feasible".
        runtime: seconds, compilation left out.
        warmup: seconds of compilation.
        sequence: [n] job numbers in order.
        start: [n] start of each job.
        completion: [n].
        certificate: proves the lower bound; None without one.
        trace: (seconds, cost) of every incumbent.
        start_objective: cost of the best start before the search.
        kicks: kicks of the iterated search.
        online_steps: steps of the online learning.
    """

    jobs: Jobs
    objective: Any
    lower_bound: Any
    status: str
    runtime: float
    warmup: float
    sequence: np.ndarray
    start: np.ndarray
    completion: np.ndarray
    certificate: Certificate | None
    trace: list[tuple[float, Any]]
    start_objective: Any
    kicks: int
    online_steps: int

    @property
    def gap(self) -> float:
        """(objective - lower bound) / objective; 0 for an objective of 0."""
        return 0.0 if self.objective == 0 else float(self.objective - self.lower_bound) / float(self.objective)

    def table(self) -> list[list[Any]]:
        """Rows job, start, end, due, cost, in the order of the plan."""
        cost = self.jobs.costs(self.completion)
        return [
            [self.jobs.names[j], *(x[j].item() for x in (self.start, self.completion, self.jobs.due, cost))]
            for j in self.sequence
        ]

    def gantt(self, path: Path | str) -> None:
        """Write the plan as one SVG."""
        from onlyforward.schedule.gantt import write_gantt

        write_gantt(self, Path(path))

    def explain(self, job: int) -> Any:
        """Why a job costs what it costs; see `onlyforward.schedule.explain`."""
        from onlyforward.schedule.explain import explain

        return explain(self, job)

    def metrics(self) -> dict[str, float]:
        """The numbers of result.json."""
        late = np.maximum(self.completion - self.jobs.due, 0)
        return {
            "objective": self.objective, "lower_bound": self.lower_bound, "gap": self.gap,
            "proved": int(self.status == "optimal"), "seconds": self.runtime, "warmup_seconds": self.warmup,
            "n": self.jobs.n, "tardy_jobs": int((late > 0).sum()), "max_tardiness": late.max().item(),
            "makespan": self.completion.max().item(), "start_objective": self.start_objective, "kicks": self.kicks,
            "online_steps": self.online_steps,
        }  # fmt: skip


@dataclass
class Incumbent:
    """The best order so far, shared with the bound's thread."""

    problem: Problem
    constant: Any
    callback: Callable[[float, Any], None] | None
    clock: Any
    cost: Any = None
    order: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    trace: list[tuple[float, Any]] = field(default_factory=list)

    def __call__(self, order: np.ndarray, cost: Any) -> None:
        """Take an order of the free jobs if it is better."""
        if self.cost is None or cost < self.cost:
            self.order, self.cost = order.copy(), cost
            self.trace.append((self.clock.elapsed, (self.constant + cost).item()))
            if self.callback is not None:
                self.callback(*self.trace[-1])
