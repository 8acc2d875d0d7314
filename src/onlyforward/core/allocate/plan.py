"""What an allocator is given, and the plan that it returns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onlyforward.core.errors import UsageError

Numbers = Tensor | NDArray[np.float64]


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


def make_plan(shares: Numbers, budget: int, *, n_min: int = 1, spread: Numbers | None = None) -> Plan:
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
    # A few dozen numbers: NumPy's calls cost a third of torch's.
    counts = round_to_budget(water_fill(plain(shares), float(budget), float(n_min)), budget, n_min)
    index = np.repeat(np.arange(items), counts)
    weight = 1.0 / (items * counts[index].astype(np.float64))
    gain = 1.0 if spread is None else predicted_gain(plain(spread), counts, budget)
    return Plan(torch.from_numpy(counts), torch.from_numpy(index), torch.from_numpy(weight), gain)


def plain(values: Numbers) -> NDArray[np.float64]:
    """Numbers [items] as an array; an array is given back as it is."""
    if isinstance(values, np.ndarray):
        return values
    found: NDArray[np.float64] = values.detach().cpu().numpy().astype(np.float64, copy=False)
    return found


def water_fill(shares: NDArray[np.float64], budget: float, floor: float) -> NDArray[np.float64]:
    """Real counts proportional to the shares wherever that is at least `floor`, and `floor` elsewhere: [items]."""
    low = np.zeros(len(shares), dtype=np.bool_)
    counts: NDArray[np.float64] = shares * (budget / shares.sum())
    while bool((below := (counts < floor) & ~low).any()):
        low |= below
        rest = shares[~low].sum()
        left = budget - floor * int(low.sum())
        counts = np.where(low, floor, shares * (left / rest if rest > 0 else 0.0))
    return counts


def round_to_budget(counts: NDArray[np.float64], budget: int, n_min: int) -> NDArray[np.int64]:
    """Largest remainders, ties by index: [items] with the exact sum."""
    whole = np.maximum(np.floor(counts).astype(np.int64), n_min)
    missing = budget - int(whole.sum())
    order = np.argsort(whole - counts, kind="stable")
    if missing > 0:
        whole += missing // len(whole)
        whole[order[: missing % len(whole)]] += 1
    while missing < 0:
        # Clamping to n_min may overshoot by rounding: take back where most was rounded up.
        donors = order[::-1][whole[order[::-1]] > n_min][:-missing]
        whole[donors] -= 1
        missing += len(donors)
    return whole


def predicted_gain(spread: NDArray[np.float64], counts: NDArray[np.int64], budget: int) -> float:
    """Variance of uniform counts over that of `counts`: (items / N) sum S^2 / sum S^2 / n_i."""
    squares = spread**2
    planned = float((squares / counts).sum())
    return float(squares.sum()) * len(spread) / budget / planned if planned > 0 else 1.0


def check_infinite(features: Features) -> Features:
    """Return the features; an infinite one is refused by name, because no share of a budget follows from it.

    Raises:
        UsageError: names the feature and the item.
    """
    for name in ("loss", "residual", "cost"):
        values = getattr(features, name)
        if values is not None and np.isinf(plain(values)).any():
            item = int(np.isinf(plain(values)).argmax())
            raise UsageError(f"The {name} of item {item} is infinite", "Cap it, or leave the item out")
    return features


def usable(values: Numbers | None) -> bool:
    """Whether features say anything: finite, non-negative and not all zero."""
    if values is None:
        return False
    numbers = plain(values)
    total = float(numbers.sum())
    return 0 < total < np.inf and bool((numbers >= 0).all())
