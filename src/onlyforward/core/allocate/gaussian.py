"""A learned allocator: shares from a Gaussian process over the losses, taught by a cost that needs no run.

u ~ N(a + b l, K), K_ik = nu exp(-(l_i - l_k)^2 / (2 ell^2)) + tau [i = k], l the standardised roots of the losses;
shares are softplus(u) / sum softplus(u). The four parameters descend C(u) = sum_i S_i^2 / n_i(u), in units of its
uniform value, by the score function with a leave-one-out baseline (derived; a learned sampler is the idea of
arXiv 2410.05966). Neyman minimises the same C exactly: learning wins only where S must be predicted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from onlyforward.core.allocate.learned import learned_plan
from onlyforward.core.allocate.neyman import Neyman
from onlyforward.core.allocate.plan import Features, Plan
from onlyforward.core.checks import check_range
from onlyforward.core.errors import UsageError
from onlyforward.core.keys import Key

TAU = 1e-4
"""Variance that belongs to one item alone; it keeps K invertible where losses are tied."""
NAMES = ("a", "b", "log_nu", "log_ell")
START = {"a": 0.0, "b": 0.0, "log_nu": math.log(0.25), "log_ell": 0.0}
BOUNDS = {"a": 8.0, "b": 8.0, "log_nu": 4.0, "log_ell": 3.0}
"""Largest absolute value of each parameter."""
CLIP = 4.0
"""Largest step of a parameter, in units of the learning rate."""


@dataclass
class GaussianAllocator:
    """Counts from a four-parameter Gaussian process over the losses, learned while it plans.

    Attributes:
        draws: samples of u behind one update and one plan.
        lr: learning rate of the four parameters.
        proxy: S_i in the cost: a proxy of `Neyman`.
        n_min: least runs of an item.
        sample: plan by one draw instead of the mean share over the draws.
        frozen: names among a, b, log_nu, log_ell that keep their start, for ablations.
        key: names the draws.
        steps: plans made so far.
        parameters: the four parameters by name.
        spread: holds the history behind the proxy.
    """

    draws: int = 32
    lr: float = 0.05
    proxy: str = "residual"
    n_min: int = 1
    sample: bool = False
    frozen: tuple[str, ...] = ()
    key: Key = field(default_factory=Key)
    steps: int = 0
    parameters: dict[str, float] = field(default_factory=lambda: dict(START))
    spread: Neyman = field(init=False)

    def __post_init__(self) -> None:
        check_range(self.draws, name="draws", low=2, why="each draw is compared with the others")
        check_range(self.lr, name="lr", low=0.0)
        unknown = [name for name in self.frozen if name not in NAMES]
        if unknown:
            raise UsageError(f"There is no parameter {unknown[0]!r}", f"The four are {', '.join(NAMES)}")
        self.spread = Neyman(self.proxy, n_min=self.n_min)

    def plan(self, budget: int, features: Features) -> Plan:
        """Counts [items] that sum to the budget; learns once from the features, without a run.

        Raises:
            UsageError: features without losses, or a budget below one run an item.
        """
        return learned_plan(self, budget, features)

    def learn(self, level: Tensor, size: Tensor, budget: int) -> Tensor:
        """One update from `draws` samples; returns the shares of the plan [items]."""
        noise = torch.randn(
            self.draws,
            len(level),
            generator=self.key.at(site="allocate/gaussian", step=self.steps).generator(),
            dtype=torch.float64,
        )
        mean, factor = self.distribution(level)
        drawn = mean + noise @ factor.T
        shares = F.softplus(drawn)
        shares = floored(shares / shares.sum(1, keepdim=True), budget, self.n_min)
        cost = relative_cost(size, shares * budget)
        if self.lr:
            baseline = (cost.sum() - cost) / (len(cost) - 1)
            scores = self.scores(level, drawn, factor)
            self.move({name: float(((cost - baseline) * score).mean()) for name, score in scores.items()})
        self.steps += 1
        return shares[0] if self.sample else shares.mean(0)

    def distribution(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """Mean [items] and Cholesky factor [items, items] of u."""
        smooth, _ = self.kernel(level)
        factor = torch.linalg.cholesky(smooth + TAU * torch.eye(len(level), dtype=smooth.dtype))
        return self.parameters["a"] + self.parameters["b"] * level, factor

    def kernel(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """The smooth part of K and the squared distances in units of ell: both [items, items]."""
        nu, ell = math.exp(self.parameters["log_nu"]), math.exp(self.parameters["log_ell"])
        distance = ((level[:, None] - level[None]) / ell) ** 2
        return nu * torch.exp(-0.5 * distance), distance

    def scores(self, level: Tensor, drawn: Tensor, factor: Tensor) -> dict[str, Tensor]:
        """Slopes of log N(u; mu, K) in the four parameters, of every draw [draws], alpha = K^-1 (u - mu).

        d/da = 1'alpha, d/db = l'alpha, d/dpsi = (alpha' dK alpha - tr(K^-1 dK)) / 2 with dK/dlog nu = K - tau I and
        dK/dlog ell = (K - tau I) o D^2 / ell^2.
        """
        smooth, distance = self.kernel(level)
        inverse = torch.cholesky_inverse(factor)
        alpha = (drawn - self.parameters["a"] - self.parameters["b"] * level) @ inverse
        found = {"a": alpha.sum(1), "b": alpha @ level}
        for name, slope in (("log_nu", smooth), ("log_ell", smooth * distance)):
            found[name] = 0.5 * (((alpha @ slope) * alpha).sum(1) - (inverse * slope).sum())
        return found

    def move(self, gradient: Mapping[str, float]) -> None:
        """Descend, each step and each parameter within bounds."""
        for name in NAMES:
            if name not in self.frozen:
                step = self.lr * max(-CLIP, min(CLIP, gradient[name]))
                bound = BOUNDS[name]
                self.parameters[name] = max(-bound, min(bound, self.parameters[name] - step))

    def observe(self, ids: Sequence[int], coefficients: Tensor) -> None:
        """Take in realised root-mean-square coefficients [items], for proxies with a history."""
        self.spread.observe(ids, coefficients)

    def state(self) -> dict[str, Any]:
        """What the next plan depends on, as data that JSON can hold."""
        return {"steps": self.steps, "parameters": dict(self.parameters), "spread": self.spread.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue where `state()` was taken."""
        self.steps, self.parameters = int(state["steps"]), dict(state["parameters"])
        self.spread.load_state(state["spread"])


def floored(shares: Tensor, budget: int, n_min: int) -> Tensor:
    """Shares mixed with the uniform ones so that each gives at least n_min runs: [..., items], sum 1."""
    items = shares.shape[-1]
    return n_min / budget + (1 - items * n_min / budget) * shares


def relative_cost(size: Tensor, counts: Tensor) -> Tensor:
    """sum_i S_i^2 / n_i in units of its value at uniform counts with the same sum: [...]."""
    items = counts.shape[-1]
    uniform = (size**2).sum() * items / counts.sum(-1)
    return (size**2 / counts).sum(-1) / uniform
