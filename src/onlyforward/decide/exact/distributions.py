"""Demand distributions as probability vectors, their tails folded into the last entry."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onlyforward.core.checks import check_choice, check_range

Vector = NDArray[np.float64]


def poisson(mean: float, *, tail: float = 1e-12) -> Vector:
    """Probabilities of 0, 1, ... up to a tail of `tail`, which the last entry takes: [k]."""
    check_range(mean, name="mean demand", low=0.0, open_low=True)
    from scipy.stats import poisson as law

    return folded(law.pmf(np.arange(int(law.isf(tail, mean)) + 2), mean))


def geometric(mean: float, *, tail: float = 1e-12) -> Vector:
    """P(k) = (1 - r) r^k on 0, 1, ... with r = mean / (1 + mean): [k]."""
    check_range(mean, name="mean demand", low=0.0, open_low=True)
    ratio = mean / (1 + mean)
    size = int(np.ceil(np.log(tail) / np.log(ratio))) + 2
    return folded((1 - ratio) * ratio ** np.arange(size))


def folded(probabilities: Vector) -> Vector:
    """Give the missing tail to the last entry."""
    probabilities[-1] += 1.0 - probabilities.sum()
    return probabilities


LAWS = {"poisson": poisson, "geometric": geometric}


def demand(law: str, mean: float) -> Vector:
    """The probability vector of a demand law by name."""
    return LAWS[check_choice(law, LAWS, name="demand")](mean)
