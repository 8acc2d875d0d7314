"""Quantile and CVaR: weights that need only to know on which side of a tracked quantile a signal fell.

grad q = -grad F(q) / f(q), and -grad F(q) = E[(alpha - 1{R <= q}) score]: arXiv 2305.07248 (QPO). The quantile q is
tracked on its own time scale, faster than the parameters move.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from onlyforward.core.checks import check_choice, check_range
from onlyforward.core.weigh.baselines import LeaveOneOut, present

RECENT = 1000
"""Signals that the `sa` tracker keeps per column to know their spread."""


@dataclass(frozen=True)
class Tracked:
    """State of a tracked quantile.

    Attributes:
        q: [b], the estimate.
        calls: updates made.
        recent: [r, b], r <= 1000, the last signals (`sa` only; empty for `batch`).
    """

    q: Tensor
    calls: int
    recent: Tensor


@dataclass(frozen=True)
class Tracker:
    """How a quantile is followed while the distribution moves.

    `sa`: q += beta_k * IQR * mean(alpha - 1{R <= q}), beta_k = step / (1 + k / k0)^0.6, with the interquartile range of
    the last 1000 signals as scale (an absolute step would lag or jump). `batch`: exponential average, rate 0.15, of the
    batch's empirical quantile. `auto`: `batch` for n >= 64, else `sa`.

    Attributes:
        alpha: level in (0, 1).
        kind: sa, batch or auto.
        step: first step of `sa`, in interquartile ranges.
        settle: k0, calls after which the step begins to fall.
        rate: weight of the newest batch in `batch`.
    """

    alpha: float
    kind: str = "auto"
    step: float = 1.0
    settle: float = 100.0
    rate: float = 0.15

    def __post_init__(self) -> None:
        check_range(self.alpha, name="alpha", low=1e-9, high=1 - 1e-9, why="it is a probability strictly inside (0, 1)")
        check_choice(self.kind, ("auto", "batch", "sa"), name="tracker")

    def start(self, signal: Tensor) -> Tracked:
        """The state after the first signal [n, b]: q is its empirical alpha quantile."""
        kept = signal[-RECENT:] if self.chosen(signal) == "sa" else signal[:0]
        return Tracked(torch.nanquantile(signal, self.alpha, dim=0), 0, kept)

    def chosen(self, signal: Tensor) -> str:
        """The kind that `auto` stands for."""
        return self.kind if self.kind != "auto" else "batch" if signal.shape[0] >= 64 else "sa"

    def update(self, signal: Tensor, state: Tracked) -> Tracked:
        """Move q after the weights of this signal were made."""
        if self.chosen(signal) == "batch":
            empirical = torch.nanquantile(signal, self.alpha, dim=0)
            return Tracked(state.q + self.rate * (empirical - state.q), state.calls + 1, state.recent)
        recent = torch.cat((state.recent, signal))[-RECENT:]
        spread = torch.nanquantile(recent, 0.75, dim=0) - torch.nanquantile(recent, 0.25, dim=0)
        _, mask, count = present(signal)
        below = ((signal <= state.q).to(signal.dtype) * mask).sum(0) / count
        beta = self.step / (1 + state.calls / self.settle) ** 0.6
        return Tracked(state.q + beta * spread * (self.alpha - below), state.calls + 1, recent)


@dataclass(frozen=True)
class Quantile:
    """(alpha - 1{R_i <= q}) / n: the ascent direction of the alpha quantile, times its (dropped) density.

    Attributes:
        alpha: level in (0, 1).
        tracker: sa, batch or auto; see `Tracker`.
        centred: False weighs by -1{R_i <= q} / n alone, kept for the ablation that shows why not to.
    """

    alpha: float
    tracker: str = "auto"
    centred: bool = True
    reference: ClassVar[Literal["none"]] = "none"

    def __post_init__(self) -> None:
        Tracker(self.alpha, self.tracker)

    def __call__(self, signal: Tensor, state: Tracked | None = None) -> tuple[Tensor, Tracked]:
        """Weights [n, b] of a signal [n, b]; q moves after they are made."""
        tracker = Tracker(self.alpha, self.tracker)
        first = state is None
        state = tracker.start(signal) if state is None else state
        _, mask, count = present(signal)
        below = (signal <= state.q).to(signal.dtype)
        weight = ((self.alpha if self.centred else 0.0) - below) * mask / count
        return weight, state if first else tracker.update(signal, state)


@dataclass(frozen=True)
class CVaR:
    """1{R_i <= q} (R_i - q) / (alpha n), minus its leave-one-out mean: the gradient of the lower-tail mean.

    Exact at the true q (the quantile's own movement cancels to first order).

    Attributes:
        alpha: share of the worst signals in (0, 1).
        tracker: sa, batch or auto; see `Tracker`.
    """

    alpha: float
    tracker: str = "auto"
    reference: ClassVar[Literal["none"]] = "none"

    def __post_init__(self) -> None:
        Tracker(self.alpha, self.tracker)

    def __call__(self, signal: Tensor, state: Tracked | None = None) -> tuple[Tensor, Tracked]:
        """Weights [n, b] of a signal [n, b]; q moves after they are made."""
        tracker = Tracker(self.alpha, self.tracker)
        first = state is None
        state = tracker.start(signal) if state is None else state
        shortfall = torch.minimum(signal - state.q, torch.zeros_like(signal)) / self.alpha
        weight, _ = LeaveOneOut()(shortfall)
        return weight, state if first else tracker.update(signal, state)
