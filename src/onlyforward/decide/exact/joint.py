"""One season, one order, then prices and a recommendation in every period: the exact joint dynamic program.

In each period M customers choose by multinomial logit among the items or nothing; the utility of item i is
a_i - price_i + boost 1{recommended}. Demand is multinomial, sales stop at each item's stock, nobody substitutes.
V_t(x) = max_action E[sum price_i min(D_i, x_i) + V_{t+1}(x - min(D, x))], V_{T}(x) = salvage sum x, and the order
maximises V_0(x) - c'x. (Setting of arXiv 2403.00318; the instances and the program are derived here.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import factorial

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Choices = NDArray[np.int64]


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

    @cached_property
    def ways(self) -> Values:
        """Multinomial coefficient of every outcome: [k]."""
        idle = self.customers - self.outcomes.sum(axis=1)
        factorials = np.array([factorial(i) for i in range(self.customers + 1)], dtype=np.float64)
        return factorials[-1] / (factorials[self.outcomes].prod(axis=1) * factorials[idle])

    def chances(self, action: tuple[tuple[float, ...], int]) -> Values:
        """Multinomial probability of every outcome under an action: [k]."""
        prices, recommended = action
        weight = np.exp(np.array(self.utility) - np.array(prices))
        weight[recommended] *= np.exp(self.boost)
        buy = weight / (1.0 + weight.sum())
        nobody = 1.0 - buy.sum()
        idle = self.customers - self.outcomes.sum(axis=1)
        return self.ways * np.prod(buy**self.outcomes, axis=1) * nobody**idle


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


class Program:
    """A season's dynamic program: one stage at every stock vector, for every action.

    Args:
        season: the instance.
    """

    def __init__(self, season: Season) -> None:
        items = len(season.utility)
        self.periods, self.actions = season.periods, season.actions
        stock = np.indices((season.cap + 1,) * items)
        sold = np.minimum(season.outcomes.T.reshape(items, -1, *(1,) * items), stock[:, None])
        self.after = tuple(stock[i][None] - sold[i] for i in range(items))
        self.chances = np.array([season.chances(action) for action in self.actions])
        self.revenue = np.array(
            [
                np.tensordot(chances, np.tensordot(np.array(prices), sold, axes=(0, 0)), axes=(0, 0))
                for chances, (prices, _) in zip(self.chances, self.actions, strict=True)
            ]
        )
        self.end: Values = season.salvage * stock.sum(axis=0).astype(np.float64)

    def ahead(self, value: Values, allowed: list[int] | slice = slice(None)) -> Values:
        """Revenue of a period and value of the next, for every (allowed) action and stock: [A, X + 1, ..., X + 1]."""
        return self.revenue[allowed] + np.tensordot(self.chances[allowed], value[self.after], axes=(1, 0))

    def best(self, allowed: list[int] | slice = slice(None)) -> Values:
        """V_0 on every stock vector, maximised over the allowed actions: [X + 1, ..., X + 1]."""
        value = self.end
        for _ in range(self.periods):
            value = self.ahead(value, allowed).max(axis=0)
        return value


def evaluate(season: Season, choices: Choices | None = None, allowed: list[int] | slice = slice(None)) -> Values:
    """V_0 on every stock vector: [X + 1, ..., X + 1].

    Args:
        season: the instance.
        choices: a policy, the action's index at every period and stock [T, X + 1, ..., X + 1]; None maximises.
        allowed: the actions to maximise over (default: all).
    """
    program = Program(season)
    if choices is None:
        return program.best(allowed)
    value = program.end
    for period in reversed(range(season.periods)):
        value = np.take_along_axis(program.ahead(value), choices[period][None], axis=0)[0]
    return value


def action_values(season: Season) -> tuple[Values, Values]:
    """Q_t(x, a) of the optimal continuation [T, A, X + 1, ..., X + 1], and V_0 [X + 1, ..., X + 1]."""
    program = Program(season)
    value, found = program.end, []
    for _ in range(season.periods):
        found.append(program.ahead(value))
        value = found[-1].max(axis=0)
    return np.array(found[::-1]), value


def best_response(season: Season, choices: Choices, free: str) -> tuple[Values, Choices]:
    """V_0 and the policy when one domain answers the other's policy at every period and stock.

    Args:
        season: the instance.
        choices: the policy [T, X + 1, ..., X + 1]; what the other domain does in it is kept.
        free: "price" or "recommendation", the domain that answers.
    """
    program = Program(season)
    pair = [(prices, item) if free == "recommendation" else (item, prices) for prices, item in program.actions]
    kept = {part: i for i, part in enumerate(dict.fromkeys(part for part, _ in pair))}
    held = np.array([kept[part] for part, _ in pair])
    value, answer = program.end, np.empty_like(choices)
    for period in reversed(range(season.periods)):
        same = held.reshape(-1, *(1,) * value.ndim) == held[choices[period]][None]
        ahead = np.where(same, program.ahead(value), -np.inf)
        answer[period], value = ahead.argmax(axis=0), ahead.max(axis=0)
    return value, answer


def person_by_person(season: Season) -> float:
    """Profit where prices and recommendations answer each other until neither gains, from the margin silo on."""
    shape = (season.periods, *(season.cap + 1,) * len(season.utility))
    choices, before = np.full(shape, myopic(season)), -np.inf
    while True:
        _, choices = best_response(season, choices, "recommendation")
        value, choices = best_response(season, choices, "price")
        if value.sum() <= before + 1e-9:
            return with_order(season, value)[0]
        before = value.sum()


def myopic(season: Season, *, margin: bool = True) -> int:
    """The action that earns most from one customer as if stock were endless, by margin or by revenue."""
    cost = np.array(season.cost) if margin else 0.0
    gains = []
    for prices, recommended in season.actions:
        weight = np.exp(np.array(season.utility) - np.array(prices))
        weight[recommended] *= np.exp(season.boost)
        gains.append(weight @ (np.array(prices) - cost) / (1.0 + weight.sum()))
    return int(np.argmax(gains))


def with_order(season: Season, value: Values) -> tuple[float, tuple[int, ...]]:
    """Profit V_0(x) - c'x of the best order x, and the order."""
    stock = np.indices(value.shape)
    profit = value - np.tensordot(np.array(season.cost), stock, axes=(0, 0))
    best = int(profit.argmax())
    return float(profit.flat[best]), tuple(int(i) for i in np.unravel_index(best, profit.shape))


def references(season: Season, *names: str) -> dict[str, float]:
    """Profit, each with its best order, of the joint optimum and of everything that coordinates less.

    `static` holds prices and recommendation all season, `dynamic_price` the recommendation, `dynamic_recommendation`
    the prices; `person` lets prices and recommendations answer each other; the silos ignore stock: `margin_silo`
    maximises a customer's margin, `revenue_silo` a customer's revenue.

    Args:
        season: the instance.
        names: what is wanted (default: all).
    """
    actions = season.actions
    by_item = [[a for a, (_, r) in enumerate(actions) if r == item] for item in range(len(season.utility))]
    by_price: dict[tuple[float, ...], list[int]] = {}
    for a, (prices, _) in enumerate(actions):
        by_price.setdefault(prices, []).append(a)
    program = Program(season)

    def best(groups: Iterable[list[int] | slice]) -> float:
        return max(with_order(season, program.best(group))[0] for group in groups)

    known: dict[str, Callable[[], float]] = {
        "joint": lambda: best([slice(None)]),
        "person": lambda: person_by_person(season),
        "dynamic_recommendation": lambda: best(by_price.values()),
        "dynamic_price": lambda: best(by_item),
        "static": lambda: best([a] for a in range(len(actions))),
        "margin_silo": lambda: best([[myopic(season)]]),
        "revenue_silo": lambda: best([[myopic(season, margin=False)]]),
    }
    return {name: known[name]() for name in names or known}
