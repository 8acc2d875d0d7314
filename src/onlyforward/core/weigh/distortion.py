"""Distorted expectations and mixtures of quantiles: whole risk profiles as weights (cf. arXiv 2305.07248)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from onlyforward.core.checks import check_range
from onlyforward.core.errors import UsageError
from onlyforward.core.weigh.baselines import LeaveOneOut
from onlyforward.core.weigh.quantile import Tracked, Tracker


@dataclass(frozen=True)
class Distortion:
    """Ascent of rho = int_0^1 F^-1(u) g'(1 - u) du for an increasing g with g(0) = 0 and g(1) = 1.

    With sorted signals, w_(i) = sum_{k < i} g'(1 - k/N) (R_(k+1) - R_(k)), centred by the leave-one-out mean, over N.
    (derived: rho = int g(1 - F) dR, and -grad F(r) = E[(1 - 1{R <= r}) score] up to a constant that the score kills)

    Attributes:
        slope: g', a function of a tensor in (0, 1).
        name: for messages and tables.
    """

    slope: Callable[[Tensor], Tensor]
    name: str = "custom"
    reference: ClassVar[Literal["none"]] = "none"

    @staticmethod
    def wang(lam: float) -> Distortion:
        """g(u) = Phi(Phi^-1(u) - lam): pessimistic for lam > 0; on Gaussian returns rho = mean - lam sd."""
        return Distortion(lambda u: torch.exp(lam * torch.special.ndtri(u) - lam * lam / 2), f"wang({lam:g})")

    @staticmethod
    def power(rho: float) -> Distortion:
        """g(u) = u^rho: pessimistic for rho > 1."""
        check_range(rho, name="rho", low=0.0, open_low=True)
        return Distortion(lambda u: rho * u ** (rho - 1), f"power({rho:g})")

    @staticmethod
    def cvar(alpha: float) -> Distortion:
        """G of the lower-tail mean: 0 up to 1 - alpha, then linear to 1."""
        check_range(alpha, name="alpha", low=1e-9, high=1.0)
        return Distortion(lambda u: (u > 1 - alpha).to(u.dtype) / alpha, f"cvar({alpha:g})")

    def __call__(self, signal: Tensor, state: None = None) -> tuple[Tensor, None]:
        """Weights [n, b] of a signal [n, b] in which every row ran."""
        check_complete(signal, self.name)
        count = signal.shape[0]
        order = signal.argsort(dim=0)
        ordered = signal.gather(0, order)
        level = 1 - torch.arange(1, count, dtype=signal.dtype, device=signal.device) / count
        steps = self.slope(level)[:, None] * (ordered[1:] - ordered[:-1])
        sums = torch.cat((torch.zeros_like(ordered[:1]), steps.cumsum(0)))
        weight, _ = LeaveOneOut()(torch.zeros_like(signal).scatter(0, order, sums))
        return weight, None


@dataclass(frozen=True)
class MixtureOfQuantiles:
    """sum_j c_j (alpha_j - 1{R_i <= q_j}) / f(q_j) / n: for a mixture the densities must not be dropped.

    The density at each quantile is a spacing estimate over +-h in probability, h = n^(-1/3) / 2.

    Attributes:
        coefficients: c_j >= 0.
        alphas: levels in (0, 1).
        tracker: sa, batch or auto.
    """

    coefficients: tuple[float, ...]
    alphas: tuple[float, ...]
    tracker: str = "auto"
    reference: ClassVar[Literal["none"]] = "none"

    def __post_init__(self) -> None:
        if len(self.coefficients) != len(self.alphas) or not self.alphas:
            raise UsageError(
                f"MixtureOfQuantiles got {len(self.coefficients)} coefficients and {len(self.alphas)} levels",
                "Give one coefficient per level",
            )
        for alpha in self.alphas:
            Tracker(alpha, self.tracker)

    def __call__(self, signal: Tensor, state: tuple[Tracked, ...] | None = None) -> tuple[Tensor, tuple[Tracked, ...]]:
        """Weights [n, b] of a signal [n, b] in which every row ran; every q moves after they are made."""
        check_complete(signal, "MixtureOfQuantiles")
        trackers = [Tracker(alpha, self.tracker) for alpha in self.alphas]
        first = state is None
        state = tuple(tracker.start(signal) for tracker in trackers) if state is None else state
        count = signal.shape[0]
        weight = torch.zeros_like(signal)
        for coefficient, tracker, tracked in zip(self.coefficients, trackers, state, strict=True):
            side = tracker.alpha - (signal <= tracked.q).to(signal.dtype)
            weight = weight + coefficient * side / spacing_density(signal, tracker.alpha) / count
        if first:
            return weight, state
        return weight, tuple(t.update(signal, s) for t, s in zip(trackers, state, strict=True))


def spacing_density(signal: Tensor, alpha: float) -> Tensor:
    """Density [b] at the alpha quantile: probability over distance between two neighbouring quantiles."""
    reach = 0.5 * signal.shape[0] ** (-1 / 3)
    low, high = max(alpha - reach, 0.0), min(alpha + reach, 1.0)
    width = torch.quantile(signal, high, dim=0) - torch.quantile(signal, low, dim=0)
    density: Tensor = (high - low) / width.clamp(min=math.ulp(1.0))
    return density


def check_complete(signal: Tensor, name: str) -> None:
    """Order statistics need every row."""
    if bool(signal.isnan().any()):
        raise UsageError(f"{name} got rows that did not run", "Use it without an allocation")
