"""Certified lower bounds by priced machine time.

L(u) = sum_j min_{r_j <= t <= T - p_j} [f_j(t + p_j) + U(t + p_j) - U(t)] - U(T) <= F* for every price u >= 0 that is
constant on buckets; its maximum is the LP bound of the time-indexed model (Lagrangian relaxation of the machine,
derived). Ascent: warm price read off the incumbent, smoothed dual, Polyak steps; the certificate is exact.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onlyforward.core.checks import require
from onlyforward.schedule.certificate import Certificate, seal
from onlyforward.schedule.jobs import Jobs, timetable
from onlyforward.schedule.pricing import priced, smoothed

SCALE = 1024
THETAS = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
NARROW = (0.01, 0.003, 0.001, 0.0003)
"""Smoothing at n <= 200, where Polyak steps come first: they stick, and little smoothing frees them."""
STEPS = 60
FIRST = 150
"""Evaluations of those first Polyak steps."""


@dataclass
class Dual:
    """The dual problem of one instance with its frozen head taken out, and the best prices so far.

    Attributes:
        jobs: the instance.
        fixed: frozen head.
        now: nothing else starts earlier.
        begin: when the machine is free for the others.
        horizon: when the last one ends at the latest.
        free: [n] numbers of the free jobs.
        head: cost of the frozen head.
        edges: [K + 1] of the buckets.
        best: the best bound that an evaluation gave (float).
        prices: [K] that gave it.
        iterations: evaluations.
    """

    jobs: Jobs
    fixed: tuple[int, ...]
    now: Any
    begin: Any
    horizon: Any
    free: np.ndarray
    head: Any
    edges: np.ndarray
    best: float = -math.inf
    prices: np.ndarray | None = None
    iterations: int = 0

    def __post_init__(self) -> None:
        knots, coef = self.jobs.pieces
        rows = self.free
        self.exact = (self.jobs.p[rows], np.maximum(self.jobs.r[rows], self.begin), knots[rows], coef[rows])
        self.floats = tuple(np.ascontiguousarray(array, np.float64) for array in self.exact)
        self.exact = tuple(np.ascontiguousarray(array) for array in self.exact)
        self.width = np.diff(self.edges).astype(float)

    def value(self, prices: np.ndarray) -> tuple[float, np.ndarray]:
        """L(u) in floats, head included, and a subgradient [K]; the best is kept."""
        cover = np.zeros(len(prices))
        bound = float(self.head) + priced(
            *self.floats, 1.0, self.edges.astype(np.float64), prices, float(self.horizon), cover, False
        )
        self.iterations += 1
        if bound > self.best:
            self.best, self.prices = bound, prices.copy()
        return bound, cover - self.width

    def certificate(self) -> Certificate:
        """The best prices, rounded, with the bound that they prove: exact integers, or floats less a rounding slack."""
        prices = np.zeros(len(self.width)) if self.prices is None else self.prices
        found = [self.settle(candidate) for candidate in (prices, np.zeros(len(self.width)))]
        best = max(found, key=lambda item: item["lower_bound"])
        return {**best, "seal": seal(best)}

    def settle(self, prices: np.ndarray) -> Certificate:
        """One certificate."""
        common = {"hash": self.jobs.hash, "fixed": list(map(int, self.fixed)), "now": self.now}
        cover = np.zeros(len(prices))
        if not self.jobs.whole:
            edges = self.edges.astype(float)
            bound = priced(*self.exact, 1.0, edges, prices, float(self.horizon), cover, False) + float(self.head)
            paid = float((prices * self.width).sum())
            slack = 1e-12 * (abs(bound) + 4 * len(self.free) * paid + 1.0)
            value: Any = max(0.0, bound - slack)
            return {**common, "scale": 1, "edges": edges.tolist(), "prices": prices.tolist(), "lower_bound": value}
        rows = np.arange(self.jobs.n)
        top = float(self.jobs.costs(np.full(len(rows), self.horizon)).astype(float).max())
        paid = float((prices * self.width).sum())
        scale = SCALE
        while scale > 1 and (len(rows) + 2) * (top + 2 * paid) * scale >= 2.0**62:
            scale //= 2
        whole = np.rint(prices * scale).astype(np.int64)
        total = priced(*self.exact, scale, self.edges, whole, self.horizon, cover, True)
        value = max(0, int(self.head) - (-int(total) // scale))
        edges, now = [int(edge) for edge in self.edges], int(self.now)
        return {**common, "now": now, "scale": scale, "edges": edges, "prices": whole.tolist(), "lower_bound": value}


def make_dual(
    jobs: Jobs, sequence: np.ndarray, *, fixed: tuple[int, ...] = (), now: Any = 0, k: int | None = None
) -> Dual:
    """Buckets between the completion times of an incumbent, thinned or refined to about k of them."""
    start, end = timetable(jobs, sequence, now=now, head=len(fixed))
    head = jobs.costs(end)[list(fixed)].sum() if fixed else jobs.p.dtype.type(0)
    begin = max(now, max((end[j] for j in fixed), default=0))
    free = np.array([j for j in sequence if j not in set(fixed)], np.int64)
    horizon = max([begin, jobs.r[free].max()]) + jobs.p[free].sum()
    begin, horizon = jobs.p.dtype.type(begin), jobs.p.dtype.type(horizon)
    most = k or (512 if jobs.n <= 100 else 400)
    points = end[free]
    gaps = start[free][1:] > points[:-1]
    busy = np.concatenate([start[free][:1], start[free][1:][gaps], points[:-1][gaps]])
    if len(points) > most:
        points = points[np.unique(np.linspace(0, len(points) - 1, most).astype(int))]
    edges = np.unique(np.concatenate([[begin, horizon], busy, points]))
    while 2 * len(edges) - 1 <= most + 1:
        middle = edges[:-1] + np.diff(edges) / 2
        finer = np.unique(np.concatenate([edges, np.floor(middle).astype(edges.dtype) if jobs.whole else middle]))
        if len(finer) == len(edges):
            break
        edges = finer
    edges = edges[(edges >= begin) & (edges <= horizon)]
    return Dual(jobs, fixed, now, begin, horizon, np.sort(free), head, edges)


def warm_price(dual: Dual, sequence: np.ndarray) -> np.ndarray:
    """[K] the incumbent read backwards: the price rises by marginal cost over processing; 0 at idle gaps."""
    jobs = dual.jobs
    start, end = timetable(jobs, sequence, now=dual.now, head=len(dual.fixed))
    linear = (jobs.pieces[1][..., 1] > 0).any()
    step = jobs.p.dtype.type(1 if linear else max(1, int(jobs.p.mean())))
    marginal = (jobs.costs(end + step) - jobs.costs(end)).astype(float) / float(step)
    # U from the end backwards as a piecewise quadratic, sampled at the edges: average prices are its differences.
    times, rates = [float(dual.horizon)], [0.0]
    u, after = 0.0, float(dual.horizon)
    for j in sequence[len(dual.fixed) :][::-1]:
        if end[j] < after:
            u = 0.0
            times += [after, float(end[j])]
            rates += [0.0, 0.0]
        times += [float(end[j]), float(start[j])]
        rates += [u, u + marginal[j]]
        u += marginal[j]
        after = float(start[j])
    t, rate = np.array(times[::-1]), np.array(rates[::-1])
    integral = np.concatenate([[0.0], np.cumsum(np.diff(t) * (rate[1:] + rate[:-1]) / 2)])
    at = np.interp(dual.edges.astype(float), t, integral)
    return np.diff(at) / dual.width


def smooth_stages(
    dual: Dual, prices: np.ndarray, upper: float, over: Callable[[], bool], thetas: Sequence[float] = THETAS
) -> Iterator[tuple[float, np.ndarray]]:
    """L-BFGS on the smoothed dual in the variables u sqrt(width): smoothing and prices after each of `thetas`."""
    minimize = require("scipy.optimize", "schedule").minimize
    edges = dual.edges.astype(float)
    root = np.sqrt(dual.width)
    size = float(np.linalg.norm(prices * root)) or 1.0
    scale = max(abs(upper), 1.0)
    x = prices * root / size

    class Enough(Exception):
        """The time is over."""

    for theta in thetas:
        smooth = theta * upper / len(dual.free)

        def negative(x: np.ndarray, smooth: float = smooth) -> tuple[float, np.ndarray]:
            if over():
                raise Enough
            gradient = np.zeros(len(x))
            u = np.maximum(x, 0) * size / root
            bound = smoothed(*dual.floats, edges, u, float(dual.horizon), smooth, gradient)
            dual.iterations += 1
            return -bound / scale, -gradient * size / root / scale

        try:
            found = minimize(
                negative, x, jac=True, method="L-BFGS-B", bounds=[(0, None)] * len(x), options={"maxiter": STEPS}
            )
        except Enough:
            return
        x = np.maximum(found.x, 0)
        dual.value(x * size / root)
        yield smooth, x * size / root


def polish(dual: Dual, target: Callable[[], float], over: Callable[[], bool], memory: float = 0.8) -> None:
    """Polyak steps towards the incumbent's cost, in the metric of time, with a memory of directions."""
    if dual.prices is None:
        return
    u, step, stalled = dual.prices.copy(), 1.0, 0
    direction = np.zeros(len(u))
    while not over() and step > 1e-4:
        before = dual.best
        bound, gradient = dual.value(u)
        if target() - dual.best <= 0:
            return
        stalled = 0 if dual.best > before + 1e-9 * abs(before) else stalled + 1
        if stalled >= 20 and dual.prices is not None:
            step, stalled = step * 0.7, 0
            u, direction = dual.prices.copy(), np.zeros(len(u))
            bound, gradient = dual.value(u)
        direction = gradient / dual.width + memory * direction
        square = float((dual.width * direction**2).sum())
        if square == 0:
            return
        u = np.maximum(0.0, u + step * max(target() - bound, 1e-9) / square * direction)


def ascend(dual: Dual, sequence: np.ndarray, upper: float, over: Callable[[], bool]) -> None:
    """All stages; the best prices stay in `dual`."""
    dual.value(np.zeros(len(dual.width)))
    warm = warm_price(dual, sequence)
    dual.value(warm)
    gap = float(upper) - float(dual.head)
    if gap > 0 and not over():
        small = len(dual.free) <= 200
        if small:
            spent = dual.iterations + FIRST
            polish(dual, lambda: float(upper), lambda: over() or dual.iterations >= spent)
        begin = dual.prices if small and dual.prices is not None else warm
        for _ in smooth_stages(dual, begin, gap, over, NARROW if small else THETAS):
            if float(upper) - dual.best <= 0:
                return
    polish(dual, lambda: float(upper), over)


def bound(
    jobs: Jobs,
    upper: np.ndarray | None = None,
    time_limit: float = 2.0,
    K: int | None = None,
    *,
    seed: int = 0,
    timer: Callable[[], float] = time.perf_counter,
) -> Certificate:
    """A certified lower bound; without an order `upper`, a third of the time finds one.

    Args:
        jobs: the instance.
        upper: [n] an order whose completion times place the buckets.
        time_limit: seconds, compilation left out.
        K: number of buckets (default 400, up to 512 at n <= 100).
        seed: of the search.
        timer: what `time_limit` is read from.
    """
    from onlyforward.schedule.pipeline import solve
    from onlyforward.schedule.problem import make_problem
    from onlyforward.schedule.warm import warm

    warm(jobs, make_problem(jobs), bound=True, learned=False)
    began = timer()
    if upper is None:
        upper = solve(jobs, time_limit=time_limit / 3, seed=seed, bound=False, online="off", timer=timer).sequence
    dual = make_dual(jobs, upper, k=K)
    cost = float(jobs.costs(timetable(jobs, upper)[1]).sum())
    if cost > 0:
        ascend(dual, upper, cost, lambda: timer() - began >= time_limit)
    found = dual.certificate()
    return {**found, "upper_bound": cost, "iterations": dual.iterations, "seconds": timer() - began}
