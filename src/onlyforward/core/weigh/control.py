"""Control variates: subtract what is already known to move with the signal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from onlyforward.core.probe import Weighting


@dataclass(frozen=True)
class ControlVariate:
    """base(R - beta (C - E C)): the same expectation at less variance when C moves with R.

    The caller adds what E C itself owes to the parameters.

    Attributes:
        base: the weighting applied to what is left.
        control: signal -> C [n, b], computed from the same copies (a tensor is taken as it is).
        expectation: E C [b].
        beta: "fit" for the leave-one-out regression slope (unbiased: copy i's slope does not see copy i), or a number.
    """

    base: Weighting
    control: Tensor | Callable[[Tensor], Tensor]
    expectation: Tensor
    beta: float | Literal["fit"] = "fit"

    @property
    def reference(self) -> Literal["none", "clean", "pairs"]:
        """That of the base weighting."""
        return self.base.reference

    def __call__(self, signal: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Weights [n, b] of a signal [n, b]."""
        control = self.control(signal) if callable(self.control) else self.control
        moved = control - self.expectation
        slope = leave_one_out_slope(signal, moved) if self.beta == "fit" else self.beta
        return self.base(signal - slope * moved, state)


def leave_one_out_slope(signal: Tensor, control: Tensor) -> Tensor:
    """Regression slope of the signal on the control over the other copies: [n, b]; 0 where the control is constant."""
    n = signal.shape[0]
    if n < 3:
        return torch.zeros_like(signal)
    r, c = signal - signal.mean(0), control - control.mean(0)
    # Leaving copy i out changes each centred sum by n/(n - 1) times the product of copy i's deviations.
    shrink = n / (n - 1)
    cross = (r * c).sum(0) - shrink * r * c
    power = (c * c).sum(0) - shrink * c * c
    return torch.where(power > 0, cross / power.clamp(min=torch.finfo(signal.dtype).tiny), torch.zeros_like(cross))
