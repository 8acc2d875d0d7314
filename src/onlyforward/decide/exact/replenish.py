"""Orders, prices and a recommendation in every period, on average: the exact joint program of quick replenishment.

The customers are those of `exact.joint`. A period: M customers choose, sales stop at the stock x, h is paid for every
unit left, and an order z <= Z per item, placed before demand is known, joins the shelf: x' = min(x - sold + z, X).
(Setting of arXiv 2403.00318; program and instance are derived here.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from onlyforward.decide.exact.joint import Program, Season, Values, myopic

SHOP = Season(utility=(1.8, 1.5), cost=(0.7, 0.6), prices=(1.5, 2.0, 2.5, 3.0), cap=10)


@dataclass(frozen=True)
class Replenish:
    """An instance.

    Attributes:
        season: the customers, prices and costs; its cap X is the largest stock, its horizon is not used.
        max_order: Z, largest order of an item.
        holding: h, cost of one unit left at the end of a period.
    """

    season: Season = SHOP
    max_order: int = 4
    holding: float = 0.12

    @property
    def orders(self) -> list[tuple[int, ...]]:
        """Every order vector."""
        return list(product(range(self.max_order + 1), repeat=len(self.season.utility)))


@dataclass(frozen=True)
class Optimum:
    """An optimal average profit.

    Attributes:
        value: profit per period.
        ahead: Q(x, z, a) relative to the start [Z orders, A actions, X + 1, ..., X + 1], within the allowed ones.
    """

    value: float
    ahead: Values


def solve(
    problem: Replenish,
    *,
    actions: Iterable[int] | None = None,
    allowed: NDArray[np.bool_] | None = None,
    tolerance: float = 1e-7,
) -> Optimum:
    """Relative value iteration.

    Args:
        problem: the instance.
        actions: indices of the prices and recommendations that are considered (default: all).
        allowed: [Z, A, X + 1, ..., X + 1] what may be chosen where (default: everything).
        tolerance: width of the bounds on the average at which iteration stops.
    """
    season = problem.season
    program = Program(season)
    chosen = list(range(len(program.actions)) if actions is None else actions)
    chances, left = program.chances[chosen], np.array(program.after)
    profit = program.revenue[chosen] - problem.holding * np.tensordot(chances, left.sum(axis=0), axes=(1, 0))
    nexts = [
        tuple(np.minimum(after + z, season.cap) for after, z in zip(left, order, strict=True))
        for order in problem.orders
    ]
    paid = np.array([np.dot(season.cost, order) for order in problem.orders])
    value = np.zeros(profit.shape[1:])
    while True:
        future = np.array([np.tensordot(chances, value[after], axes=(1, 0)) for after in nexts])
        ahead = profit + future - paid.reshape(-1, *(1,) * profit.ndim)
        if allowed is not None:
            ahead = np.where(allowed, ahead, -np.inf)
        new = ahead.max(axis=(0, 1))
        change = new - value
        value = new - new.flat[0]
        if np.ptp(change) < tolerance:
            return Optimum(float((change.max() + change.min()) / 2), ahead)


def level_orders(problem: Replenish, levels: Sequence[int], actions: int) -> NDArray[np.bool_]:
    """The `allowed` of base-stock levels: order what lacks to the level before the period's sales."""
    items = len(levels)
    stock = np.indices((problem.season.cap + 1,) * items)
    lack = np.clip(np.array(levels).reshape(items, *(1,) * items) - stock, 0, problem.max_order)
    orders = np.array(problem.orders).reshape(-1, items, *(1,) * items)
    fits = (orders == lack[None]).all(axis=1)
    return np.repeat(fits[:, None], actions, axis=1)


def best_levels(problem: Replenish, action: int) -> tuple[float, list[int]]:
    """Average profit and levels of the best base-stock orders at fixed prices and recommendation.

    Nobody substitutes, so that the items earn apart and one pass over them finds the best levels together.
    """

    def profit(levels: list[int]) -> float:
        return solve(problem, actions=[action], allowed=level_orders(problem, levels, 1), tolerance=1e-6).value

    levels = [problem.max_order] * len(problem.season.utility)
    for i in range(len(levels)):
        tried = [[*levels[:i], level, *levels[i + 1 :]] for level in range(1, problem.season.cap + 1)]
        levels = max(tried, key=profit)
    return profit(levels), levels


def references(problem: Replenish) -> dict[str, float]:
    """Average profit of the joint optimum, static prices and recommendation with optimal orders, and silos."""
    season = problem.season
    static = max(range(len(season.actions)), key=lambda a: solve(problem, actions=[a], tolerance=1e-5).value)
    return {
        "joint": solve(problem).value,
        "static": solve(problem, actions=[static]).value,
        "margin_silo": solve(problem, actions=[myopic(season)]).value,
        "revenue_silo": solve(problem, actions=[myopic(season, margin=False)]).value,
    }
