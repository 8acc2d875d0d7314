"""Slow twins: one episode in plain Python, written from the definition, for tests and for the speed table.

They do what a single environment does for its user: check the action, move one period, build the observation.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from onlyforward.core.errors import UsageError
from onlyforward.decide.envs.lost_sales import LostSalesParameters
from onlyforward.decide.envs.supply_chain import SupplyChainParameters


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

    def step(self, orders: Sequence[float]) -> tuple[NDArray[np.float32], float, bool]:
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
        observation = np.array([value for period in self.seen for value in period], dtype=np.float32)
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

    def step(self, order: float) -> float:
        """Minus the cost of one period."""
        p = self.parameters
        if p.lead == 0:
            self.stock += order
        else:
            self.coming.append(order)
        fell = self.demand[self.period]
        left = max(self.stock - fell, 0.0)
        cost = p.holding * left + p.penalty * max(fell - self.stock, 0.0)
        self.stock = left if p.lead == 0 else left + self.coming.pop(0)
        self.period += 1
        return -cost


def play(env: ScalarSupplyChain, act: Callable[[], Sequence[float]], periods: int) -> float:
    """Sum of rewards over some periods."""
    return sum(env.step(act())[1] for _ in range(periods))
