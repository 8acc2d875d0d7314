"""Five arms, one pull: the arm of the largest quantile is the quantile optimum of any mixture of arms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onlyforward.decide.envs.base import Array, Environment, Space, State

MEANS = (0.0, 0.3, 0.6, 0.9, 1.2)
SPREADS = (0.2, 0.5, 0.9, 1.6, 2.6)


class Bandit(Environment):
    """Gaussian arms whose mean and spread rise together: another arm is best at another level."""

    id = "Bandit"
    horizon, gamma, alpha = 1, 1.0, 0.25
    observation_size = 1
    action = Space("discrete", (len(MEANS),))

    def draw(self, generator: np.random.Generator, episodes: int) -> dict[str, NDArray[Any]]:
        """One unit normal an episode."""
        return {"unit": generator.standard_normal((episodes, 1))}

    def start(self, noise: Mapping[str, Array]) -> State:
        """Before the pull."""
        return {"t": 0, **noise}

    def observe(self, state: State) -> Array:
        """A constant 1: [B, 1]."""
        return state["unit"][0][:, None] * 0 + 1

    def scenery(self, noise: Mapping[str, Array]) -> Array:
        """The same as `observe`, of every period."""
        return noise["unit"][..., None] * 0 + 1

    def advance(self, state: State, action: Array) -> tuple[State, Array]:
        """Mean + spread Z of the chosen arm."""
        mean, spread = self.array(np.array(MEANS)), self.array(np.array(SPREADS))
        arm = action[:, 0]
        return {**state, "t": 1}, mean[arm] + spread[arm] * state["unit"][0]

    @staticmethod
    def best_arm(alpha: float) -> int:
        """The arm of the largest alpha quantile."""
        from scipy.stats import norm

        return int(np.argmax(np.array(MEANS) + np.array(SPREADS) * norm.ppf(alpha)))
