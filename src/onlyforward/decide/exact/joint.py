"""One season, one order, then prices and a recommendation in every period: the exact joint dynamic program.

In each period M customers choose by multinomial logit among the items or nothing; the utility of item i is
a_i - price_i + boost 1{recommended}. Demand is multinomial, sales stop at each item's stock, nobody substitutes.
V_t(x) = max_action E[sum price_i min(D_i, x_i) + V_{t+1}(x - min(D, x))], V_{T}(x) = salvage sum x, and the order
maximises V_0(x) - c'x. (Setting of arXiv 2403.00318; the instances and the program are derived here.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import factorial

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Season:
    """An instance.

    Attributes:
        utility: a, one per item.
        cost: c, unit cost per item.
        prices: the price list, common to the items.
        boost: utility added to the recommended item.
        salvage: value of a unit left at the end.
        customers: M per period.
        periods: T.
        cap: largest stock of an item.
    """

    utility: tuple[float, ...]
    cost: tuple[float, ...]
    prices: tuple[float, ...]
    boost: float = 1.2
    salvage: float = 0.1
    customers: int = 4
    periods: int = 15
    cap: int = 26

    @cached_property
    def actions(self) -> list[tuple[tuple[float, ...], int]]:
        """Every (prices, recommended item)."""
        items = len(self.utility)
        return [(prices, item) for prices in product(self.prices, repeat=items) for item in range(items)]

    @cached_property
    def outcomes(self) -> NDArray[np.int64]:
        """Every demand vector with sum at most M: [k, n]."""
        ranges = [range(self.customers + 1)] * len(self.utility)
        return np.array([d for d in product(*ranges) if sum(d) <= self.customers])

    def chances(self, action: tuple[tuple[float, ...], int]) -> Values:
        """Multinomial probability of every outcome under an action: [k]."""
        prices, recommended = action
        weight = np.exp(np.array(self.utility) - np.array(prices))
        weight[recommended] *= np.exp(self.boost)
        buy = weight / (1.0 + weight.sum())
        nobody = 1.0 - buy.sum()
        idle = self.customers - self.outcomes.sum(axis=1)
        ways = [
            factorial(self.customers) / np.prod([factorial(int(v)) for v in (*d, i)])
            for d, i in zip(self.outcomes, idle, strict=True)
        ]
        return np.array(ways) * np.prod(buy**self.outcomes, axis=1) * nobody**idle


SEASON_A = Season(utility=(1.8, 1.5), cost=(0.7, 0.6), prices=(1.0, 1.5, 2.0, 2.5, 3.0, 3.5))


def season_b(items: int) -> Season:
    """Instance B with one, two or three items."""
    return Season(
        utility=(1.8, 1.5, 1.2)[:items],
        cost=(0.7, 0.6, 0.5)[:items],
        prices=(1.5, 2.0, 2.5, 3.0),
        customers=3,
        periods=12,
        cap=12,
    )


def evaluate(season: Season, choices: NDArray[np.int64] | None = None, allowed: Iterable[int] | None = None) -> Values:
    """V_0 on every stock vector: [X + 1, ..., X + 1].

    Args:
        season: the instance.
        choices: a policy, the action's index at every period and stock [T, X + 1, ..., X + 1]; None maximises.
        allowed: the actions to maximise over (default: all).
    """
    items = len(season.utility)
    shape = (season.cap + 1,) * items
    stock = np.indices(shape)
    sold = np.minimum(season.outcomes.T.reshape(items, -1, *(1,) * items), stock[:, None])
    after = tuple(stock[i][None] - sold[i] for i in range(items))
    indices = list(range(len(season.actions)) if allowed is None else allowed)
    chances = np.array([season.chances(season.actions[a]) for a in indices])
    revenue = np.array([chance_revenue(c, sold, season.actions[a][0]) for c, a in zip(chances, indices, strict=True)])
    value: Values = season.salvage * stock.sum(axis=0).astype(np.float64)
    for period in reversed(range(season.periods)):
        ahead = revenue + np.tensordot(chances, value[after], axes=(1, 0))
        if choices is None:
            value = ahead.max(axis=0)
        else:
            value = np.take_along_axis(ahead, choices[period][None], axis=0)[0]
    return value


def chance_revenue(chances: Values, sold: NDArray[np.int64], prices: Sequence[float]) -> Values:
    """Expected revenue of one period at every stock vector."""
    earned = np.tensordot(np.array(prices), sold, axes=(0, 0))
    return np.tensordot(chances, earned, axes=(0, 0))


def with_order(season: Season, value: Values) -> tuple[float, tuple[int, ...]]:
    """Profit V_0(x) - c'x of the best order x, and the order."""
    stock = np.indices(value.shape)
    profit = value - np.tensordot(np.array(season.cost), stock, axes=(0, 0))
    best = int(profit.argmax())
    return float(profit.flat[best]), tuple(int(i) for i in np.unravel_index(best, profit.shape))


def references(season: Season) -> dict[str, float]:
    """Profit of the joint optimum and of the policies that hold prices, the recommendation, or both fixed."""
    actions = season.actions
    by_item = [[a for a, (_, r) in enumerate(actions) if r == item] for item in range(len(season.utility))]
    by_price: dict[tuple[float, ...], list[int]] = {}
    for a, (prices, _) in enumerate(actions):
        by_price.setdefault(prices, []).append(a)
    return {
        "joint": with_order(season, evaluate(season))[0],
        "static": max(with_order(season, evaluate(season, allowed=[a]))[0] for a in range(len(actions))),
        "dynamic_price": max(with_order(season, evaluate(season, allowed=group))[0] for group in by_item),
        "dynamic_recommendation": max(
            with_order(season, evaluate(season, allowed=group))[0] for group in by_price.values()
        ),
    }
