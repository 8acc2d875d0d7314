"""Neyman allocation: runs in proportion to each item's noise, the exact optimum where the noise is known.

tr Cov = (1/B^2) sum S_i^2 / n_i with sum n_i = N is least at n_i = N S_i / sum S, or S_i / sqrt(c_i) with costs c_i;
the gain over uniform counts is B sum S^2 / (sum S)^2 = 1 + CV(S)^2 (Neyman 1934; arXiv 2410.05966).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onlyforward.core.allocate.plan import Features, Plan, check_infinite, make_plan, plain, usable
from onlyforward.core.checks import check_choice, check_range
from onlyforward.core.errors import UsageError

PROXIES = ("residual", "loss", "sqrt-loss", "history", "residual*history")
"""And "pilot:m": m runs of every item size the plan and are never averaged."""


@dataclass
class Neyman:
    """Counts proportional to a proxy of each item's noise standard deviation S_i.

    Attributes:
        proxy: "residual" (|softmax(z) - onehot| of the clean run), "loss", "sqrt-loss", "history" (exponential average
            of realised root-mean-square coefficients by id; unknown ids take the mean), "residual*history", or
            "pilot:m": whoever runs the items spends `pilots` runs on each and gives what they show as the residual.
        n_min: least runs of an item.
        floor: S_i is at least floor times mean S, so that a wrong proxy cannot starve an item.
        ema: weight of the past in the history.
        min_gain: plans that promise less are replaced by the uniform one.
    """

    proxy: str = "residual"
    n_min: int = 1
    floor: float = 0.05
    ema: float = 0.9
    min_gain: float = 1.05
    history: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.pilots:
            check_choice(self.proxy, PROXIES, name="proxy")
        check_range(self.floor, name="floor", low=0.0, high=1.0)
        check_range(self.ema, name="ema", low=0.0, high=1.0)

    @property
    def pilots(self) -> int:
        """Runs of every item that size the plan: m of the proxy "pilot:m", otherwise 0."""
        word, _, number = self.proxy.partition(":")
        return int(number) if word == "pilot" and number.isdigit() and int(number) > 1 else 0

    def plan(self, budget: int, features: Features) -> Plan:
        """Counts [items] that sum to the budget; uniform where the features say nothing.

        Raises:
            UsageError: an infinite feature, or a budget below n_min runs an item.
        """
        proxy = self.spread(check_infinite(features))
        if proxy is None or not usable(proxy):
            return make_plan(torch.ones(features.items), budget, n_min=self.n_min)
        spread = plain(proxy)
        spread = np.maximum(spread, self.floor * spread.mean())
        shares = spread if features.cost is None else spread / np.sqrt(plain(features.cost))
        plan = make_plan(shares, budget, n_min=self.n_min, spread=spread)
        if plan.expected_gain < self.min_gain:
            return make_plan(torch.ones(features.items), budget, n_min=self.n_min)
        return plan

    def spread(self, features: Features) -> Tensor | None:
        """S_i by the chosen proxy: [items], or None where it is not given."""
        if self.proxy == "residual" or self.pilots:
            return features.residual
        if self.proxy == "loss":
            return features.loss
        if self.proxy == "sqrt-loss":
            return None if features.loss is None else features.loss.clamp(min=0).sqrt()
        if features.ids is None:
            raise UsageError(f"The proxy {self.proxy!r} has no ids", "Give Features(ids=...)")
        if not self.history:
            return features.residual
        mean = sum(self.history.values()) / len(self.history)
        past = torch.tensor([self.history.get(i, mean) for i in features.ids.tolist()], dtype=torch.float64)
        if self.proxy == "residual*history" and features.residual is not None:
            return (past * features.residual.double()).sqrt()
        return past

    def observe(self, ids: Sequence[int], coefficients: Tensor) -> None:
        """Take in realised root-mean-square coefficients [items] of the items `ids`."""
        for i, value in zip(ids, coefficients.tolist(), strict=True):
            self.history[int(i)] = self.ema * self.history.get(int(i), value) + (1 - self.ema) * value

    def state(self) -> dict[str, Any]:
        """What the next plan depends on, as data that JSON can hold."""
        return {"history": {str(name): value for name, value in self.history.items()}}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue where `state()` was taken."""
        self.history = {int(name): float(value) for name, value in state["history"].items()}
