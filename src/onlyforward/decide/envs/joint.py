"""Customers who choose among priced and recommended items: stocked once for a season, or replenished every period.

The simulator twins of `exact.joint` and `exact.replenish`: M customers a period choose by multinomial logit among the
items or nothing, with utility a_i - price_i + boost 1{recommended}; sales stop at an item's stock, nobody substitutes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onlyforward.core.checks import check_range
from onlyforward.core.errors import UsageError
from onlyforward.decide.envs.base import Array, Environment, Reference, Space, State
from onlyforward.decide.envs.kernels_market import market_kernels

if TYPE_CHECKING:
    from onlyforward.decide.exact.joint import Season


@dataclass(frozen=True)
class MarketParameters:
    """What both problems share.

    Attributes:
        utility: a, one per item.
        cost: unit cost, one per item.
        prices: the price list, common to the items.
        boost: utility added to the recommended item.
        customers: M per period.
    """

    utility: tuple[float, ...] = (1.8, 1.5)
    cost: tuple[float, ...] = (0.7, 0.6)
    prices: tuple[float, ...] = (1.0, 1.5, 2.0, 2.5, 3.0, 3.5)
    boost: float = 1.2
    customers: int = 4

    def __post_init__(self) -> None:
        if len(self.cost) != len(self.utility):
            raise UsageError(f"{len(self.utility)} utilities and {len(self.cost)} costs", "Give one of each per item")
        check_range(min(self.prices), name="prices", low=0.0, open_low=True)
        check_range(self.customers, name="customers", low=1)


@dataclass(frozen=True)
class SeasonParameters(MarketParameters):
    """One order, then a season.

    Attributes:
        salvage: value of a unit left at the end.
        periods: T, periods of sales.
        cap: largest order of an item.
    """

    salvage: float = 0.1
    periods: int = 15
    cap: int = 26

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self.periods, name="periods", low=1)
        check_range(self.cap, name="cap", low=1)


@dataclass(frozen=True)
class ReplenishParameters(MarketParameters):
    """An order every period.

    Attributes:
        holding: cost of one unit left at the end of a period.
        max_order: largest order of an item; it arrives in the next period.
        cap: largest stock; what comes beyond it is paid and lost.
        periods: T; the objective is the average profit.
        warm: first periods that earn no reward.
    """

    prices: tuple[float, ...] = (1.5, 2.0, 2.5, 3.0)
    holding: float = 0.12
    max_order: int = 4
    cap: int = 10
    periods: int = 100
    warm: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self.max_order, name="max_order", low=1)
        check_range(self.warm, name="warm", low=0, high=self.periods - 1)
        check_range(self.cap, name="cap", low=1)


class Market(Environment):
    """Choice of customers and sales, for both problems. Actions: order_i, price_i (its place in the list), item."""

    gamma, alpha = 1.0, 0.1

    def __init__(self, parameters: Any, *, periods: int, orders: int, backend: str, device: str) -> None:
        super().__init__(backend=backend, device=device)
        self.parameters = parameters
        self.horizon = periods
        self.items = n = len(parameters.utility)
        self.observation_size = n + 1
        self.action = Space("multidiscrete", (orders + 1,) * n + (len(parameters.prices),) * n + (n,))
        self.prices = self.array(np.array(parameters.prices))
        self.utility = self.array(np.array(parameters.utility)[:, None])
        self.cost = self.array(np.array(parameters.cost)[:, None])
        self.places = self.array(np.arange(n)[:, None])

    def draw(self, generator: np.random.Generator, episodes: int) -> dict[str, NDArray[Any]]:
        """One uniform for every customer of every period."""
        shape = (episodes, self.horizon, self.parameters.customers)
        return {"uniform": generator.random(shape, dtype=np.float32)}

    def observe(self, state: State) -> Array:
        """Time left, and stock as a share of the cap: [B, 1 + n]."""
        left = state["stock"][:1] * 0 + (1 - state["t"] / self.horizon)
        return self.xp.concatenate((left, state["stock"] / self.parameters.cap)).T

    def sell(self, state: State, action: Array) -> tuple[Array, Array]:
        """Units sold [n, B] and revenue [B] of one period's customers."""
        n, p = self.items, self.parameters
        price = self.prices[action[:, n : 2 * n].T]
        weight = self.xp.exp(self.utility - price + (self.places == action[:, 2 * n]) * p.boost)
        uniform = state["uniform"][state["t"]]
        compiled = market_kernels(uniform)
        if compiled:
            return compiled.sales(uniform, weight, price, state["stock"])  # type: ignore[no-any-return]
        reach = weight.cumsum(0)
        below = self.reals(uniform * (1 + reach[-1])[:, None] >= reach[:, :, None]).sum(2)
        # Customers above item i's bound but below item i + 1's want item i + 1; all are above "item -1".
        wanted = self.xp.concatenate((below[:1] * 0 + p.customers, below[:-1])) - below
        sold = self.xp.minimum(wanted, state["stock"])
        return sold, (price * sold).sum(0)


class JointSeason(Market):
    """The batched season: period 0 orders, T periods of sales follow; orders later and sales in period 0 do nothing."""

    id = "JointSeason"

    def __init__(
        self, parameters: SeasonParameters | None = None, *, backend: str = "numpy", device: str = "cpu"
    ) -> None:
        p = parameters or SeasonParameters()
        super().__init__(p, periods=p.periods + 1, orders=p.cap, backend=backend, device=device)

    @property
    def instance(self) -> Season:
        """The instance as the exact program knows it."""
        from dataclasses import asdict

        from onlyforward.decide.exact.joint import Season

        return Season(**asdict(self.parameters))

    def start(self, noise: Mapping[str, Array]) -> State:
        """Empty shelves."""
        return {"t": 0, **noise, "stock": self.zeros(self.items, noise["uniform"].shape[1])}

    def advance(self, state: State, action: Array) -> tuple[State, Array]:
        """Period 0: minus the cost of the order. Later: revenue of the sales, and at the end salvage of the rest."""
        if state["t"] == 0:
            stock = self.reals(action[:, : self.items].T)
            return {**state, "t": 1, "stock": stock}, -(self.cost * stock).sum(0)
        sold, reward = self.sell(state, action)
        stock = state["stock"] - sold
        if state["t"] == self.horizon - 1:
            reward = reward + stock.sum(0) * self.parameters.salvage
        return {**state, "t": state["t"] + 1, "stock": stock}, reward

    def references(self) -> dict[str, Reference]:
        """Profit of the joint optimum, and of what coordinates less."""
        from onlyforward.decide.exact.joint import references

        less = ("static", "dynamic_price", "margin_silo", "revenue_silo")
        found = references(self.instance, "joint", *less)
        return {
            "optimum": Reference(found["joint"], "exact", "joint dynamic program"),
            **{name: Reference(found[name], "heuristic", name.replace("_", " ")) for name in less},
        }


class JointReplenish(Market):
    """The batched shop: sales, then holding cost, then the order joins the shelf."""

    id = "JointReplenish"

    def __init__(
        self, parameters: ReplenishParameters | None = None, *, backend: str = "numpy", device: str = "cpu"
    ) -> None:
        p = parameters or ReplenishParameters()
        super().__init__(p, periods=p.periods, orders=p.max_order, backend=backend, device=device)

    def start(self, noise: Mapping[str, Array]) -> State:
        """Half-full shelves."""
        return {"t": 0, **noise, "stock": self.zeros(self.items, noise["uniform"].shape[1]) + self.parameters.cap // 2}

    def advance(self, state: State, action: Array) -> tuple[State, Array]:
        """Revenue less holding and the order's cost, as its share of the average."""
        p = self.parameters
        sold, revenue = self.sell(state, action)
        left = state["stock"] - sold
        order = self.reals(action[:, : self.items].T)
        scale = 0.0 if state["t"] < p.warm else 1.0 / (self.horizon - p.warm)
        reward = (revenue - left.sum(0) * p.holding - (self.cost * order).sum(0)) * scale
        return {**state, "t": state["t"] + 1, "stock": (left + order).clip(max=p.cap)}, reward

    def references(self) -> dict[str, Reference]:
        """Average profit of the joint optimum, and of static prices with optimal orders."""
        from onlyforward.decide.exact.joint import Season
        from onlyforward.decide.exact.replenish import Replenish, references

        p = self.parameters
        season = Season(p.utility, p.cost, p.prices, p.boost, customers=p.customers, cap=p.cap)
        found = references(Replenish(season, p.max_order, p.holding))
        return {
            "optimum": Reference(found["joint"], "exact", "joint value iteration"),
            **{
                name: Reference(found[name], "heuristic", name.replace("_", " "))
                for name in ("static", "margin_silo", "revenue_silo")
            },
        }
