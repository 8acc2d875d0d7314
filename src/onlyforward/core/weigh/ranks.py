"""Ranks instead of values: robust to outliers and to the signal's scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """(rank_i / (n - 1) - 1/2) / n per column, ties averaged: invariant under increasing maps of the signal.

    A direction of ascent, not a gradient: its length says nothing about the objective's slope. (Centred ranks of
    evolution strategies: arXiv 1703.03864.)
    """

    reference: ClassVar[Literal["none"]] = "none"

    def __call__(self, signal: Tensor, state: Any = None) -> tuple[Tensor, None]:
        """Weights [n, b] of a signal [n, b]; NaN rows weigh nothing."""
        ran = ~signal.isnan()
        count = ran.sum(0).to(signal.dtype)
        ordered = torch.where(ran, signal, torch.full_like(signal, torch.inf)).T.contiguous()
        rows = ordered.sort(dim=1).values
        # The average rank of ties: half of (how many are below) + (how many are below or equal) - 1.
        below = torch.searchsorted(rows, ordered)
        through = torch.searchsorted(rows, ordered, right=True)
        rank = (below + through - 1).T.to(signal.dtype) / 2
        weight = (rank / (count - 1).clamp(min=1) - 0.5) / count.clamp(min=1)
        return torch.where(ran & (count > 1), weight, torch.zeros_like(weight)), None
