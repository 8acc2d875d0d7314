"""Assortment under multinomial-logit choice: the optimum is a revenue-ordered prefix (Talluri and van Ryzin 2004)."""

from __future__ import annotations

import numpy as np

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
