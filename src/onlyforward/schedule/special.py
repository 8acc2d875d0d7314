"""Instances whose optimum is proven by construction (LP duality of the time-indexed model; derived).

With U(t) the integral of a price u >= 0: if c_j(t) >= v_j - (U(t + p_j) - U(t)) for all t, with equality at the drawn
start S_j, the drawn sequence is optimal. These instances have no integrality gap: real ones are harder.
"""

from __future__ import annotations

import numpy as np

from onlyforward.core.keys import Key
from onlyforward.schedule.cost import Table
from onlyforward.schedule.jobs import Jobs, timetable

Special = tuple[Jobs, int, np.ndarray]
"""Instance, optimum, an optimal sequence."""


def tardiness(n: int, key: Key) -> Special:
    """Weighted tardiness from a convex falling price: tardy jobs weigh u(S) - u(C); just-in-time ones at least that."""
    draw = key.numpy()
    p, sequence = draw.integers(1, 101, n), draw.permutation(n)
    _start, end = timetable(Jobs(p, cost="weighted-completion"), sequence)
    # u is linear over each job and convex over all: the slopes w/p fall from first to last.
    rate = np.sort(draw.gamma(0.7, 0.2, n))[::-1]
    weight = np.zeros(n, np.int64)
    due = np.zeros(n, np.int64)
    just = draw.random(n) < draw.uniform(0.1, 0.7)
    # Integer weights with falling w/p: floor against the running minimum of the ratios.
    bar = np.inf
    for position, j in enumerate(sequence):
        exact = min(rate[position], bar) * p[j]
        weight[j] = int(np.floor(exact))
        # The true price slope over this job is w/p; a just-in-time job may weigh more.
        bar = weight[j] / p[j]
        due[j] = end[j] if just[j] else draw.integers(0, end[j])
        if just[j]:
            weight[j] += draw.integers(0, 5)
    jobs = Jobs(p, weight=weight, due=due)
    return jobs, int(jobs.costs(end).sum()), sequence


def any_cost(n: int, key: Key, *, windows: int = 32) -> Special:
    """Any non-decreasing cost, as a table: the running maximum of v - (U(t + p) - U(t)), clipped before the start."""
    draw = key.numpy()
    p, sequence = draw.integers(1, 31, n), draw.permutation(n)
    start, end = timetable(Jobs(p, cost="weighted-completion"), sequence)
    total = int(p.sum())
    price = np.sort(draw.integers(0, 50, total))[::-1]
    integral = np.concatenate([[0], np.cumsum(price)])
    ends = np.arange(1, total + 1)
    c = np.zeros((n, total), np.int64)
    for j in range(n):
        t = np.arange(0, total - p[j] + 1)
        g = -(integral[t + p[j]] - integral[t])
        v = draw.integers(0, 200) - g[start[j]]
        g = np.maximum(g + v, 0)
        slack = draw.integers(0, 20, len(t)) * (t != start[j])
        cost = np.maximum.accumulate(g + slack)
        cost = np.where(t <= start[j], np.minimum(cost, g[start[j]]), cost)
        c[j, p[j] - 1 :] = cost
    jobs = Jobs(p, cost=Table(c, ends))
    return jobs, int(jobs.costs(end).sum()), sequence


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
    table = np.array([jobs.costs(np.full(n, t)) for t in range(horizon + 1)])
    for mask in range(1, 1 << n):
        low = (mask & -mask).bit_length() - 1
        time[mask] = time[mask & (mask - 1)] + int(jobs.p[low])
        best[mask] = min((best[mask ^ (1 << j)][0] + int(table[time[mask], j]), j) for j in range(n) if mask >> j & 1)
    order, mask = [], (1 << n) - 1
    while mask:
        order.append(best[mask][1])
        mask ^= 1 << best[mask][1]
    return best[-1][0], np.array(order[::-1])
