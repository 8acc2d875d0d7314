"""Slow twins of the pricing, recommendation and joint environments, written from the definitions; see `envs.scalar`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from onlyforward.decide.envs.joint import ReplenishParameters, SeasonParameters
from onlyforward.decide.envs.pricing import PricingParameters
from onlyforward.decide.envs.recommendation import RecommendationParameters

Step = tuple[list[float], float, bool]


class ScalarPricing:
    """A season of pricing, slot by slot."""

    def __init__(self, parameters: PricingParameters, uniform: Sequence[float]) -> None:
        self.parameters = parameters
        self.uniform = list(uniform)
        self.slot, self.stock = 0, parameters.items
        self.observation = self.look()

    def look(self) -> list[float]:
        """Shares of stock and time left."""
        p = self.parameters
        return [self.stock / p.items, 1 - self.slot / p.slots]

    def step(self, action: Sequence[float]) -> Step:
        """Poisson demand by inversion; sales stop at the stock."""
        p, price = self.parameters, action[0]
        if p.demand == "exponential":
            mean = p.customers * math.exp(-price)
        elif p.demand == "linear":
            mean = p.customers * max(0.0, 1 - price / p.choke)
        else:
            mean = p.customers * (1 + math.exp(-p.choke)) / (1 + math.exp(price - p.choke))
        mean /= p.slots
        wanted, chance = 0, math.exp(-mean)
        total = chance
        while self.uniform[self.slot] >= total and wanted < p.items + 1:
            wanted += 1
            chance *= mean / wanted
            total += chance
        sold = min(wanted, self.stock)
        self.stock -= sold
        self.slot += 1
        return self.look(), price * sold, self.slot >= p.slots


class ScalarRecommendation:
    """One user's session."""

    def __init__(self, parameters: RecommendationParameters, user: int, uniform: Sequence[float]) -> None:
        self.parameters = parameters
        self.taste = parameters.tastes[int(user)]
        self.uniform = list(uniform)
        self.period = 0
        self.shown = [0] * len(self.taste)
        self.taken = [0] * len(self.taste)
        self.observation = self.look()

    def look(self) -> list[float]:
        """Time left, shares shown, shares taken."""
        periods = self.parameters.periods
        counts = [*self.shown, *self.taken]
        return [1 - self.period / periods, *(count / periods for count in counts)]

    def step(self, action: Sequence[float]) -> Step:
        """The user goes through the slate in the catalogue's order until the uniform is used up."""
        slate = sorted({int(place) for place in action if place < len(self.taste)})
        weights = [math.exp(self.taste[i]) for i in slate]
        mark = self.uniform[self.period] * (1 + sum(weights))
        reward = 0.0
        for i in slate:
            self.shown[i] += 1
        for i, weight in zip(slate, weights, strict=True):
            if mark < weight:
                self.taken[i] += 1
                reward = self.parameters.margins[i]
                break
            mark -= weight
        self.period += 1
        return self.look(), reward, self.period >= self.parameters.periods


def customers(
    parameters: SeasonParameters | ReplenishParameters, uniforms: Sequence[float], action: Sequence[float]
) -> tuple[list[int], list[float]]:
    """What every item's customers want in one period, and the prices."""
    items = len(parameters.utility)
    prices = [parameters.prices[int(place)] for place in action[items : 2 * items]]
    weights = [
        math.exp(parameters.utility[i] - prices[i] + (parameters.boost if i == int(action[2 * items]) else 0.0))
        for i in range(items)
    ]
    wanted = [0] * items
    for uniform in uniforms:
        mark = uniform * (1 + sum(weights))
        for i in range(items):
            if mark < weights[i]:
                wanted[i] += 1
                break
            mark -= weights[i]
    return wanted, prices


class ScalarSeason:
    """One season."""

    def __init__(self, parameters: SeasonParameters, uniform: Sequence[Sequence[float]]) -> None:
        self.parameters = parameters
        self.uniform = uniform
        self.period = 0
        self.stock = [0.0] * len(parameters.utility)
        self.observation = self.look()

    def look(self) -> list[float]:
        """Time left, stock as shares of the cap."""
        p = self.parameters
        return [1 - self.period / (p.periods + 1), *(x / p.cap for x in self.stock)]

    def step(self, action: Sequence[float]) -> Step:
        """The order first, then sales; salvage at the end."""
        p = self.parameters
        items = len(self.stock)
        if self.period == 0:
            self.stock = [float(order) for order in action[:items]]
            reward = -sum(cost * order for cost, order in zip(p.cost, self.stock, strict=True))
        else:
            wanted, prices = customers(p, self.uniform[self.period], action)
            reward = 0.0
            for i in range(items):
                sold = min(wanted[i], self.stock[i])
                self.stock[i] -= sold
                reward += prices[i] * sold
            if self.period == p.periods:
                reward += p.salvage * sum(self.stock)
        self.period += 1
        return self.look(), reward, self.period > p.periods


class ScalarReplenish:
    """One shop that orders every period."""

    def __init__(self, parameters: ReplenishParameters, uniform: Sequence[Sequence[float]]) -> None:
        self.parameters = parameters
        self.uniform = uniform
        self.period = 0
        self.stock = [float(parameters.cap // 2)] * len(parameters.utility)
        self.observation = self.look()

    def look(self) -> list[float]:
        """Time left, stock as shares of the cap."""
        p = self.parameters
        return [1 - self.period / p.periods, *(x / p.cap for x in self.stock)]

    def step(self, action: Sequence[float]) -> Step:
        """Sales, holding, the order joins the shelf; the profit's share of the average."""
        p = self.parameters
        wanted, prices = customers(p, self.uniform[self.period], action)
        profit = 0.0
        for i in range(len(self.stock)):
            sold = min(wanted[i], self.stock[i])
            left = self.stock[i] - sold
            profit += prices[i] * sold - p.holding * left - p.cost[i] * action[i]
            self.stock[i] = min(left + action[i], p.cap)
        counted = self.period >= p.warm
        self.period += 1
        return self.look(), profit / (p.periods - p.warm) if counted else 0.0, self.period >= p.periods
