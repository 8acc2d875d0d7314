"""Descent, iterated dynasearch and windows over the kernels, with the clock looked at between short kernel calls."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onlyforward.core.keys import Key
from onlyforward.schedule.compiled import engine
from onlyforward.schedule.problem import Problem

PATIENCE = 200
"""Kicks without gain after which the search returns to its best order."""
RESTART = 2000
"""Kicks without gain after which it begins again from another start."""
SMALL = 200
"""Jobs up to which the whole order is kicked; beyond, windows of this length."""
RELEASE_SPAN = 60
MOST_CELLS = 8_000_000
"""Cells of the table of shifted costs: 64 MB."""


@dataclass
class Clock:
    """Deadline, stop request and iteration budget of one solve.

    Attributes:
        limit: seconds.
        iterations: kicks, or None.
        stop: asked now and then; True ends the search.
        timer: what the seconds are read from; `time.process_time` counts processor time, for busy machines.
    """

    limit: float
    iterations: int | None = None
    stop: Callable[[], bool] = lambda: False
    timer: Callable[[], float] = time.perf_counter
    began: float = field(init=False)
    kicks: int = 0

    def __post_init__(self) -> None:
        self.began = self.timer()

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return self.timer() - self.began

    @property
    def left(self) -> float:
        """Seconds that remain."""
        return self.limit - self.elapsed

    @property
    def over(self) -> bool:
        """Whether the search must end."""
        spent = self.iterations is not None and self.kicks >= self.iterations
        return spent or self.left <= 0 or self.stop()


Report = Callable[[np.ndarray, Any], None]


def spans(problem: Problem, span: int | None) -> tuple[int, int]:
    """Insertion and swap span: full without releases, 60 with them unless asked otherwise."""
    full = problem.n
    if span:
        return span, span
    return (RELEASE_SPAN, RELEASE_SPAN) if problem.released and span is None else (full, full)


def arrays(problem: Problem) -> tuple[Any, ...]:
    """What the kernels take after the order."""
    return problem.start, problem.p, problem.r, problem.knots, problem.coef


def descent(
    problem: Problem, order: np.ndarray, clock: Clock, report: Report, *, span: int | None = None
) -> np.ndarray:
    """Dynasearch to a local optimum; beyond 200 jobs insertions first, then passes of all moves by tabulated sums."""
    kernels, wide = engine()
    order = order.copy()
    insertion, swap = spans(problem, span)
    tabulated = table_of(problem) if problem.n > SMALL and swap == problem.n and not problem.released else None
    if tabulated is not None:
        while not clock.over:
            if kernels.descend(order, *arrays(problem), None, insertion, 0, 8) >= 0:
                report(order, problem.cost(order))
                if wide.improve_wide(order, *arrays(problem), *tabulated) >= 0:
                    break
    else:
        for width in (min(swap, 60), swap) if problem.n > SMALL else (swap,):
            while not clock.over:
                if kernels.descend(order, *arrays(problem), problem.released or None, insertion, width, 2) >= 0:
                    break
    report(order, problem.cost(order))
    return order


def table_of(problem: Problem) -> tuple[int, np.ndarray] | None:
    """Longest processing time and an empty table for `improve_wide`; None for fractions or where it grows too large."""
    if problem.p.dtype != np.int64:
        return None
    longest = int(problem.p.max())
    cells = (problem.n + 1) * (2 * longest + 1)
    return (longest, np.zeros((problem.n + 1, 2 * longest + 1), np.int64)) if cells <= MOST_CELLS else None


def iterated(
    problem: Problem,
    pool: list[np.ndarray],
    clock: Clock,
    report: Report,
    key: Key,
    *,
    span: int | None = None,
    goal: Any = None,
) -> None:
    """Iterated dynasearch over the whole order, restarted from the next of `pool` after RESTART kicks without gain."""
    kernels, _ = engine()
    goal = problem.p.dtype.type(-1) if goal is None else goal
    limits = np.array(spans(problem, span))
    begin, chunk, batch = 0, 0, 8
    while not clock.over:
        best = pool[begin % len(pool)].copy()
        if begin >= len(pool):
            noise = 20 * key.at(site="restart", step=begin).numpy().random(problem.n)
            best = best[np.argsort(np.arange(problem.n) + noise, kind="stable")]
        kernels.descend(best, *arrays(problem), problem.released or None, *limits, 10_000)
        current = best.copy()
        cost = problem.cost(best)
        costs, counts = np.array([cost, cost]), np.zeros(2, np.int64)
        report(best, cost)
        while not clock.over and counts[0] < RESTART:
            if clock.iterations is not None:
                batch = min(batch, clock.iterations - clock.kicks)
            generator = key.at(site="kick", step=chunk).numpy()
            picks, sizes = generator.random((64, 10, 2)), generator.integers(6, 11, 64)
            tick = clock.timer()
            used = 0
            # A chunk of random numbers is always used up, in as many calls as the clock asks for: replay stays exact.
            while used < 64 and not clock.over:
                until = min(64, used + batch)
                made = kernels.iterate(
                    current, best, costs, counts, *arrays(problem), problem.released or None, limits,
                    picks[used:until], sizes[used:until], PATIENCE, goal,
                )  # fmt: skip
                clock.kicks += made
                if made < until - used:
                    report(best, costs[1])
                    return
                used = until
                spent = clock.timer() - tick
                batch = max(1, min(64, int(used / max(spent, 1e-6) * 0.03)))
                if clock.iterations is not None:
                    batch = max(1, min(batch, clock.iterations - clock.kicks))
            report(best, costs[1])
            chunk += 1
        begin += 1


def windows(problem: Problem, order: np.ndarray, clock: Clock, report: Report, key: Key) -> np.ndarray:
    """Beyond 200 jobs: iterated dynasearch on windows of 200 positions, drawn one after the other."""
    order, step = order.copy(), 0
    size, half = SMALL, SMALL // 2
    places = [*list(range(0, max(1, problem.n - size), half)), max(0, problem.n - size)]
    while not clock.over:
        shuffled = key.at(site="window", step=step).numpy().permutation(len(places))
        for place in shuffled:
            if clock.over:
                break
            low = places[place]
            here = key.at(site="inside", step=step, copy=int(place))
            window(problem, order, low, min(problem.n, low + size), clock, here)
            report(order, problem.cost(order))
        step += 1
    return order


def window(problem: Problem, order: np.ndarray, low: int, high: int, clock: Clock, key: Key, kicks: int = 60) -> None:
    """Kick one window of the order in place; with releases a change counts only if the whole order gets better."""
    kernels, _ = engine()
    done = problem.completion(order)
    start = problem.start if low == 0 else done[low - 1]
    part = order[low:high].copy()
    best, current = part.copy(), part.copy()
    cost = kernels.total(part, start, *arrays(problem)[1:])
    costs, counts = np.array([cost, cost]), np.zeros(2, np.int64)
    generator = key.numpy()
    picks, sizes = generator.random((kicks, 10, 2)), generator.integers(6, 11, kicks)
    span = min(RELEASE_SPAN, high - low) if problem.released else high - low
    # One kick a call: a descent of 200 jobs takes long enough for the clock to be asked after each.
    for kick in range(kicks):
        if clock.over:
            break
        clock.kicks += kernels.iterate(
            current, best, costs, counts, start, *arrays(problem)[1:], problem.released or None, np.array([span, span]),
            picks[kick : kick + 1], sizes[kick : kick + 1], PATIENCE, problem.p.dtype.type(-1),
        )  # fmt: skip
    if costs[1] < cost:
        trial = order.copy()
        trial[low:high] = best
        if problem.cost(trial) < problem.cost(order):
            order[:] = trial
