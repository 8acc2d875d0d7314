"""A quantile is not time-consistent: Markov policies are in general suboptimal for it, so the state is widened.

`AugmentState` appends (t / T, accumulated discounted return / scale) to any observation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onlyforward.core.checks import check_range
from onlyforward.decide.envs.base import Array, Environment, Reference, State


class AugmentState(Environment):
    """An environment whose observations also tell the time and what was earned so far.

    Args:
        inner: the environment.
        scale: divides the accumulated return, in units of the reward.
    """

    def __init__(self, inner: Environment, *, scale: float = 100.0) -> None:
        check_range(scale, name="scale", low=0.0, open_low=True)
        self.inner, self.scale = inner, scale
        self.xp, self.device = inner.xp, inner.device
        self.horizon, self.gamma, self.alpha = inner.horizon, inner.gamma, inner.alpha
        self.observation_size, self.action = inner.observation_size + 2, inner.action

    @property
    def id(self) -> str:  # type: ignore[override]
        """The inner environment's name: its noise and its references are the same."""
        return self.inner.id

    @property
    def parameters(self) -> Any:
        """The inner environment's parameters."""
        return self.inner.parameters  # type: ignore[attr-defined]

    def draw(self, generator: np.random.Generator, episodes: int) -> dict[str, NDArray[Any]]:
        """The inner noise."""
        return self.inner.draw(generator, episodes)

    def start(self, noise: Mapping[str, Array]) -> State:
        """Nothing earned yet."""
        state = self.inner.start(noise)
        batch = self.inner.observe(state).shape[0]
        return {"inner": state, "earned": self.zeros(batch), "t": 0}

    def observe(self, state: State) -> Array:
        """The inner observation, t / T, earned / scale: [B, o + 2]."""
        seen = self.inner.observe(state["inner"])
        earned = (state["earned"] / self.scale)[:, None]
        return self.xp.concatenate((seen, earned * 0 + state["t"] / self.horizon, earned), 1)

    def advance(self, state: State, action: Array) -> tuple[State, Array]:
        """One inner period."""
        after, reward = self.inner.advance(state["inner"], action)
        earned = state["earned"] + self.gamma ** state["t"] * reward
        return {"inner": after, "earned": earned, "t": state["t"] + 1}, reward

    def references(self) -> dict[str, Reference]:
        """The inner references."""
        return self.inner.references()
