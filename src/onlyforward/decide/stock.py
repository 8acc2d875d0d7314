"""Order-up-to policies on real or simulated demand: what a period earns, batched over items and candidates.

An order is placed before period t's demand and arrives before that of t + lead. Sales that find no stock are lost.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onlyforward.core.checks import check_range
from onlyforward.core.errors import UsageError
from onlyforward.decide.series import Reals


@dataclass(frozen=True)
class Costs:
    """Money per unit and period.

    Attributes:
        price: of a unit sold.
        cost: of a unit ordered.
        holding: of a unit left at the end of a period.
        penalty: of a unit of lost demand, beyond its margin.
        salvage: of a perishable unit left at the end of its period.
        fixed: of an order.
        lead: periods from order to arrival.
        review: periods between orders.
        perishable: nothing is carried over to the next period.
    """

    price: float
    cost: float
    holding: float = 0.0
    penalty: float = 0.0
    salvage: float = 0.0
    fixed: float = 0.0
    lead: int = 0
    review: int = 1
    perishable: bool = False

    def __post_init__(self) -> None:
        if self.cost >= self.price:
            raise UsageError(f"--cost {self.cost:g} is not below --price {self.price:g}", "Nothing can be earned so")
        for name in ("cost", "holding", "penalty", "fixed"):
            check_range(getattr(self, name), name=f"--{name}", low=0.0)
        check_range(self.lead, name="--lead", low=0, high=104)
        check_range(self.review, name="--review", low=1, high=104)
        if self.salvage >= self.cost and self.perishable:
            raise UsageError(f"--salvage {self.salvage:g} is not below --cost {self.cost:g}", "Unsold units would earn")
        if self.perishable and (self.lead or self.review > 1):
            raise UsageError("Perishable units are ordered for every period anew", "Take --lead 0 and --review 1")

    @property
    def protection(self) -> int:
        """Periods of demand that an order must cover."""
        return self.lead + self.review

    @property
    def ratio(self) -> float:
        """The newsvendor's critical ratio: what a missing unit costs over what a missing and a spare one cost."""
        under = self.price - self.cost + self.penalty
        over = self.cost - self.salvage if self.perishable else self.holding
        return under / (under + over) if under + over > 0 else 1.0


@dataclass(frozen=True)
class Ledger:
    """What happened, all [T, ...] like the demand.

    Attributes:
        profit: money.
        sales: units.
        orders: units.
        stock: units at the end of each period.
    """

    profit: Reals
    sales: Reals
    orders: Reals
    stock: Reals


def operate(
    levels: Reals, demand: Reals, costs: Costs, *, reorder: Reals | None = None, cap: Reals | float = np.inf
) -> Ledger:
    """Run an order-up-to policy.

    Args:
        levels: [T, ...] position to order up to; whole units. The starting stock is the first level.
        demand: [T, ...], broadcast against the levels.
        costs: money and times.
        reorder: [T, ...], an order is placed only where the position is at or below it; None: below the level.
        cap: largest order.
    """
    shape = np.broadcast_shapes(levels.shape, demand.shape)
    profit, sales, orders, stocks = (np.zeros(shape) for _ in range(4))
    stock = np.broadcast_to(levels[0], shape[1:]).astype(np.float64)
    coming = np.zeros((costs.lead + 1, *shape[1:]))
    for t in range(shape[0]):
        if costs.perishable:
            order = np.broadcast_to(levels[t], shape[1:])
            have = order
        else:
            position = stock + coming.sum(0)
            gap = np.maximum(levels[t] - position, 0.0)
            wanted = gap if reorder is None else np.where(position <= reorder[t], gap, 0.0)
            order = np.minimum(wanted, cap) if t % costs.review == 0 else np.zeros(shape[1:])
            coming[(t + costs.lead) % (costs.lead + 1)] += order
            have = stock + coming[t % (costs.lead + 1)]
            coming[t % (costs.lead + 1)] = 0.0
        sold = np.minimum(have, demand[t])
        left = have - sold
        lost = costs.penalty * (demand[t] - sold) + costs.fixed * (order > 0)
        if costs.perishable:
            profit[t] = costs.price * sold - costs.cost * order + costs.salvage * left - lost
        else:
            profit[t] = (costs.price - costs.cost) * sold - costs.holding * left - lost
            stock = left
        sales[t], orders[t], stocks[t] = sold, order, left
    return Ledger(profit, sales, orders, stocks)


def best_levels(demand: Reals, costs: Costs, *, candidates: int = 160) -> Reals:
    """The constant level of each item that earns most on a series: [n]. Searched on a grid, then unit by unit."""
    top = np.ceil(demand.max(0) * (costs.protection + 0.5)) + 1
    coarse = np.unique(np.rint(np.linspace(0, 1, candidates)[:, None] * top), axis=0)
    found = search_levels(coarse, demand, costs)
    for _ in range(8):  # the grid's step is halved until it is one unit
        step = np.maximum(np.ceil(top / candidates), 1)
        around = np.maximum(found + np.arange(-6, 7)[:, None] * np.ceil(step / 6), 0)
        better = search_levels(around, demand, costs)
        if (better == found).all():
            break
        found = better
    return found


def search_levels(grid: Reals, demand: Reals, costs: Costs) -> Reals:
    """The best row of a grid [k, n] for each item: [n]."""
    earned = operate(np.broadcast_to(grid, (len(demand), *grid.shape)), demand[:, None, :], costs).profit.sum(0)
    return np.asarray(grid[earned.argmax(0), np.arange(grid.shape[1])])


def best_reorder(demand: Reals, costs: Costs) -> tuple[Reals, Reals]:
    """The (s, S) of each item that earns most on a series, S on a grid of 24 and S - s on a grid of 12: [n] each."""
    if not costs.fixed:
        level = best_levels(demand, costs)
        return level - 1, level
    mean = np.maximum(demand.mean(0), 1e-9)
    lot = np.sqrt(2 * costs.fixed * mean / max(costs.holding, 1e-3 * costs.cost, 1e-9))
    base = best_levels(demand, costs)
    ups = np.rint(base + np.linspace(0, 1.5, 24)[:, None] * lot)
    gaps = np.rint(np.maximum(np.linspace(0, 1.8, 12)[:, None] * lot, 1))
    level = np.repeat(ups, len(gaps), axis=0)
    reorder = level - np.tile(gaps, (len(ups), 1))
    periods = len(demand)
    earned = operate(
        np.broadcast_to(level, (periods, *level.shape)),
        demand[:, None, :],
        costs,
        reorder=np.broadcast_to(reorder, (periods, *level.shape)),
    ).profit.sum(0)
    row, items = earned.argmax(0), np.arange(level.shape[1])
    return reorder[row, items], level[row, items]


def worst_decile(profit: Reals) -> float:
    """The 10 % quantile over periods of the profit of all items together; profit: [T, n]."""
    return float(np.quantile(profit.sum(-1), 0.1))
