"""One item with a lead time and lost sales: the simulator twin of `exact.lost_sales`, as an average-cost problem."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onlyforward.core.checks import check_choice, check_range
from onlyforward.decide.envs.base import Array, Environment, Reference, Space, State


@dataclass(frozen=True)
class LostSalesParameters:
    """Parameters.

    Attributes:
        lead: periods from order to arrival, L >= 0.
        penalty: cost of one lost unit.
        holding: cost of one unit held at the end of a period.
        demand: "poisson" or "geometric".
        mean: mean demand per period.
        max_order: largest order.
        periods: T; the reward is minus the cost, and the objective is the average over the periods.
        warm: first periods that earn no reward, so that the average is the stationary one.
    """

    lead: int = 2
    penalty: float = 4.0
    holding: float = 1.0
    demand: str = "poisson"
    mean: float = 5.0
    max_order: int = 15
    periods: int = 100
    warm: int = 0

    def __post_init__(self) -> None:
        check_range(self.lead, name="lead", low=0, high=30)
        check_range(self.penalty, name="penalty", low=0.0, open_low=True)
        check_range(self.holding, name="holding", low=0.0, open_low=True)
        check_range(self.mean, name="mean", low=0.0, open_low=True)
        check_range(self.periods, name="periods", low=1)
        check_choice(self.demand, ("poisson", "geometric"), name="demand")


class LostSales(Environment):
    """The batched item; observations are the stock after arrival and the orders on the way: [B, max(1, L)]."""

    id = "LostSales"
    gamma, alpha = 1.0, 0.1

    def __init__(
        self, parameters: LostSalesParameters | None = None, *, backend: str = "numpy", device: str = "cpu"
    ) -> None:
        super().__init__(backend=backend, device=device)
        self.parameters = parameters or LostSalesParameters()
        self.horizon = self.parameters.periods
        self.observation_size = max(1, self.parameters.lead)
        self.action = Space("discrete", (self.parameters.max_order + 1,))

    def draw(self, generator: np.random.Generator, episodes: int) -> dict[str, NDArray[Any]]:
        """Demand of every period: [episodes, T]."""
        shape, mean = (episodes, self.horizon), self.parameters.mean
        if self.parameters.demand == "poisson":
            return {"demand": generator.poisson(mean, shape).astype(np.float32)}
        return {"demand": (generator.geometric(1 / (1 + mean), shape) - 1).astype(np.float32)}

    def start(self, noise: Mapping[str, Array]) -> State:
        """Stock for one period's mean demand, and mean orders on the way."""
        batch, level = noise["demand"].shape[1], float(round(self.parameters.mean))
        row = self.zeros(batch) + level
        return {"t": 0, "demand": noise["demand"], "stock": row, "coming": (row,) * (self.observation_size - 1)}

    def observe(self, state: State) -> Array:
        """Stock, then the orders on the way: [B, max(1, L)]."""
        return self.xp.stack((state["stock"], *state["coming"])).T

    def position(self, state: State) -> Array:
        """Stock and everything on the way: [1, B]."""
        return sum(state["coming"], state["stock"])[None]

    def advance(self, state: State, action: Array) -> tuple[State, Array]:
        """The order joins the pipeline, demand falls, the next order arrives; reward = -(h (x - D)+ + p (D - x)+)."""
        t = state["t"]
        p = self.parameters
        order = self.reals(action[:, 0])
        coming = (*state["coming"], order)
        # With lead 0 the order itself is on the shelf before demand falls.
        gap = state["stock"] - state["demand"][t] if p.lead else state["stock"] + order - state["demand"][t]
        left = gap.clip(min=0)
        scale = 0.0 if t < p.warm else -1.0 / (self.horizon - p.warm)
        # Holding and penalty are one convex function of the gap: the larger of its two slopes' lines.
        reward = self.xp.maximum(gap * p.holding, gap * -p.penalty) * scale
        after = left + coming[0] if p.lead else left
        return {"t": t + 1, "demand": state["demand"], "stock": after, "coming": coming[1:]}, reward

    def references(self) -> dict[str, Reference]:
        """Minus the optimal average cost and the best capped base-stock's, from `exact.lost_sales`."""
        from onlyforward.decide.exact import lost_sales

        p = self.parameters
        if not 1 <= p.lead <= 4:
            return {}
        problem = lost_sales.LostSales(p.lead, p.penalty, p.holding, p.demand, p.mean)
        capped, level, cap = lost_sales.best_capped(problem)
        simple, base = lost_sales.best_base_stock(problem)
        return {
            "optimum": Reference(-lost_sales.solve(problem).value, "exact", "value iteration"),
            "capped": Reference(-capped, "heuristic", f"capped base-stock ({level}, {cap})"),
            "base-stock": Reference(-simple, "heuristic", f"base-stock {base}"),
        }
