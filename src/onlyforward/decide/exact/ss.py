"""(s, S) policies with backlog and zero lead time: exact cost by renewal, optimum by exhaustive search.

c(s, S) = (K + sum_{j < S - s} m(j) G(S - j)) / sum_{j < S - s} m(j), with the renewal density m of the demand and the
one-period cost G(y) = E[h (y - D)+ + p (D - y)+] (Zheng and Federgruen 1991, Operations Research 39(4)).
"""

from __future__ import annotations

import numpy as np

from onlyforward.decide.exact.distributions import Vector


def renewal_density(demand: Vector, size: int) -> Vector:
    """m(0), ..., m(size - 1): m(0) = 1 / (1 - P(0)), m(j) = sum_{k <= j} P(k) m(j - k)."""
    chance = np.zeros(size)
    chance[: min(size, len(demand))] = demand[:size]
    density = np.zeros(size)
    density[0] = 1.0 / (1.0 - chance[0])
    for j in range(1, size):
        density[j] = density[0] * (chance[1 : j + 1] @ density[j - 1 :: -1])
    return density


def one_period_cost(demand: Vector, levels: Vector, *, holding: float, penalty: float) -> Vector:
    """G at every level: [levels]."""
    gap = levels[:, None] - np.arange(len(demand))[None, :]
    return (holding * np.maximum(gap, 0) + penalty * np.maximum(-gap, 0)) @ demand


def solve(demand: Vector, *, fixed: float, holding: float, penalty: float) -> tuple[int, int, float]:
    """The best s and S (order up to S when the level is s or less) and their cost per period."""
    mean = float(demand @ np.arange(len(demand)))
    lot = np.sqrt(2 * fixed * mean * (holding + penalty) / (holding * penalty))
    width = int(3 * lot + 4 * np.sqrt(mean) + 10)
    density = renewal_density(demand, width)
    length = np.cumsum(density)
    best = (0, 0, np.inf)
    for top in range(int(mean), int(2 * mean + 3 * lot + 10 * np.sqrt(mean)) + 10):
        levels = top - np.arange(width, dtype=np.float64)
        cost = (fixed + np.cumsum(density * one_period_cost(demand, levels, holding=holding, penalty=penalty))) / length
        lowest = int(cost.argmin())
        if cost[lowest] < best[2]:
            best = (top - lowest - 1, top, float(cost[lowest]))
    return best
