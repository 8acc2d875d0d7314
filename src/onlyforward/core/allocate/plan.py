"""What an allocator is given, and the plan that it returns."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from onlyforward.core.errors import UsageError


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

    @property
    def items(self) -> int:
        """How many items there are."""
        for value in (self.loss, self.residual, self.ids, self.cost):
            if value is not None:
                return len(value)
        raise UsageError("Features hold nothing", "Give at least one of loss, residual, ids, cost")


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


def make_plan(shares: Tensor, budget: int, *, n_min: int = 1, spread: Tensor | None = None) -> Plan:
    """Round shares to counts that sum exactly to the budget, each at least `n_min`.

    Every item gets n_min, the rest is divided so that counts follow the shares, by largest remainders with ties by
    index. `spread [items]` are the noise standard deviations for the expected gain.

    Raises:
        UsageError: the budget is below items times n_min.
    """
    items = len(shares)
    if budget < items * n_min:
        raise UsageError(
            f"A budget of {budget} runs is too small for {items} items",
            f"Give at least {items * n_min}, {n_min} per item",
        )
    counts = round_to_budget(water_fill(shares.double(), float(budget), float(n_min)), budget, n_min)
    index = torch.repeat_interleave(torch.arange(items), counts)
    weight = 1.0 / (items * counts[index].double())
    gain = 1.0 if spread is None else predicted_gain(spread.double(), counts, budget)
    return Plan(counts, index, weight, gain)


def water_fill(shares: Tensor, budget: float, floor: float) -> Tensor:
    """Real counts proportional to the shares wherever that is at least `floor`, and `floor` elsewhere: [items]."""
    low = torch.zeros(len(shares), dtype=torch.bool)
    counts = shares * (budget / shares.sum())
    while bool(((counts < floor) & ~low).any()):
        low |= counts < floor
        left = budget - floor * int(low.sum())
        rest = shares[~low].sum()
        counts = torch.where(low, torch.full_like(shares, floor), shares * (left / rest if float(rest) > 0 else 0.0))
    return counts


def round_to_budget(counts: Tensor, budget: int, n_min: int) -> Tensor:
    """Largest remainders, ties by index: int64 [items] with the exact sum."""
    whole = counts.floor().to(torch.int64).clamp(min=n_min)
    missing = budget - int(whole.sum())
    order = torch.argsort(whole.double() - counts, stable=True)
    if missing > 0:
        order = order.repeat(-(-missing // len(order)))
        whole += torch.bincount(order[:missing], minlength=len(whole))
    while missing < 0:
        # Clamping to n_min may overshoot by rounding: take back where most was rounded up.
        donors = order.flip(0)[whole[order.flip(0)] > n_min][:-missing]
        whole[donors] -= 1
        missing += len(donors)
    return whole


def predicted_gain(spread: Tensor, counts: Tensor, budget: int) -> float:
    """Variance of uniform counts over that of `counts`: (items / N) sum S^2 / sum S^2 / n_i."""
    uniform = float((spread**2).sum()) * len(spread) / budget
    planned = float((spread**2 / counts).sum())
    return uniform / planned if planned > 0 else 1.0


def check_infinite(features: Features) -> Features:
    """Return the features; an infinite one is refused by name, because no share of a budget follows from it.

    Raises:
        UsageError: names the feature and the item.
    """
    for name in ("loss", "residual", "cost"):
        values = getattr(features, name)
        if values is not None and bool(values.isinf().any()):
            item = int(values.isinf().nonzero()[0])
            raise UsageError(f"The {name} of item {item} is infinite", "Cap it, or leave the item out")
    return features


def usable(values: Tensor | None) -> bool:
    """Whether features say anything: finite, non-negative and not all zero."""
    return (
        values is not None and bool(values.isfinite().all()) and bool((values >= 0).all()) and float(values.sum()) > 0
    )
