"""Two published habits for the table of ablations: halving the queries of easy items, and rows weighted 1/N."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from onlyforward.core.allocate.plan import Features, Plan, check_infinite, make_plan, usable
from onlyforward.core.checks import check_range
from onlyforward.core.errors import UsageError
from onlyforward.core.keys import Key


@dataclass
class Halving:
    """Each item whose loss lies below the batch's mean has its queries halved with probability p.

    What is freed is shared by the others. Rows keep the weight 1 / (B n_i), so the estimate stays unbiased.

    Attributes:
        p: probability of halving.
        n_min: least runs of an item.
        key: names the draws.
        steps: plans made so far.
    """

    p: float = 0.3
    n_min: int = 1
    key: Key = field(default_factory=Key)
    steps: int = 0

    def __post_init__(self) -> None:
        check_range(self.p, name="p", low=0.0, high=1.0)

    def plan(self, budget: int, features: Features) -> Plan:
        """Counts [items] that sum to the budget.

        Raises:
            UsageError: features without losses, or a budget below one run an item.
        """
        loss = check_infinite(features).loss
        if loss is None:
            raise UsageError("Halving reads losses and got none", "Give Features(loss=...)")
        items = features.items
        shares = torch.ones(items, dtype=torch.float64)
        if usable(loss):
            generator = self.key.at(site="allocate/halving", step=self.steps).generator()
            # Draws follow the order of the losses, so that the order of the batch does not matter.
            order = torch.argsort(loss.double(), stable=True)
            drawn = torch.empty(items, dtype=torch.float64).index_copy(
                0, order, torch.rand(items, generator=generator, dtype=torch.float64)
            )
            halved = (loss < loss.mean()) & (drawn < self.p)
            freed = 0.5 * int(halved.sum())
            shares[halved] = 0.5
            shares[~halved] += freed / max(1, int((~halved).sum()))
        self.steps += 1
        return make_plan(shares, budget, n_min=self.n_min, spread=features.residual)

    def observe(self, ids: Sequence[int], coefficients: Tensor) -> None:
        """Halving needs no history."""

    def state(self) -> dict[str, Any]:
        """What the next plan depends on."""
        return {"steps": self.steps}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue where `state()` was taken."""
        self.steps = int(state["steps"])


@dataclass
class Reweighted:
    """BIASED, for comparison only: the counts of `inner` with every row weighted 1/N.

    Item i then weighs n_i / N instead of 1/B: the gradient of another loss, bent towards the noisy items.

    Attributes:
        inner: an allocator.
    """

    inner: Any

    def plan(self, budget: int, features: Features) -> Plan:
        """The inner plan with equal row weights."""
        plan: Plan = self.inner.plan(budget, features)
        return replace(plan, weight=torch.full_like(plan.weight, 1.0 / budget))

    def observe(self, ids: Sequence[int], coefficients: Tensor) -> None:
        """Passed on."""
        self.inner.observe(ids, coefficients)
