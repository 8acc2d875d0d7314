"""What the search sees: the jobs that are free to move, where time begins, and what is settled already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onlyforward.schedule.cost import evaluate
from onlyforward.schedule.jobs import Jobs, timetable


@dataclass(frozen=True, eq=False)
class Problem:
    """Arrays of the kernels for the free jobs.

    Attributes:
        p: [n] processing times.
        r: [n] releases, at least `start`.
        knots: [n, m].
        coef: [n, m, 3].
        start: scalar, when the machine is free.
        index: [n] numbers of these jobs in the instance.
        head: jobs that keep the first positions.
        tail: jobs whose cost cannot change, which go last.
        released: whether some job comes after `start`.
    """

    p: np.ndarray
    r: np.ndarray
    knots: np.ndarray
    coef: np.ndarray
    start: Any
    index: np.ndarray
    head: tuple[int, ...]
    tail: np.ndarray
    released: bool

    @property
    def n(self) -> int:
        """Number of free jobs."""
        return len(self.p)

    @property
    def mean(self) -> float:
        """Mean processing time."""
        return float(self.p.mean())

    @property
    def horizon(self) -> Any:
        """No left-shifted schedule of these jobs ends later."""
        return max(self.start, self.r.max()) + self.p.sum() if self.n else self.start

    def value(self, rows: np.ndarray, completion: np.ndarray) -> np.ndarray:
        """Costs of jobs `rows` at completion times."""
        return evaluate(self.knots, self.coef, rows, completion)

    def completion(self, order: np.ndarray) -> np.ndarray:
        """[n] completion times by position."""
        if not self.released:
            done: np.ndarray = self.start + np.cumsum(self.p[order])
            return done
        done, t = np.empty_like(self.p), self.start
        for i, j in enumerate(order):
            t = max(t, self.r[j]) + self.p[j]
            done[i] = t
        return done

    def cost(self, order: np.ndarray) -> Any:
        """Cost of an order of the free jobs."""
        return self.value(order, self.completion(order)).sum()

    def floor(self) -> Any:
        """Sum of the jobs' costs when each is served first: no schedule is cheaper."""
        return self.value(np.arange(self.n), np.maximum(self.r, self.start) + self.p).sum()

    def sequence(self, order: np.ndarray) -> np.ndarray:
        """The order of all jobs of the instance."""
        return np.concatenate([np.array(self.head, np.int64), self.index[order], self.tail]).astype(np.int64)


def make_problem(jobs: Jobs, *, fixed: Sequence[int] = (), now: Any = 0) -> Problem:
    """Take out the frozen head and the jobs whose cost cannot change."""
    head = tuple(fixed)
    _start, end = timetable(jobs, np.array(head, np.int64))
    begin = max(now, max((end[j] for j in head), default=0))
    free = np.setdiff1d(np.arange(jobs.n), np.array(head, np.int64))
    zero = jobs.p.dtype.type(0)
    begin = zero + begin
    r = np.maximum(jobs.r, begin)
    horizon = (r[free].max() + jobs.p[free].sum()) if len(free) else begin
    first, last = jobs.costs(r + jobs.p), jobs.costs(np.full(jobs.n, horizon))
    movable = free[(first < last)[free]]
    tail = free[(first >= last)[free]]
    tail = tail[np.argsort(r[tail], kind="stable")]
    knots, coef = jobs.pieces
    return Problem(
        np.ascontiguousarray(jobs.p[movable]),
        np.ascontiguousarray(r[movable]),
        np.ascontiguousarray(knots[movable]),
        np.ascontiguousarray(coef[movable]),
        begin,
        movable,
        head,
        tail,
        bool((r[movable] > begin).any()),
    )
