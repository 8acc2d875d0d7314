"""Slow twins: one episode in plain Python, written from the definitions, for tests and for the speed table.

A twin does what a single environment does for its user: `step(action) -> observation, reward, done`, with `observation`
before the first step. It is made from the environment's parameters and one episode's noise, and shares no code with the
batched form.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from onlyforward.core.errors import UsageError
from onlyforward.decide.envs.bandit import MEANS, SPREADS
from onlyforward.decide.envs.base import Environment
from onlyforward.decide.envs.lost_sales import LostSalesParameters
from onlyforward.decide.envs.newsvendor import NewsvendorParameters, ReorderParameters
from onlyforward.decide.envs.portfolio import PortfolioParameters
from onlyforward.decide.envs.scalar_market import ScalarPricing, ScalarRecommendation, ScalarReplenish, ScalarSeason
from onlyforward.decide.envs.supply_chain import SupplyChainParameters

Step = tuple[list[float], float, bool]


class ScalarSupplyChain:
    """The supply chain, one episode, lists of floats."""

    def __init__(self, parameters: SupplyChainParameters, demand: Sequence[float]) -> None:
        self.parameters = parameters
        self.demand = list(demand)
        self.period = 0
        self.stock = [parameters.stock] * len(parameters.leads)
        free = 10.0 if parameters.compat == "paper" else parameters.initial_pipeline
        self.pipeline = [[free] * lead for lead in parameters.leads]
        empty = [0.0] * 4 * len(parameters.leads)
        self.seen = deque([empty] * 5, maxlen=5)
        self.observation = [0.0] * 5 * len(empty)

    def step(self, orders: Sequence[float]) -> Step:
        """One period: arrivals, sales from the customer upwards, shipments; observation [60], reward, done."""
        p = self.parameters
        echelons = len(p.leads)
        if len(orders) != echelons or not all(0 <= order <= p.max_order for order in orders):
            raise UsageError(
                f"The action {list(orders)} is no order", f"Give {echelons} numbers from 0 to {p.max_order}"
            )
        for n in range(echelons):
            self.stock[n] += self.pipeline[n].pop(0)
        sold, lost = [], []
        reward = 0.0
        for n in range(echelons):
            asked = self.demand[self.period] if n == 0 else orders[n - 1]
            sale = min(self.stock[n], asked)
            self.stock[n] -= sale
            sold.append(sale)
            lost.append(asked - sale)
            reward += p.prices[n] * sale - p.lost[n] * (asked - sale) - p.holding[n] * self.stock[n]
        for n in range(echelons):
            bought = sold[n + 1] if n + 1 < echelons else orders[n]
            reward -= p.prices[n + 1] * bought
            self.pipeline[n].append(bought)
        self.period += 1
        self.seen.appendleft([*self.stock, *lost, *sold, *orders])
        observation = [value for period in self.seen for value in period]
        return observation, reward, self.period >= p.periods


class ScalarLostSales:
    """Lost sales with a lead time, one path."""

    def __init__(self, parameters: LostSalesParameters, demand: Sequence[float]) -> None:
        self.parameters = parameters
        self.demand = list(demand)
        self.period = 0
        level = round(parameters.mean)
        self.stock = float(level)
        self.coming = [float(level)] * max(0, parameters.lead - 1)
        self.observation = [self.stock, *self.coming]

    def step(self, action: Sequence[float]) -> Step:
        """Minus the cost of one period, as its share of the average."""
        p = self.parameters
        if p.lead == 0:
            self.stock += action[0]
        else:
            self.coming.append(action[0])
        fell = self.demand[self.period]
        left = max(self.stock - fell, 0.0)
        cost = p.holding * left + p.penalty * max(fell - self.stock, 0.0)
        self.stock = left if p.lead == 0 else left + self.coming.pop(0)
        counted = self.period >= p.warm
        self.period += 1
        reward = -cost / (p.periods - p.warm) if counted else 0.0
        return [self.stock, *self.coming], reward, self.period >= p.periods


class ScalarReorder:
    """A fixed cost of ordering, backlog, no lead time."""

    def __init__(self, parameters: ReorderParameters, demand: Sequence[float]) -> None:
        self.parameters = parameters
        self.demand = list(demand)
        self.period = 0
        self.stock = 0.0
        self.observation = [0.0]

    def step(self, action: Sequence[float]) -> Step:
        """Minus the cost of one period, as its share of the average."""
        p = self.parameters
        cost = p.fixed if action[0] > 0 else 0.0
        self.stock += action[0] - self.demand[self.period]
        cost += p.holding * self.stock if self.stock > 0 else -p.penalty * self.stock
        counted = self.period >= p.warm
        self.period += 1
        return [self.stock], -cost / (p.periods - p.warm) if counted else 0.0, self.period >= p.periods


class ScalarNewsvendor:
    """One order, one demand."""

    def __init__(self, parameters: NewsvendorParameters, demand: Sequence[float]) -> None:
        self.parameters = parameters
        self.demand = demand[0]
        self.observation = [1.0]

    def step(self, action: Sequence[float]) -> Step:
        """Minus the cost of what is left or short."""
        gap = action[0] - self.demand
        cost = self.parameters.holding * gap if gap > 0 else -self.parameters.penalty * gap
        return [1.0], -cost, True


class ScalarPortfolio:
    """The account: weights, cost of buying, one step of the market."""

    def __init__(self, parameters: PortfolioParameters, moves: Sequence[Sequence[float]]) -> None:
        self.parameters = parameters
        self.moves = moves
        self.period = 0
        self.wealth = parameters.wealth
        self.held = [0.0] * len(moves[0])
        self.observation = self.look()

    def look(self) -> list[float]:
        """Time left, log wealth over the start, weights held."""
        p = self.parameters
        return [1 - self.period / p.periods, math.log(self.wealth / p.wealth), *self.held]

    def step(self, action: Sequence[float]) -> Step:
        """Rebalance, pay, move; the gain is paid at the end."""
        p, move = self.parameters, self.moves[self.period]
        bought = sum(max(new - old, 0.0) for new, old in zip(action, self.held, strict=True))
        growth = 1 + sum(weight * change for weight, change in zip(action, move, strict=True))
        self.wealth = max(self.wealth * (1 - p.cost * bought) * growth, 1e-6)
        self.held = [weight * (1 + change) / growth for weight, change in zip(action, move, strict=True)]
        self.period += 1
        done = self.period >= p.periods
        return self.look(), self.wealth - p.wealth if done else 0.0, done


class ScalarGame:
    """An environment without dynamics: what is seen and paid in a period depends on that period's noise alone.

    Args:
        seen: observations of every period [T][o].
        pay: (period, action) -> reward.
    """

    def __init__(self, seen: Sequence[list[float]], pay: Callable[[int, float], float]) -> None:
        self.seen, self.pay = seen, pay
        self.period = 0
        self.observation = seen[0]

    def step(self, action: Sequence[float]) -> Step:
        """Pay, and show the next period."""
        reward = self.pay(self.period, action[0])
        self.period += 1
        return self.seen[min(self.period, len(self.seen) - 1)], reward, self.period >= len(self.seen)


def twin(environment: Environment, noise: Mapping[str, Any]) -> Any:
    """The slow twin of an environment for one episode's noise, as lists: name -> [T] or [T][...]."""
    told = {name: value.tolist() if hasattr(value, "tolist") else value for name, value in noise.items()}
    return TWINS[environment.id](getattr(environment, "parameters", None), told)


def zero_mean(parameters: None, noise: Mapping[str, Any]) -> ScalarGame:
    """R = ((a - 1)^2 + 0.1) Z."""
    return ScalarGame(noise["seen"], lambda t, a: ((a - 1) ** 2 + 0.1) * noise["unit"][t])


def one_step(parameters: None, noise: Mapping[str, Any]) -> ScalarGame:
    """R = 2a - a^2/2 + |a| Z."""
    return ScalarGame([[1.0]], lambda t, a: 2 * a - a * a / 2 + abs(a) * noise["unit"][t])


def fair_lottery(parameters: None, noise: Mapping[str, Any]) -> ScalarGame:
    """R = x U, x the spread at the chosen position."""
    return ScalarGame(noise["spread"], lambda t, a: noise["spread"][t][int(a)] * noise["unit"][t])


def beyond_greed(parameters: None, noise: Mapping[str, Any]) -> ScalarGame:
    """A: 0 or 1 with chances .4 and .6; B: .5 or 1.5 with .6 and .4."""
    periods = len(noise["uniform"])
    seen = [[float(i == t) for i in range(periods)] for t in range(periods)]

    def pay(t: int, a: float) -> float:
        uniform = noise["uniform"][t]
        return 0.5 + (uniform >= 0.6) if a else float(uniform >= 0.4)

    return ScalarGame(seen, pay)


def bandit(parameters: None, noise: Mapping[str, Any]) -> ScalarGame:
    """Mean + spread Z of the arm."""
    return ScalarGame([[1.0]], lambda t, a: MEANS[int(a)] + SPREADS[int(a)] * noise["unit"][t])


TWINS: dict[str, Callable[[Any, Mapping[str, Any]], Any]] = {
    "SupplyChain": lambda p, noise: ScalarSupplyChain(p, noise["demand"]),
    "LostSales": lambda p, noise: ScalarLostSales(p, noise["demand"]),
    "SS": lambda p, noise: ScalarReorder(p, noise["demand"]),
    "Newsvendor": lambda p, noise: ScalarNewsvendor(p, noise["demand"]),
    "Portfolio": lambda p, noise: ScalarPortfolio(p, noise["move"]),
    "DynamicPricing": lambda p, noise: ScalarPricing(p, noise["uniform"]),
    "Recommendation": lambda p, noise: ScalarRecommendation(p, noise["user"], noise["uniform"]),
    "JointSeason": lambda p, noise: ScalarSeason(p, noise["uniform"]),
    "JointReplenish": lambda p, noise: ScalarReplenish(p, noise["uniform"]),
    "ZeroMean": zero_mean,
    "OneStep": one_step,
    "FairLottery": fair_lottery,
    "BeyondGreed": beyond_greed,
    "Bandit": bandit,
}
