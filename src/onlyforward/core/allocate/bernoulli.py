"""A learned allocator: every item starts with the same queries and keeps each with a probability of its own.

p_i = sigmoid(w0 + w1 l_i) over the standardised roots of the losses. Q = N / (B p0) queries are offered to each item,
so that N are kept on average at the start; what is freed beyond N is spread by the same p. The two parameters descend
the cost sum S_i^2 / n_i by the score sum_j (k_ij - p_i)(1, l_i), with a Lagrange multiplier that holds E sum k at N
(derived).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from onlyforward.core.allocate.gaussian import floored, relative_cost
from onlyforward.core.allocate.learned import learned_plan
from onlyforward.core.allocate.neyman import Neyman
from onlyforward.core.allocate.plan import Features, Plan
from onlyforward.core.checks import check_range
from onlyforward.core.keys import Key

BOUND = 8.0
"""Largest absolute value of a weight."""


@dataclass
class BernoulliAllocator:
    """Counts from kept queries, the probability of keeping one learned over the losses.

    Attributes:
        p0: probability at the start.
        draws: samples behind one update and one plan.
        lr: learning rate of the two weights and of the multiplier.
        proxy: S_i in the cost: a proxy of `Neyman`.
        n_min: least runs of an item.
        sample: plan by one draw instead of the mean counts over the draws.
        key: names the draws.
        steps: plans made so far.
        weights: w0 and w1.
        multiplier: of the constraint E sum k = N.
        spread: holds the history behind the proxy.
    """

    p0: float = 0.5
    draws: int = 32
    lr: float = 0.05
    proxy: str = "residual"
    n_min: int = 1
    sample: bool = False
    key: Key = field(default_factory=Key)
    steps: int = 0
    weights: tuple[float, float] | None = None
    multiplier: float = 0.0
    spread: Neyman = field(init=False)

    def __post_init__(self) -> None:
        check_range(self.p0, name="p0", low=0.05, high=0.95)
        check_range(self.draws, name="draws", low=2, why="each draw is compared with the others")
        check_range(self.lr, name="lr", low=0.0)
        if self.weights is None:
            self.weights = (math.log(self.p0 / (1 - self.p0)), 0.0)
        self.spread = Neyman(self.proxy, n_min=self.n_min)

    def plan(self, budget: int, features: Features) -> Plan:
        """Counts [items] that sum to the budget; learns once from the features, without a run.

        Raises:
            UsageError: features without losses, or a budget below one run an item.
        """
        return learned_plan(self, budget, features)

    def learn(self, level: Tensor, size: Tensor, budget: int) -> Tensor:
        """One update from `draws` samples; returns the shares of the plan [items]."""
        offered = math.ceil(budget / (len(level) * self.p0))
        p = self.probabilities(level)
        generator = self.key.at(site="allocate/bernoulli", step=self.steps).generator()
        bits = torch.rand(self.draws, offered, len(level), generator=generator)
        kept = (bits < p.float()).sum(1).double()
        counts, slope = spread_freed(kept, p, budget)
        counts = floored(counts / budget, budget, self.n_min) * budget
        cost = relative_cost(size, counts)
        if self.lr:
            self.move(level, size, p, kept, counts, cost, slope, offered, budget)
        self.steps += 1
        return (counts[0] if self.sample else counts.mean(0)) / budget

    def probabilities(self, level: Tensor) -> Tensor:
        """Probabilities p [items] of standardised losses [items]."""
        w0, w1 = self.weights or (0.0, 0.0)
        return torch.sigmoid(w0 + w1 * level)

    def move(
        self,
        level: Tensor,
        size: Tensor,
        p: Tensor,
        kept: Tensor,
        counts: Tensor,
        cost: Tensor,
        slope: Tensor,
        offered: int,
        budget: int,
    ) -> None:
        """Descend the cost by score and by the way in which freed queries follow p; ascend the multiplier."""
        gradient = cost_gradient(level, size, p, kept, counts, cost, slope, offered, budget, self.n_min)
        pressure = p * (1 - p) * offered / budget * self.multiplier
        w0, w1 = self.weights or (0.0, 0.0)
        moved = (
            w0 - self.lr * (gradient[0] + float(pressure.sum())),
            w1 - self.lr * (gradient[1] + float((pressure * level).sum())),
        )
        self.weights = (max(-BOUND, min(BOUND, moved[0])), max(-BOUND, min(BOUND, moved[1])))
        self.multiplier += self.lr * (float(p.sum()) * offered / budget - 1)

    def observe(self, ids: Sequence[int], coefficients: Tensor) -> None:
        """Take in realised root-mean-square coefficients [items], for proxies with a history."""
        self.spread.observe(ids, coefficients)

    def state(self) -> dict[str, Any]:
        """What the next plan depends on, as data that JSON can hold."""
        return {
            "steps": self.steps,
            "weights": list(self.weights or ()),
            "multiplier": self.multiplier,
            "spread": self.spread.state(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue where `state()` was taken."""
        self.steps, self.multiplier = int(state["steps"]), float(state["multiplier"])
        self.weights = (float(state["weights"][0]), float(state["weights"][1]))
        self.spread.load_state(state["spread"])


def spread_freed(kept: Tensor, p: Tensor, budget: int) -> tuple[Tensor, Tensor]:
    """Real counts that sum to the budget, and the freed queries of each draw.

    Args:
        kept: [draws, items], queries that were kept.
        p: [items], by which freed ones are spread.
        budget: N.

    Returns:
        counts [draws, items] and freed [draws], 0 where more was kept than there is: then all are scaled down.
    """
    total = kept.sum(1, keepdim=True)
    freed = (budget - total).clamp(min=0.0)
    counts = torch.where(total > budget, kept * (budget / total.clamp(min=1.0)), kept + freed * (p / p.sum()))
    return counts, freed[:, 0]


def cost_gradient(
    level: Tensor,
    size: Tensor,
    p: Tensor,
    kept: Tensor,
    counts: Tensor,
    cost: Tensor,
    freed: Tensor,
    offered: int,
    budget: int,
    n_min: int,
) -> tuple[float, float]:
    """Slope of E C in (w0, w1): the score with a leave-one-out baseline, and the path through p of freed queries."""
    items = len(level)
    others = (cost.sum() - cost) / (len(cost) - 1)
    score = kept - offered * p
    w0 = ((cost - others) * score.sum(1)).mean()
    w1 = ((cost - others) * (score @ level)).mean()
    uniform = float((size**2).sum()) * items / budget
    falling = -(size**2) / counts**2 / uniform * (1 - items * n_min / budget)
    along = freed[:, None] / p.sum() * (falling - (falling * p).sum(1, keepdim=True) / p.sum()) * (p * (1 - p))
    return float(w0 + along.sum(1).mean()), float(w1 + (along @ level).mean())
