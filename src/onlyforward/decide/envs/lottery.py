"""Choices whose means are equal or misleading: the fair lottery and beyond greed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onlyforward.decide.envs.base import Array, Environment, Reference, Space, State


class FairLottery(Environment):
    """Three lotteries of mean zero and spread 1, 4 and 9 stand in random order; pick a position, T = 20 times.

    r ~ U[-x, x] with x the spread at the chosen position (arXiv 2305.07248). Always 1 is the best memoryless policy.
    """

    id = "FairLottery"
    horizon, gamma, alpha = 20, 0.99, 0.25
    observation_size = 3
    action = Space("discrete", (3,))
    spreads = (1.0, 4.0, 9.0)

    def draw(self, generator: np.random.Generator, episodes: int) -> dict[str, NDArray[Any]]:
        """The order of the lotteries and one uniform on [-1, 1] a period."""
        order = np.argsort(generator.random((episodes, self.horizon, 3)), axis=2)
        return {"spread": np.array(self.spreads)[order], "unit": generator.uniform(-1, 1, (episodes, self.horizon))}

    def start(self, noise: Mapping[str, Array]) -> State:
        """Period 0, and where each episode's three spreads begin in a flat period."""
        return {"t": 0, "first": self.xp.arange(0, 3 * noise["unit"].shape[1], 3, device=self.device), **noise}

    def observe(self, state: State) -> Array:
        """The spreads by position: [B, 3]."""
        return state["spread"][min(state["t"], self.horizon - 1)]

    def scenery(self, noise: Mapping[str, Array]) -> Array:
        """The same as `observe`, of every period."""
        return noise["spread"]

    def advance(self, state: State, action: Array) -> tuple[State, Array]:
        """R = x U."""
        t = state["t"]
        spread = state["spread"][t].reshape(-1)[state["first"] + action[:, 0]]
        return {**state, "t": t + 1}, spread * state["unit"][t]

    def references(self) -> dict[str, Reference]:
        """Quantiles of always choosing one spread, by convolution."""
        return {
            "always 1": Reference(-1.600, "exact", "always the smallest spread"),
            "uniform": Reference(-9.05, "heuristic", "a random position"),
            "always 4": Reference(-6.404, "exact", "always the middle spread"),
            "always 9": Reference(-14.362, "exact", "always the largest spread"),
        }


class BeyondGreed(Environment):
    """A pays 0 or 1 with chances .4 and .6, B pays .5 or 1.5 with .6 and .4; T = 10, the median of the sum counts.

    The median of one step prefers A (1 against .5), the median of the sum prefers B in every period.
    """

    id = "BeyondGreed"
    horizon, gamma, alpha = 10, 0.99, 0.5
    observation_size = 10
    action = Space("discrete", (2,))

    def draw(self, generator: np.random.Generator, episodes: int) -> dict[str, NDArray[Any]]:
        """One uniform a period."""
        return {"uniform": generator.random((episodes, self.horizon))}

    def start(self, noise: Mapping[str, Array]) -> State:
        """Period 0."""
        return {"t": 0, **noise}

    def observe(self, state: State) -> Array:
        """The period as a one-hot: [B, 10]."""
        seen = self.zeros(state["uniform"].shape[1], self.horizon)
        seen[:, min(state["t"], self.horizon - 1)] = 1
        return seen

    def scenery(self, noise: Mapping[str, Array]) -> Array:
        """The same as `observe`, of every period."""
        batch = noise["uniform"].shape[1]
        return self.array(np.broadcast_to(np.eye(self.horizon)[:, None, :], (self.horizon, batch, self.horizon)))

    def advance(self, state: State, action: Array) -> tuple[State, Array]:
        """A: 1{U >= .4}; B: .5 + 1{U >= .6}."""
        half = self.reals(action[:, 0]) * 0.5
        won = state["uniform"][state["t"]] >= half * 0.4 + 0.4
        return {**state, "t": state["t"] + 1}, won + half

    def references(self) -> dict[str, Reference]:
        """Medians of the discounted sum, exact by enumeration."""
        return {
            "always B": Reference(8.6048, "exact", "B in every period"),
            "always A": Reference(5.738, "exact", "A in every period"),
        }
