"""One season, n units, customers who come at random and buy if the price suits them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onlyforward.core.checks import check_choice, check_range
from onlyforward.decide.envs.base import Array, Environment, Reference, Space, State
from onlyforward.decide.envs.kernels_market import market_kernels


@dataclass(frozen=True)
class PricingParameters:
    """Parameters.

    Attributes:
        items: n, units at the start; what is left at the end is worth nothing.
        customers: a, expected buyers of the season at the price 0.
        demand: expected buyers at price p: exponential a e^-p, linear a (1 - p / choke)+, logit
            a (1 + e^-choke) / (1 + e^(p - choke)).
        choke: price at which linear demand ends, or at which about half of logit demand is gone.
        slots: equal slots of the season; a price holds for one. Continuous time is the limit.
    """

    items: int = 10
    customers: float = 40.0
    demand: str = "exponential"
    choke: float = 4.0
    slots: int = 200

    def __post_init__(self) -> None:
        check_range(self.items, name="items", low=1)
        check_range(self.customers, name="customers", low=0.0, open_low=True)
        check_choice(self.demand, ("exponential", "linear", "logit"), name="demand")
        check_range(self.choke, name="choke", low=0.0, open_low=True)
        check_range(self.slots, name="slots", low=1)

    @property
    def dearest(self) -> float:
        """The highest price that is offered: beyond it next to nobody buys."""
        return self.choke if self.demand == "linear" else self.choke + 6.0 if self.demand == "logit" else 6.0


def buyers(parameters: PricingParameters, price: Array, xp: Any = np) -> Array:
    """Expected buyers of one slot at each price."""
    most = parameters.customers / parameters.slots
    if parameters.demand == "exponential":
        return xp.exp(-price) * most
    if parameters.demand == "linear":
        return (1 - price / parameters.choke).clip(min=0) * most
    return most * (1 + math.exp(-parameters.choke)) / (1 + xp.exp(price - parameters.choke))


def most_buyers(mean: float) -> int:
    """A number that a Poisson variable of this mean exceeds with a chance below 1e-9."""
    chance = total = math.exp(-mean)
    count = 0
    while 1.0 - total > 1e-9 and count < 10 * mean + 30:
        count += 1
        chance *= mean / count
        total += chance
    return count


class DynamicPricing(Environment):
    """The batched season; observations are the stock and the time left, both as shares: [B, 2]."""

    id = "DynamicPricing"
    gamma, alpha = 1.0, 0.1
    observation_size = 2

    def __init__(
        self, parameters: PricingParameters | None = None, *, backend: str = "numpy", device: str = "cpu"
    ) -> None:
        super().__init__(backend=backend, device=device)
        self.parameters = parameters or PricingParameters()
        self.horizon = self.parameters.slots
        self.action = Space("box", (1,), (0.0,), (self.parameters.dearest,))
        self.most = most_buyers(self.parameters.customers / self.parameters.slots)

    def draw(self, generator: np.random.Generator, episodes: int) -> dict[str, NDArray[Any]]:
        """One uniform a slot: the quantile of its Poisson demand, whatever the price is."""
        return {"uniform": generator.random((episodes, self.horizon), dtype=np.float32)}

    def start(self, noise: Mapping[str, Array]) -> State:
        """Everything in stock."""
        return {"t": 0, **noise, "stock": self.zeros(noise["uniform"].shape[1]) + self.parameters.items}

    def observe(self, state: State) -> Array:
        """Stock and time left as shares: [B, 2]."""
        share = state["stock"] / self.parameters.items
        return self.xp.stack((share, share * 0 + (1 - state["t"] / self.horizon))).T

    def advance(self, state: State, action: Array) -> tuple[State, Array]:
        """Demand is the uniform's quantile of Poisson(rate of the price); reward = price times what stock allows."""
        price, uniform = action[:, 0], state["uniform"][state["t"]]
        mean = buyers(self.parameters, price, self.xp)
        sold = self.xp.minimum(self.wanted(uniform, mean), state["stock"])
        return {**state, "t": state["t"] + 1, "stock": state["stock"] - sold}, price * sold

    def wanted(self, uniform: Array, mean: Array) -> Array:
        """Quantile of Poisson(mean) at the uniform: [B]."""
        chance = total = self.xp.exp(-mean)
        compiled = market_kernels(uniform)
        if compiled:
            return compiled.demand(uniform, mean, total, self.most)
        count = self.reals(uniform >= total)
        for k in range(1, self.most):
            chance = chance * mean / k
            total = total + chance
            count = count + (uniform >= total)
        return count

    def references(self) -> dict[str, Reference]:
        """Revenue of the optimum (closed form for exponential demand), of the slots' own, and of one fixed price."""
        from onlyforward.decide.exact import pricing

        p = self.parameters
        grid = np.linspace(0.0, p.dearest, 241)
        slots = pricing.best_slotted(p.items, lambda price: buyers(p, price), p.slots, grid)
        found = {"slots": Reference(slots, "exact", f"dynamic program on {p.slots} slots")}
        if p.demand == "exponential":
            level, fixed = pricing.best_fixed_price(p.items, p.customers)
            best = pricing.value(p.items, p.customers)
            found = {"optimum": Reference(best, "exact", "Gallego and van Ryzin's price, continuous time"), **found}
        else:
            shape = (1, p.slots, p.items + 1)
            level = max(grid, key=lambda x: pricing.slotted(p.items, lambda price: buyers(p, price), np.full(shape, x)))
            fixed = pricing.slotted(p.items, lambda price: buyers(p, price), np.full(shape, level))
        return {**found, "fixed": Reference(fixed, "heuristic", f"the price {level:.2f} all season")}
