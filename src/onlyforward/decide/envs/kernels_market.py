"""What customers do in the market environments, compiled: the plain arrays' numbers and bits, episode by episode.

Exponentials stay with numpy, whose vectorised ones are faster; sums are taken in the order of the plain arrays.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from onlyforward.decide.envs.kernels import MANY, kept


@dataclass(frozen=True)
class MarketKernels:
    """Compiled functions.

    Attributes:
        demand: (uniform [B], mean [B], exp(-mean) [B], most) -> quantile of Poisson(mean) at the uniform, [B].
        choice: (uniform [B], weights [n, B], slate [B, k], shown [n, B], taken [n, B]) -> item taken, n for none, [B];
            shown and taken with this period, [n, B].
        sales: (uniform [B, customers], weights [n, B], prices [n, B], stock [n, B]) -> sold [n, B], revenue [B].
    """

    demand: Callable[..., Any]
    choice: Callable[..., Any]
    sales: Callable[..., Any]


def market_kernels(uniform: Any) -> MarketKernels | None:
    """The kernels; None for tensors, for few episodes, and without numba."""
    return compiled() if isinstance(uniform, np.ndarray) and len(uniform) >= MANY else None


@cache
def compiled() -> MarketKernels | None:
    """The kernels, compiled once per process when first called; None without numba."""
    if importlib.util.find_spec("numba") is None:
        return None
    return MarketKernels(kept(demand), kept(choice), kept(sales))


def demand(uniform, mean, nobody, most):  # type: ignore[no-untyped-def]
    """Count the terms of the cumulated law that the uniform reaches; it grows, so the first that it misses ends it."""
    wanted = np.empty(len(uniform), np.float32)
    for b in range(len(uniform)):
        chance = total = nobody[b]
        count = 0
        while uniform[b] >= total and count < most:
            count += 1
            chance = chance * mean[b] / np.float32(count)
            total += chance
        wanted[b] = count
    return wanted


def choice(uniform, weights, slate, shown, taken):  # type: ignore[no-untyped-def]
    """One customer per episode takes item i of the slate with chance w_i / (1 + sum of the slate's w)."""
    items, batch = weights.shape
    picks = np.zeros(batch, np.int64)
    places = slate.T.astype(np.int32)
    shown, taken = shown.copy(), taken.copy()
    reach, total = np.empty((items, batch), np.float32), np.zeros(batch, np.float32)
    # Items outside: the inner loops run over contiguous rows and vectorise.
    for i in range(items):
        offered = np.zeros(batch, np.bool_)
        for place in range(len(places)):
            for b in range(batch):
                offered[b] |= places[place, b] == i
        for b in range(batch):
            here = np.float32(offered[b])
            shown[i, b] += here
            total[b] += weights[i, b] * here
            reach[i, b] = total[b]
    for b in range(batch):
        total[b] = uniform[b] * (np.float32(1) + total[b])
    for i in range(items):
        for b in range(batch):
            picks[b] += total[b] >= reach[i, b]
    for b in range(batch):
        if picks[b] < items:
            taken[picks[b], b] += np.float32(1)
    return picks, shown, taken


def sales(uniform, weights, prices, stock):  # type: ignore[no-untyped-def]
    """Every customer of an episode wants one item or none; an item sells what it has."""
    items, batch = weights.shape
    customers = uniform.shape[1]
    sold, revenue = np.empty((items, batch), np.float32), np.zeros(batch, np.float32)
    points = np.empty(customers, np.float32)
    for b in range(batch):
        total = np.float32(0)
        for i in range(items):
            total += weights[i, b]
        for c in range(customers):
            points[c] = uniform[b, c] * (np.float32(1) + total)
        reach, before = np.float32(0), customers
        for i in range(items):
            reach += weights[i, b]
            beyond = 0
            for c in range(customers):
                beyond += points[c] >= reach
            wanted = np.float32(before - beyond)
            before = beyond
            goes = wanted if wanted < stock[i, b] else stock[i, b]
            sold[i, b] = goes
            revenue[b] += prices[i, b] * goes
    return sold, revenue
