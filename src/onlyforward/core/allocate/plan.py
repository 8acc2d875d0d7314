"""What an allocator is given, and the plan that it returns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Features:
    """What is known about the items before they are run; at least one is given.

    Attributes:
        loss: [items], clean losses.
        residual: [items], an estimate of each item's noise standard deviation.
        ids: [items] int64, names of the items for allocators with a memory.
        cost: [items], price of one run.
    """

    loss: Tensor | None = None
    residual: Tensor | None = None
    ids: Tensor | None = None
    cost: Tensor | None = None


@dataclass(frozen=True)
class Plan:
    """How often each item is run.

    Attributes:
        counts: [items] int64; sums exactly to the budget.
        index: [N] int64, the item of each run, items in order.
        weight: [N], 1 / (items * counts[index]): the weights of an unbiased mean over items.
        expected_gain: variance of the uniform plan over this plan's, as the features predict it.
    """

    counts: Tensor
    index: Tensor
    weight: Tensor
    expected_gain: float
