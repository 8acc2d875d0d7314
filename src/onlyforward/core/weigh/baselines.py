"""Mean and its baselines: weights of the plain likelihood-ratio gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor


def present(signal: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Split a signal [n, b] with NaN where nothing ran: values with zeros there, a 0/1 mask, and counts [b]."""
    mask = ~signal.isnan()
    values = torch.where(mask, signal, torch.zeros_like(signal))
    return values, mask.to(signal.dtype), mask.sum(0).clamp(min=1).to(signal.dtype)


@dataclass(frozen=True)
class Mean:
    """R_i / n: unbiased, and the reference for the others; its variance is high."""

    reference: ClassVar[Literal["none"]] = "none"

    def __call__(self, signal: Tensor, state: Any = None) -> tuple[Tensor, None]:
        """Weights [n, b] of a signal [n, b]."""
        values, _, count = present(signal)
        return values / count, None


@dataclass(frozen=True)
class LeaveOneOut:
    """(R_i - mean R) / (n - 1): the mean of the other copies as baseline; unbiased, columns sum to 0; n >= 2."""

    reference: ClassVar[Literal["none"]] = "none"

    def __call__(self, signal: Tensor, state: Any = None) -> tuple[Tensor, None]:
        """Weights [n, b] of a signal [n, b]."""
        values, mask, count = present(signal)
        centred = (values - values.sum(0) / count) * mask
        return centred / (count - 1).clamp(min=1), None


@dataclass(frozen=True)
class Clean:
    """(R_i - R_0) / n with the unperturbed signal R_0 as baseline: one more run, unbiased.

    `gradient` subtracts R_0 before the call, so the weight is the signal over n.
    """

    reference: ClassVar[Literal["clean"]] = "clean"

    def __call__(self, signal: Tensor, state: Any = None) -> tuple[Tensor, None]:
        """Weights [n, b] of a signal [n, b] from which the clean one was subtracted."""
        values, _, count = present(signal)
        return values / count, None
