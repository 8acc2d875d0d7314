"""Variance of uniform counts over that of a plan, where the noise of each datum is known."""

from __future__ import annotations

from torch import Tensor

from onlyforward.core.allocate import Neyman
from onlyforward.core.allocate.plan import Features, Plan
from onlyforward.tune.bed import B, Q


def gain_of(counts: Tensor, size: Tensor) -> float:
    """Variance of uniform counts over that of a plan: (B / N) sum S^2 / sum (S^2 / n)."""
    return float((size**2).sum() * len(size) / counts.sum() / (size**2 / counts).sum())


def exact(size: Tensor) -> Plan:
    """The plan of someone who knows S: Neyman's optimum."""
    return Neyman(floor=0.0, min_gain=1.0).plan(B * Q, Features(residual=size))
