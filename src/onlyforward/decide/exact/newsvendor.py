"""One period, closed form: the newsvendor and the economic order quantity."""

from __future__ import annotations

import math

import numpy as np

from onlyforward.decide.exact.distributions import Vector


def normal_newsvendor(mean: float, sd: float, *, holding: float, penalty: float) -> tuple[float, float]:
    """Level and expected cost h (S - D)+ + p (D - S)+ for normal demand: S = mean + sd z, cost = (h + p) sd phi(z)."""
    from scipy.stats import norm

    z = float(norm.ppf(penalty / (holding + penalty)))
    return mean + sd * z, (holding + penalty) * sd * float(norm.pdf(z))


def discrete_newsvendor(demand: Vector, *, holding: float, penalty: float) -> tuple[int, float]:
    """Level and expected cost for a demand given as probabilities of 0, 1, ...: the smallest S with F(S) >= p/(h+p)."""
    level = int(np.searchsorted(np.cumsum(demand), penalty / (holding + penalty)))
    gap = level - np.arange(len(demand))
    return level, float(demand @ (holding * np.maximum(gap, 0) + penalty * np.maximum(-gap, 0)))


def economic_order_quantity(*, fixed: float, holding: float, rate: float) -> tuple[float, float]:
    """Lot size sqrt(2 K rate / h) and cost per unit of time sqrt(2 K rate h)."""
    return math.sqrt(2 * fixed * rate / holding), math.sqrt(2 * fixed * rate * holding)
