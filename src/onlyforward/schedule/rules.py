"""Dispatching rules: starts for the search and baselines for the tables."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onlyforward.schedule.problem import Problem

GRID = (0.3, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0)
"""Look-ahead factors, used up to n/5: at n = 1000 the textbook's K <= 4 is several times worse than 10 to 80."""

Priority = Callable[[np.ndarray, float], np.ndarray]


def dispatch(problem: Problem, priority: Priority, *, wait: float = 0.0) -> np.ndarray:
    """At every decision the highest priority among the jobs there (or due within `wait`); ties by index."""
    left = np.arange(problem.n)
    t = problem.start
    order = np.empty(problem.n, np.int64)
    for position in range(problem.n):
        there = left
        if problem.released:
            t = max(t, problem.r[left].min())
            there = left[problem.r[left] <= t + wait]
        j = there[int(np.argmax(priority(there, float(t))))]
        order[position] = j
        t = max(t, problem.r[j]) + problem.p[j]
        left = left[left != j]
    return order


def due_dates(problem: Problem) -> np.ndarray:
    """[n] where a job's cost begins to rise: the due date of the families that have one."""
    rising = (problem.coef[:, :, 1:] > 0).any(2)
    rising[:, 1:] |= problem.coef[:, 1:, 0] > problem.coef[:, :-1, 0]
    piece = np.argmax(rising, axis=1)
    return problem.knots[np.arange(problem.n), piece].astype(float)


def slope(problem: Problem) -> np.ndarray:
    """[n] mean rise of the cost per time unit over the horizon: the weight of a linear cost."""
    rows = np.arange(problem.n)
    top = problem.value(rows, np.full(problem.n, problem.horizon)).astype(float)
    span = np.maximum(float(problem.horizon) - due_dates(problem), 1.0)
    return (top - problem.value(rows, problem.r + problem.p)) / span


def edd(problem: Problem) -> np.ndarray:
    """Earliest due date first."""
    due = due_dates(problem)
    return dispatch(problem, lambda there, t: -due[there])


def wspt(problem: Problem) -> np.ndarray:
    """Weighted shortest processing time first."""
    rate = slope(problem) / problem.p
    return dispatch(problem, lambda there, t: rate[there])


def mdd(problem: Problem) -> np.ndarray:
    """Modified due date max(d, t + p) first, in its weighted form max(d - t, p) / w."""
    due, weight, p = due_dates(problem), np.maximum(slope(problem), 1e-12), problem.p
    return dispatch(problem, lambda there, t: -np.maximum(due[there] - t, p[there]) / weight[there])


def atc(problem: Problem, k: float, *, wait: float = 0.0) -> np.ndarray:
    """Apparent tardiness cost: (w/p) exp(-max(d - p - t, 0) / (k pbar)), compared by its logarithm."""
    due, p, pbar = due_dates(problem), problem.p, problem.mean
    rate = np.log(np.maximum(slope(problem), 1e-300) / p)

    def priority(there: np.ndarray, t: float) -> np.ndarray:
        return rate[there] - np.maximum(due[there] - p[there] - t, 0) / (k * pbar)

    return dispatch(problem, priority, wait=wait)


def marginal(problem: Problem, k: float) -> np.ndarray:
    """Marginal cost (f(t + p + h) - f(t + p)) / (h p) with h = k pbar, for costs without due dates."""
    p, h = problem.p, max(1.0, k * problem.mean)
    step = int(h) if problem.p.dtype == np.int64 else h

    def priority(there: np.ndarray, t: float) -> np.ndarray:
        done = problem.p.dtype.type(t) + p[there]
        return (problem.value(there, done + step) - problem.value(there, done)) / (h * p[there])

    return dispatch(problem, priority)


def starts(problem: Problem, *, quick: bool = False) -> list[tuple[str, np.ndarray]]:
    """Orders of all rules, cheapest first; `quick` leaves out most of the grid."""
    grid = [k for k in GRID if k <= max(2.0, problem.n / 5)]
    grid = grid[1::2] if quick else grid
    found = [("EDD", edd(problem)), ("WSPT", wspt(problem)), ("MDD", mdd(problem))]
    found += [(f"ATC {k:g}", atc(problem, k)) for k in grid]
    if problem.released:
        found += [(f"ATC {k:g} wait", atc(problem, k, wait=problem.mean)) for k in grid[:3]]
    if problem.knots.shape[1] > 2 or (problem.coef[..., 2] > 0).any() or (problem.coef[..., 1] == 0).all():
        found += [(f"marginal {k:g}", marginal(problem, k)) for k in grid]
    return sorted(found, key=lambda item: problem.cost(item[1]))
