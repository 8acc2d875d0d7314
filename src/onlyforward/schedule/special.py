"""Instances whose optimum is proven by construction (LP duality of the time-indexed model; derived).

With U(t) the integral of a price u >= 0: if c_j(t) >= v_j - (U(t + p_j) - U(t)) for all t >= r_j, with equality at the
drawn start S_j, the drawn sequence is optimal. These have no integrality gap: real instances are harder. `blocks`
instead concatenates small instances that are solved exactly, and looks decomposable.
"""

from __future__ import annotations

import numpy as np

from onlyforward.core.keys import Key
from onlyforward.schedule.cost import Piecewise, evaluate
from onlyforward.schedule.jobs import Jobs, timetable

Special = tuple[Jobs, int, np.ndarray]
"""Instance, optimum, an optimal sequence."""


def tardiness(n: int, key: Key, *, parts: int = 1) -> Special:
    """Weighted tardiness from prices that are convex and fall to 0 within each of `parts` busy periods.

    A tardy job weighs u(S) - u(C); a just-in-time one (d = C) at least that. With several periods there are idle gaps
    at price 0 between them, and releases anywhere in [start of the period, S_j].
    """
    draw = key.numpy()
    p, sequence = draw.integers(1, 101, n), draw.permutation(n)
    weight, due, r = np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n, np.int64)
    share = draw.uniform(0.1, 0.7)
    begin = 0
    for part in np.array_split(sequence, min(parts, n)):
        end = begin + np.cumsum(p[part])
        # u is linear over each job and convex over the period: the ratios w/p fall from first to last, also rounded.
        rate, bar = np.sort(draw.gamma(0.7, 0.2, len(part)))[::-1], np.inf
        for position, j in enumerate(part):
            weight[j] = int(np.floor(min(rate[position], bar) * p[j]))
            bar = weight[j] / p[j]
        just = draw.random(len(part)) < share
        due[part] = np.where(just, end, begin + draw.integers(0, end - begin))
        weight[part] += just * draw.integers(0, 5, len(part))
        if parts > 1:
            r[part] = begin + draw.integers(0, end - p[part] - begin + 1)
            r[part[0]] = begin
        begin = int(end[-1]) + int(draw.integers(0, 1 + 20 * n // parts))
    jobs = Jobs(p, r=r, weight=weight, due=due)
    return jobs, int(jobs.costs(timetable(jobs, sequence)[1]).sum()), sequence


def any_cost(n: int, key: Key, *, parts: int = 1, windows: int = 32) -> Special:
    """Any non-decreasing cost, as steps: the running maximum of v - (U(t + p) - U(t)), clipped before the start.

    Prices fall within each of `parts` busy periods and are 0 in the gaps; releases as in `tardiness`. Steps end at
    `windows` common times and at the job's own completion, which keeps the equality there.
    """
    draw = key.numpy()
    p, sequence = draw.integers(1, 31, n), draw.permutation(n)
    r, begin, pieces = np.zeros(n, np.int64), 0, []
    for part in np.array_split(sequence, min(parts, n)):
        end = begin + np.cumsum(p[part])
        gap = int(draw.integers(0, 1 + 10 * n // parts)) if parts > 1 else 0
        if parts > 1:
            r[part] = begin + draw.integers(0, end - p[part] - begin + 1)
            r[part[0]] = begin
        pieces += [np.sort(draw.integers(0, 50, int(end[-1]) - begin))[::-1], np.zeros(gap, np.int64)]
        begin = int(end[-1]) + gap
    start, end = timetable(Jobs(p, r=r, cost="weighted-completion"), sequence)
    price = np.concatenate([*pieces, np.zeros(int(r.max()) + int(p.sum()), np.int64)])
    horizon = int(r.max() + p.sum())
    integral = np.concatenate([[0], np.cumsum(price)])
    common = np.unique(np.linspace(0, horizon, windows + 1)[1:].astype(np.int64))
    knots, value = np.zeros((n, len(common) + 1), np.int64), np.zeros((n, len(common) + 1), np.int64)
    for j in range(n):
        t = np.arange(r[j], horizon - p[j] + 1)
        g = draw.integers(0, 200) + integral[start[j] + p[j]] - integral[start[j]] - integral[t + p[j]] + integral[t]
        at = start[j] - r[j]
        cost = np.maximum.accumulate(np.maximum(g, 0) + draw.integers(0, 20, len(t)) * (np.arange(len(t)) != at))
        cost[: at + 1] = np.minimum(cost[: at + 1], g[at])
        ends = np.sort(np.append(common, end[j]))
        knots[j, 1:] = ends[:-1]
        value[j] = cost[np.clip(ends - p[j] - r[j], 0, len(t) - 1)]
    coef = np.zeros((*knots.shape, 3), np.int64)
    coef[..., 0] = value
    jobs = Jobs(p, r=r, cost=Piecewise(knots, coef))
    return jobs, int(jobs.costs(end).sum()), sequence


def with_releases(n: int, key: Key) -> Special:
    """`tardiness` or `any_cost` with two to five busy periods, idle gaps between them and releases."""
    draw = key.at(site=f"{key.site} parts").numpy()
    make = tardiness if draw.random() < 0.5 else any_cost
    return make(n, key, parts=int(draw.integers(2, 6)))


def blocks(n: int, key: Key, *, size: int = 7) -> Special:
    """Small blocks solved exactly by subset dynamic programming; each is shifted by the makespan of those before."""
    draw = key.numpy()
    p, w = draw.integers(1, 51, n), draw.integers(1, 11, n)
    r, due, sequence, shift, cost = np.zeros(n, np.int64), np.zeros(n, np.int64), [], 0, 0
    for low in range(0, n, size):
        part = np.arange(low, min(n, low + size))
        span = int(p[part].sum())
        due[part] = draw.integers(0, span + 1, len(part))
        best, order = subset_optimum(Jobs(p[part], weight=w[part], due=due[part]))
        r[part], due[part] = shift, due[part] + shift
        sequence += list(part[order])
        shift, cost = shift + span, cost + best
    return Jobs(p, r=r, weight=w, due=due), int(cost), np.array(sequence)


def subset_optimum(jobs: Jobs) -> tuple[int, np.ndarray]:
    """Optimum without releases by dynamic programming over subsets, n <= 15."""
    n = jobs.n
    time = [0] * (1 << n)
    best: list[tuple[int, int]] = [(0, -1)] * (1 << n)
    horizon = int(jobs.p.sum())
    table = evaluate(*jobs.pieces, np.arange(n)[None], np.arange(horizon + 1, dtype=np.int64)[:, None]).tolist()
    for mask in range(1, 1 << n):
        low = (mask & -mask).bit_length() - 1
        time[mask] = time[mask & (mask - 1)] + int(jobs.p[low])
        best[mask] = min((best[mask ^ (1 << j)][0] + table[time[mask]][j], j) for j in range(n) if mask >> j & 1)
    order, mask = [], (1 << n) - 1
    while mask:
        order.append(best[mask][1])
        mask ^= 1 << best[mask][1]
    return best[-1][0], np.array(order[::-1])
