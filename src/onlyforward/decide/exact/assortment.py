"""Assortment under multinomial-logit choice: the optimum is a revenue-ordered prefix (Talluri and van Ryzin 2004)."""

from __future__ import annotations

from itertools import chain, combinations

import numpy as np
from numpy.typing import NDArray

from onlyforward.decide.exact.distributions import Vector


def revenue(weights: Vector, margins: Vector, offered: Vector) -> float:
    """Expected margin of one customer: sum w_i m_i / (1 + sum w_i) over the offered items (`offered [n]` bool)."""
    chosen = weights * offered
    return float(chosen @ margins / (1.0 + chosen.sum()))


def best(weights: Vector, margins: Vector) -> tuple[float, list[int]]:
    """The best expected margin and its items, highest margin first."""
    order = np.argsort(-margins, kind="stable")
    mass = np.cumsum(weights[order])
    gain = np.cumsum((weights * margins)[order]) / (1.0 + mass)
    size = int(gain.argmax()) + 1
    return float(gain[size - 1]), [int(i) for i in order[:size]]


def slates(items: int, places: int) -> NDArray[np.float64]:
    """Every slate of one to `places` of n items, as rows of 0 and 1: [slates, n]."""
    every = chain.from_iterable(combinations(range(items), size) for size in range(1, places + 1))
    return np.array([np.isin(np.arange(items), chosen) for chosen in every], dtype=np.float64)


def slate_revenues(weights: Vector, margins: Vector, offered: NDArray[np.float64]) -> NDArray[np.float64]:
    """Expected margin of one slate shown to each user: weights [U, n], offered [slates, n] -> [slates, U]."""
    return (offered * margins) @ weights.T / (1.0 + offered @ weights.T)
