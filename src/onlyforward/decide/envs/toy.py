"""Small environments whose best quantile is known: a Gaussian regression and a single risky choice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onlyforward.decide.envs.base import Array, Environment, Reference, Space, State


class ZeroMean(Environment):
    """Every action has mean zero; only the spread can be chosen.

    T = 10; the observation is the one-hot of a random permutation's next entry; the action is a real a; the reward is
    N(0, ((a - 1)^2 + 0.1)^2). The best quantile plays a = 1 everywhere (arXiv 2305.07248, zero-mean example).
    """

    id = "ZeroMean"
    horizon, gamma, alpha = 10, 0.99, 0.25
    observation_size = 10
    action = Space("box", (1,), (-10.0,), (10.0,))

    def draw(self, generator: np.random.Generator, episodes: int) -> dict[str, NDArray[Any]]:
        """One permutation and T unit normals an episode."""
        order = np.argsort(generator.random((episodes, self.horizon)), axis=1)
        return {"seen": np.eye(self.horizon)[order], "unit": generator.standard_normal((episodes, self.horizon))}

    def start(self, noise: Mapping[str, Array]) -> State:
        """Period 0."""
        return {"t": 0, **noise}

    def observe(self, state: State) -> Array:
        """The one-hot of this period: [B, 10]."""
        return state["seen"][min(state["t"], self.horizon - 1)]

    def scenery(self, noise: Mapping[str, Array]) -> Array:
        """The same as `observe`, of every period."""
        return noise["seen"]

    def advance(self, state: State, action: Array) -> tuple[State, Array]:
        """R = ((a - 1)^2 + 0.1) Z."""
        reward = ((action[:, 0] - 1) ** 2 + 0.1) * state["unit"][state["t"]]
        return {**state, "t": state["t"] + 1}, reward

    def references(self) -> dict[str, Reference]:
        """The exact quantile at a = 1: sum of independent normals of standard deviation 0.1, discounted."""
        return {
            "deterministic": Reference(-0.2040, "exact", "a = 1 in every period"),
            "sampled": Reference(-0.4518, "exact", "a ~ N(1, 0.1)"),
        }


class OneStep(Environment):
    """One choice a: R = 2a - a^2/2 + |a| Z. The mean is best at a = 2, the 10 % quantile near a = 0.93."""

    id = "OneStep"
    horizon, gamma, alpha = 1, 1.0, 0.1
    observation_size = 1
    action = Space("box", (1,), (-10.0,), (10.0,))

    def draw(self, generator: np.random.Generator, episodes: int) -> dict[str, NDArray[Any]]:
        """One unit normal an episode."""
        return {"unit": generator.standard_normal((episodes, 1))}

    def start(self, noise: Mapping[str, Array]) -> State:
        """Period 0."""
        return {"t": 0, **noise}

    def observe(self, state: State) -> Array:
        """A constant 1: [B, 1]."""
        return state["unit"][0][:, None] * 0 + 1

    def scenery(self, noise: Mapping[str, Array]) -> Array:
        """The same as `observe`, of every period."""
        return noise["unit"][..., None] * 0 + 1

    def advance(self, state: State, action: Array) -> tuple[State, Array]:
        """R = 2a - a^2/2 + |a| Z."""
        a = action[:, 0]
        return {**state, "t": 1}, 2 * a - a * a / 2 + abs(a) * state["unit"][0]

    def references(self) -> dict[str, Reference]:
        """The best quantile over theta for a ~ N(theta, 0.3^2), by quadrature."""
        return {"quantile": Reference(0.1900, "exact", "a ~ N(0.930, 0.3^2)")}
