"""Any Gymnasium environment as one of ours, so that every agent can train on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from onlyforward.core.checks import check_range
from onlyforward.core.errors import UsageError
from onlyforward.decide.envs.base import Array, Environment, Space, State


class FromGymnasium(Environment):
    """Whole episodes of a registered Gymnasium environment, B at once through its vector form.

    An episode's noise is its seed. Episodes that end early earn nothing more and wait for the others. The simulator
    keeps a state of its own: a state of this environment can be advanced once.

    Args:
        name: Gymnasium's id.
        horizon: periods after which an episode is cut.
        alpha: default level of the objective.
        gamma: discount per period.
        options: keyword arguments of `gymnasium.make_vec`.

    Raises:
        UsageError: an unknown id, or spaces other than flat boxes of observations and Discrete, MultiDiscrete or
            bounded Box actions.
    """

    id: ClassVar[str] = "Gymnasium"

    def __init__(
        self, name: str, *, horizon: int, alpha: float = 0.1, gamma: float = 0.99, options: dict[str, Any] | None = None
    ) -> None:
        super().__init__()
        check_range(horizon, name="horizon", low=1)
        check_range(alpha, name="alpha", low=0.0, high=1.0, open_low=True)
        self.name, self.horizon, self.alpha, self.gamma = name, horizon, alpha, gamma
        self.options = options or {}
        try:
            single = gymnasium.make(name, **self.options)
        except gymnasium.error.Error as error:
            raise UsageError(f"Gymnasium cannot make {name!r}: {error}", "Register it, or correct its name") from error
        seen = single.observation_space
        if not isinstance(seen, spaces.Box):
            raise UsageError(f"{name} shows {seen}, not a box of numbers", "Flatten it with a Gymnasium wrapper")
        self.observation_size = int(np.prod(seen.shape))
        self.action = native_space(single.action_space, name)
        single.close()

    def draw(self, generator: np.random.Generator, episodes: int) -> dict[str, NDArray[Any]]:
        """One seed an episode."""
        return {"seed": generator.integers(0, 2**31 - 1, episodes)}

    def start(self, noise: Mapping[str, Array]) -> State:
        """Every episode reset with its seed."""
        count = len(noise["seed"])
        vector = gymnasium.make_vec(self.name, num_envs=count, vectorization_mode="sync", **self.options)
        seen, _ = vector.reset(seed=[int(seed) for seed in noise["seed"]])
        return {"t": 0, "vector": vector, "seen": flat(seen), "over": np.zeros(count, dtype=bool)}

    def observe(self, state: State) -> Array:
        """What the environment shows: [B, o]."""
        return state["seen"]

    def advance(self, state: State, action: Array) -> tuple[State, Array]:
        """One period; rewards [B], zero where an episode is over."""
        given = np.asarray(action)
        if self.action.kind == "discrete":
            given = given[:, 0]
        seen, reward, ended, cut, _ = state["vector"].step(given)
        earned = np.where(state["over"], 0.0, reward).astype(np.float32)
        over = state["over"] | ended | cut
        shown = np.where(over[:, None], state["seen"], flat(seen))
        if state["t"] + 1 == self.horizon:
            state["vector"].close()
        return {"t": state["t"] + 1, "vector": state["vector"], "seen": shown, "over": over}, earned


def flat(seen: Any) -> NDArray[np.float32]:
    """Observations [B, ...] as [B, o]."""
    return np.asarray(seen, dtype=np.float32).reshape(len(seen), -1)


def native_space(space: spaces.Space[Any], name: str) -> Space:
    """Gymnasium's action space as ours."""
    if isinstance(space, spaces.Discrete) and space.start == 0:
        return Space("discrete", (int(space.n),))
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
        return Space("multidiscrete", tuple(int(n) for n in space.nvec))
    if isinstance(space, spaces.Box) and len(space.shape) == 1 and space.is_bounded():
        low, high = (tuple(float(v) for v in side) for side in (space.low, space.high))
        return Space("box", space.shape, low, high)
    raise UsageError(f"{name} takes actions in {space}", "Use Discrete, MultiDiscrete or a bounded flat Box")
