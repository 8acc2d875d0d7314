"""What the learned allocators share: a plan made of shares that one update over the sorted losses gives."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from onlyforward.core.allocate.neyman import Neyman
from onlyforward.core.allocate.plan import Features, Plan, check_infinite, make_plan, usable
from onlyforward.core.errors import UsageError


class Learner(Protocol):
    """An allocator that learns shares from losses, without a run."""

    n_min: int
    spread: Neyman

    def learn(self, level: Tensor, size: Tensor, budget: int) -> Tensor:
        """One update from standardised losses and spreads, both [items] and sorted by loss; shares [items]."""
        ...


def learned_plan(allocator: Learner, budget: int, features: Features) -> Plan:
    """Counts [items] that sum to the budget; the uniform plan where the features say nothing.

    Raises:
        UsageError: features without losses, or a budget below one run an item.
    """
    loss, spread = check_infinite(features).loss, allocator.spread.spread(features)
    if loss is None:
        raise UsageError("A learned allocator reads losses and got none", "Give Features(loss=...)")
    if spread is None:
        spread = loss
    flat = make_plan(torch.ones(features.items), budget, n_min=allocator.n_min)
    if not usable(loss) or not usable(spread) or features.items == 1:
        return flat
    # Draws follow the order of the losses, so that the order of the batch does not matter.
    order = torch.argsort(loss.double(), stable=True)
    shares = allocator.learn(standardised(loss[order].double()), spread[order].double(), budget)
    back = torch.empty_like(shares).index_copy(0, order, shares)
    return make_plan(back, budget, n_min=allocator.n_min, spread=spread)


def standardised(loss: Tensor) -> Tensor:
    """Roots of losses with mean 0 and standard deviation 1 [items]; zeros where all are equal.

    Losses have heavy tails: their roots keep a linear mean from giving everything to the worst item.
    """
    root = loss.clamp(min=0).sqrt()
    deviation = root.std(correction=0)
    return (root - root.mean()) / deviation if float(deviation) > 0 else torch.zeros_like(root)
