"""Mirrored pairs: half the difference of two copies whose perturbations are opposite."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from onlyforward.core.errors import UsageError


@dataclass(frozen=True)
class Antithetic:
    """(R_i - R_{i+m}) / (4m) for i < m = n/2, and its negative for i + m: exactly invariant to shifts of the signal.

    Copies i and i + m carry opposite perturbations, so together they weigh one direction by (R_i - R_{i+m}) / (2m).
    A pair of which one half did not run (NaN) weighs nothing, and the others are scaled up.
    """

    reference: ClassVar[Literal["pairs"]] = "pairs"

    def __call__(self, signal: Tensor, state: Any = None) -> tuple[Tensor, None]:
        """Weights [n, b] of a signal [n, b], n even."""
        if signal.shape[0] % 2:
            raise UsageError(f"Antithetic got {signal.shape[0]} copies", "Give an even number: copies come in pairs")
        half = signal.shape[0] // 2
        difference = signal[:half] - signal[half:]
        ran = ~difference.isnan()
        pairs = ran.sum(0).clamp(min=1).to(signal.dtype)
        weight = torch.where(ran, difference, torch.zeros_like(difference)) / (4 * pairs)
        return torch.cat((weight, -weight)), None
