"""The pipeline: reduce, rules, descent, learned starts, iterated search, with the bound in a second thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from onlyforward.core.checks import check_choice, check_range
from onlyforward.core.errors import UsageError
from onlyforward.core.keys import Key
from onlyforward.schedule import rules
from onlyforward.schedule.certificate import Certificate
from onlyforward.schedule.jobs import Jobs, timetable
from onlyforward.schedule.problem import Problem, make_problem

STARTS = ("auto", "rules", "edd")
ONLINE = ("auto", "off", "surrogate", "control")
SEARCHES = ("auto", "none", "descent", "iterated")
ROUNDS = 3
"""Ascents of the priced starts, each from the incumbent that the one before left."""
warmed: dict[tuple[str, int, bool, bool], float] = {}


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


class Pricing(threading.Thread):
    """The bound, beside the search: starts anew from the newest incumbent until the time is over."""

    def __init__(
        self, jobs: Jobs, fixed: tuple[int, ...], now: Any, incumbent: Incumbent, over: Callable[[], bool]
    ) -> None:
        super().__init__(daemon=True)
        self.jobs, self.fixed, self.now, self.incumbent, self.over = jobs, fixed, now, incumbent, over
        self.certificate: Certificate | None = None
        self.done = False

    def run(self) -> None:
        """Rounds of ascent."""
        from onlyforward.schedule.dual import ascend, make_dual

        while True:
            order = self.incumbent.order
            sequence = self.incumbent.problem.sequence(order)
            cost = self.incumbent.constant + self.incumbent.cost
            dual = make_dual(self.jobs, sequence, fixed=self.fixed, now=self.now)
            ascend(dual, sequence, float(cost), self.over)
            found = dual.certificate()
            if self.certificate is None or found["lower_bound"] > self.certificate["lower_bound"]:
                self.certificate = found
            if self.over() or self.incumbent.order is order:
                self.done = True
                return


def solve(
    jobs: Jobs,
    objective: Any = None,
    time_limit: float = 5.0,
    iterations: int | None = None,
    seed: int = 0,
    initial: Sequence[int] | None = None,
    fixed: Sequence[int] = (),
    now: Any = None,
    start: str = "auto",
    online: str = "auto",
    search: str = "auto",
    bound: bool = True,
    gap_limit: float = 0.0,
    span: int | None = None,
    goal: Any = None,
    callback: Callable[[float, Any], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Solution:
    """Schedule the jobs.

    Args:
        jobs: the instance.
        objective: another cost than the instance's own.
        time_limit: seconds, compilation left out.
        iterations: kicks of the iterated search; with it the result does not depend on the clock.
        seed: run coordinate of the random numbers.
        initial: a plan to begin with; missing jobs are inserted greedily.
        fixed: job numbers that keep the first positions in this order.
        now: nothing else starts earlier.
        start: auto, rules or edd.
        online: auto, off, surrogate or control.
        search: auto, none, descent or iterated.
        bound: also compute a certified lower bound.
        gap_limit: stop at this certified gap.
        span: longest move in positions; 0 is full, None 60 with releases and full without.
        goal: stop at this cost.
        callback: called with (seconds, cost) for every incumbent.
        stop: asked now and then; True ends the solve with what there is.
    """
    from onlyforward.schedule.search import SMALL, Clock, descent, iterated, windows

    jobs = jobs if objective is None else jobs.with_cost(objective)
    check_range(time_limit, name="time_limit", low=0.0, open_low=True)
    for value, known, name in ((start, STARTS, "start"), (online, ONLINE, "online"), (search, SEARCHES, "search")):
        check_choice(value, known, name=name)
    fixed = tuple(fixed)
    if len(set(fixed)) < len(fixed):
        raise UsageError("--fixed names a job twice", "Name every job once")
    moment = jobs.p.dtype.type(0) if now is None else jobs.p.dtype.type(now)
    if moment > jobs.horizon:
        raise UsageError(f"--now {moment} lies after the horizon {jobs.horizon}", "Check the unit of time")
    problem = make_problem(jobs, fixed=fixed, now=moment)
    warmup = warm(jobs, problem, bound)
    clock = Clock(time_limit, iterations)
    settled = np.concatenate([np.array(fixed, np.int64), problem.tail])
    done = timetable(jobs, problem.sequence(np.arange(problem.n)), now=moment, head=len(fixed))[1]
    constant = jobs.costs(done)[settled].sum() if len(settled) else jobs.p.dtype.type(0)
    incumbent = Incumbent(problem, constant, callback, clock)
    floor = problem.floor() if problem.n else constant - constant
    pricing: Pricing | None = None

    def close_enough() -> bool:
        if stop() or (goal is not None and incumbent.trace and incumbent.trace[-1][1] <= goal):
            return True
        if incumbent.cost is not None and incumbent.cost <= floor:
            return True
        proof = pricing.certificate if pricing is not None else None
        if proof is None or incumbent.cost is None:
            return False
        cost = float(constant + incumbent.cost)
        return cost - proof["lower_bound"] <= gap_limit * cost

    clock.stop = close_enough
    steps = 0
    if problem.n:
        pool = make_starts(problem, initial, start)
        for order in pool:
            incumbent(order, problem.cost(order))
    else:
        incumbent(np.zeros(0, np.int64), jobs.p.dtype.type(0))
    begun = incumbent.trace[-1][1]
    if bound and problem.n and not close_enough():
        pricing = Pricing(jobs, fixed, moment, incumbent, lambda: clock.left <= 0.02 or stop())
        pricing.start()
    key = Key(run=seed)
    if problem.n and search != "none" and not clock.over:
        if problem.n <= SMALL and search != "descent":
            iterated(problem, pool, clock, incumbent, key, span=span, goal=None if goal is None else goal - constant)
        else:
            descent(problem, incumbent.order, clock, incumbent, span=span)
            if start == "auto":
                priced_search(jobs, problem, constant, moment, clock, incumbent, span)
            if online != "off" and (online != "auto" or learned_start_pays(problem)) and not clock.over:
                from onlyforward.schedule.online import learned_starts

                for learned, used in learned_starts(problem, pool, clock, key, method=online):
                    steps += used
                    incumbent(learned, problem.cost(learned))
                    descent(problem, learned, clock, incumbent, span=span)
            if search != "descent":
                windows(problem, incumbent.order, clock, incumbent, key)
    if pricing is not None:
        while pricing.is_alive() and not (stop() or clock.left <= -0.15):
            pricing.join(0.02)
            if iterations is None and close_enough():
                break
    sequence = problem.sequence(incumbent.order)
    began, ended = timetable(jobs, sequence, now=moment, head=len(fixed))
    cost = jobs.costs(ended).sum()
    certificate = pricing.certificate if pricing is not None else None
    least = 0 if certificate is None else certificate["lower_bound"]
    least = max(least, (constant + floor).item())
    status = "optimal" if least >= cost * (1 if jobs.whole else 1 - 1e-9) else "feasible"
    return Solution(
        jobs, cost.item(), min(least, cost.item()), status, clock.elapsed, warmup, sequence, began, ended, certificate,
        incumbent.trace, begun, clock.kicks, steps,
    )  # fmt: skip


def priced_search(
    jobs: Jobs, problem: Problem, constant: Any, now: Any, clock: Any, incumbent: Incumbent, span: int | None
) -> None:
    """Rounds of priced starts, each descended, from the newest incumbent, until a round brings nothing."""
    from onlyforward.schedule.priced import priced_orders
    from onlyforward.schedule.search import descent

    for _ in range(ROUNDS):
        before = incumbent.cost
        until = clock.left / 2

        def over(until: float = until) -> bool:
            return bool(clock.over or clock.left < until)

        orders = priced_orders(jobs, problem, incumbent.order, constant + before, now, over)
        for order in orders:
            descent(problem, order, clock, incumbent, span=span)
            if clock.over:
                return
        if incumbent.cost >= before:
            return


def learned_start_pays(problem: Problem) -> bool:
    """Beyond 200 jobs without releases, where a gradient start was measured to help."""
    return 200 < problem.n <= 2000 and not problem.released


def make_starts(problem: Problem, initial: Sequence[int] | None, start: str) -> list[np.ndarray]:
    """Orders to begin with, best first; a given plan comes before all rules."""
    if start == "edd":
        found = [rules.edd(problem)]
    else:
        found = [order for _, order in rules.starts(problem, quick=problem.n > 200)]
    if initial is not None:
        place = {int(j): i for i, j in enumerate(problem.index)}
        order = [place[j] for j in initial if j in place]
        for i in rules.edd(problem):
            if int(i) not in set(order):
                trials = [[*order[:at], int(i), *order[at:]] for at in range(len(order) + 1)]
                order = min(trials, key=lambda trial: problem.cost(np.array(trial)))
        found.insert(0, np.array(order, np.int64))
    return found


def warm(jobs: Jobs, problem: Problem, bound: bool) -> float:
    """Compile (or load) the kernels on three jobs, once per process and kind of numbers; seconds."""
    shape = (jobs.arithmetic, jobs.pieces[0].shape[1], problem.released, bound)
    if shape in warmed:
        return 0.0
    began = time.perf_counter()
    from onlyforward.schedule import search
    from onlyforward.schedule.compiled import COMPILED, engine

    if not COMPILED:
        warmed[shape] = 0.0
        return 0.0
    kernels, wide = engine()

    few = Jobs(np.ones(3, jobs.p.dtype) * 2, due=np.ones(3, jobs.p.dtype), weight=np.ones(3, jobs.p.dtype) * 1)
    if not jobs.whole:
        few = Jobs(np.array([2.5, 1.0, 1.0]), due=np.ones(3))
    small = make_problem(few)
    order = np.arange(3)
    values = search.arrays(small)
    kernels.descend(order, *values, problem.released, 3, 3, 1)
    cost = small.cost(order)
    kernels.iterate(
        order, order.copy(), np.array([cost, cost]), np.zeros(2, np.int64), *values, problem.released, np.array([3, 3]),
        np.zeros((1, 10, 2)), np.array([6]), 5, small.p.dtype.type(-1),
    )  # fmt: skip
    kernels.total(order, *values)
    if bound or jobs.n > search.SMALL:
        from onlyforward.schedule.dual import ascend, make_dual
        from onlyforward.schedule.pricing import smoothed, soft_starts

        dual = make_dual(few, np.arange(3))
        ascend(dual, np.arange(3), 10.0, lambda: dual.iterations > 4)
        dual.certificate()
        if jobs.n > search.SMALL:
            edges, end = dual.edges.astype(float), float(dual.horizon)
            smoothed(*dual.floats, edges, dual.width, end, 1.0, dual.width.copy())
            soft_starts(*dual.floats, edges, dual.width, end, 1.0, np.array([0.5]), np.empty((2, 3)))
            if jobs.whole and not problem.released:
                wide.improve_wide(order, *values, 2, np.zeros((4, 5), np.int64))
    warmed[shape] = time.perf_counter() - began
    return warmed[shape]


solve_schedule = solve
"""The name under which `import onlyforward as of` offers it: `of.solve_schedule`."""
