"""Inventory problems with closed forms: one period, and a fixed cost of ordering with backlog."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onlyforward.core.checks import check_range
from onlyforward.decide.envs.base import Array, Environment, Reference, Space, State


@dataclass(frozen=True)
class NewsvendorParameters:
    """Normal demand; cost h (S - D)+ + p (D - S)+.

    Attributes:
        mean: mean demand.
        sd: its standard deviation.
        holding: cost of one unit left.
        penalty: cost of one unit short.
    """

    mean: float = 50.0
    sd: float = 8.0
    holding: float = 0.18
    penalty: float = 0.70

    def __post_init__(self) -> None:
        for name in ("mean", "sd", "holding", "penalty"):
            check_range(getattr(self, name), name=name, low=0.0, open_low=True)


class Newsvendor(Environment):
    """One order before one period's demand."""

    id = "Newsvendor"
    horizon, gamma, alpha = 1, 1.0, 0.1
    observation_size = 1

    def __init__(
        self, parameters: NewsvendorParameters | None = None, *, backend: str = "numpy", device: str = "cpu"
    ) -> None:
        super().__init__(backend=backend, device=device)
        self.parameters = parameters or NewsvendorParameters()
        self.action = Space("box", (1,), (0.0,), (4.0 * self.parameters.mean,))

    def draw(self, generator: np.random.Generator, episodes: int) -> dict[str, NDArray[Any]]:
        """One demand an episode."""
        return {"demand": generator.normal(self.parameters.mean, self.parameters.sd, (episodes, 1))}

    def start(self, noise: Mapping[str, Array]) -> State:
        """Nothing in stock."""
        return {"t": 0, **noise}

    def observe(self, state: State) -> Array:
        """A constant 1: [B, 1]."""
        return state["demand"][0][:, None] * 0 + 1

    def advance(self, state: State, action: Array) -> tuple[State, Array]:
        """Minus the cost."""
        gap = action[:, 0] - state["demand"][0]
        left = gap.clip(min=0)
        return {**state, "t": 1}, -(self.parameters.holding * left + self.parameters.penalty * (left - gap))

    def references(self) -> dict[str, Reference]:
        """Minus the expected cost at the critical fractile."""
        from onlyforward.decide.exact.newsvendor import normal_newsvendor

        p = self.parameters
        level, cost = normal_newsvendor(p.mean, p.sd, holding=p.holding, penalty=p.penalty)
        return {"optimum": Reference(-cost, "exact", f"order {level:.2f}")}


@dataclass(frozen=True)
class ReorderParameters:
    """Poisson demand, fixed cost of ordering, backlog, no lead time.

    Attributes:
        mean: mean demand per period.
        fixed: cost of an order.
        holding: cost of one unit held at the end of a period.
        penalty: cost of one unit owed at the end of a period.
        periods: T; the objective is minus the average cost.
        warm: first periods that earn no reward.
        max_order: largest order.
    """

    mean: float = 10.0
    fixed: float = 64.0
    holding: float = 1.0
    penalty: float = 9.0
    periods: int = 200
    warm: int = 40
    max_order: int = 200

    def __post_init__(self) -> None:
        for name in ("mean", "fixed", "holding", "penalty"):
            check_range(getattr(self, name), name=name, low=0.0, open_low=True)
        check_range(self.warm, name="warm", low=0, high=self.periods - 1)


class SS(Environment):
    """Order at the start of a period, it arrives at once, then demand falls; unmet demand is owed."""

    id = "SS"
    gamma, alpha = 1.0, 0.1
    observation_size = 1

    def __init__(
        self, parameters: ReorderParameters | None = None, *, backend: str = "numpy", device: str = "cpu"
    ) -> None:
        super().__init__(backend=backend, device=device)
        self.parameters = parameters or ReorderParameters()
        self.horizon = self.parameters.periods
        self.action = Space("discrete", (self.parameters.max_order + 1,))

    def draw(self, generator: np.random.Generator, episodes: int) -> dict[str, NDArray[Any]]:
        """Demand of every period."""
        return {"demand": generator.poisson(self.parameters.mean, (episodes, self.horizon)).astype(np.float32)}

    def start(self, noise: Mapping[str, Array]) -> State:
        """An empty shelf."""
        return {"t": 0, "demand": noise["demand"], "stock": self.zeros(noise["demand"].shape[1])}

    def position(self, state: State) -> Array:
        """Stock less what is owed: [1, B]."""
        return state["stock"][None]

    def observe(self, state: State) -> Array:
        """The position: [B, 1]."""
        return state["stock"][:, None]

    def advance(self, state: State, action: Array) -> tuple[State, Array]:
        """Minus fixed cost, holding and penalty, averaged over the periods after the warm-up."""
        order = self.reals(action[:, 0])
        stock = state["stock"] + order
        stock -= state["demand"][state["t"]]
        p = self.parameters
        scale = 0.0 if state["t"] < p.warm else -1.0 / (self.horizon - p.warm)
        # Holding and penalty are one convex function of the stock; negative, the smaller of its two slopes' lines.
        reward = self.xp.minimum(stock * (p.holding * scale), stock * (-p.penalty * scale))
        reward += self.xp.sign(order) * (p.fixed * scale)
        return {"t": state["t"] + 1, "demand": state["demand"], "stock": stock}, reward

    def references(self) -> dict[str, Reference]:
        """Minus the optimal average cost, by Zheng and Federgruen."""
        from onlyforward.decide.exact import ss
        from onlyforward.decide.exact.distributions import poisson

        p = self.parameters
        low, high, cost = ss.solve(poisson(p.mean), fixed=p.fixed, holding=p.holding, penalty=p.penalty)
        return {"optimum": Reference(-cost, "exact", f"(s, S) = ({low}, {high})")}
