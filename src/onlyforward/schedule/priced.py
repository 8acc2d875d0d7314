"""Starts from the dual: under good machine-time prices every job's cheapest start says where it belongs (derived).

The smoothed dual gives each job a distribution over start times, exp(-g_j(t)/theta); jobs in the order of its mean or
of its quantiles are list schedules close to the linear-programming solution, and descend to far better orders than
dispatching rules do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from onlyforward.schedule.dual import make_dual, smooth_stages, warm_price
from onlyforward.schedule.jobs import Jobs
from onlyforward.schedule.pricing import soft_starts
from onlyforward.schedule.problem import Problem

ALPHAS = np.array([0.3, 0.5, 0.7])


def priced_orders(
    jobs: Jobs, problem: Problem, order: np.ndarray, cost: Any, now: Any, over: Callable[[], bool]
) -> Iterator[np.ndarray]:
    """Distinct orders of the free jobs, after every stage of the ascent: mean start, sharp mean, quantiles.

    Args:
        jobs: the instance.
        problem: its free jobs.
        order: incumbent, whose completion times place the buckets and give the first prices.
        cost: of the incumbent, frozen head and settled tail included.
        now: nothing but the frozen head starts earlier.
        over: True ends the ascent.
    """
    sequence = problem.sequence(order)
    dual = make_dual(jobs, sequence, fixed=problem.head, now=now)
    place = np.searchsorted(dual.free, problem.index)
    upper = float(cost) - float(dual.head)
    edges, horizon = dual.edges.astype(float), float(dual.horizon)
    seen = set()
    for smooth, prices in smooth_stages(dual, warm_price(dual, sequence), upper, over):
        for theta, alphas in ((smooth, ALPHAS), (0.1 * smooth, ALPHAS[:0])):
            keys = np.empty((1 + len(alphas), len(dual.free)))
            soft_starts(*dual.floats, edges, prices, horizon, theta, alphas, keys)
            for row in keys[:, place]:
                found = np.argsort(row, kind="stable")
                if found.tobytes() not in seen:
                    seen.add(found.tobytes())
                    yield found
