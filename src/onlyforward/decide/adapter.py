"""Gymnasium's face of the environments: a single one and a vector of whole episodes.

A vector runs its episodes in step, so none ends before the others: autoreset is disabled and `reset()` starts the next
episodes. The other way round, `FromGymnasium` makes any Gymnasium environment one of ours.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv

from onlyforward.core.errors import UsageError
from onlyforward.core.keys import Key
from onlyforward.decide.envs.base import BatchEnv, Environment, Space
from onlyforward.decide.envs.register import make


def gymnasium_space(space: Space) -> spaces.Space[Any]:
    """Our action space as Gymnasium's; a simplex is a box of weights that are normalised on arrival."""
    if space.kind == "discrete":
        return spaces.Discrete(space.sizes[0])
    if space.kind == "multidiscrete":
        return spaces.MultiDiscrete(np.array(space.sizes))
    if space.kind == "simplex":
        return spaces.Box(0.0, 1.0, (space.sizes[0],), np.float32)
    return spaces.Box(np.array(space.low, np.float32), np.array(space.high, np.float32), dtype=np.float32)


def native_action(space: Space, action: Any, batch: int) -> Any:
    """Gymnasium's actions as [B, columns]: a box is clamped to its bounds, weights of a simplex are normalised.

    Raises:
        UsageError: too few or too many numbers, one that is not finite, or a choice that does not exist.
    """
    rows = np.asarray(action)
    if rows.dtype.kind not in "iuf" or rows.size != batch * space.columns:
        raise UsageError(f"The action {action!r} is not {batch} x {space.columns} numbers", describe(space))
    rows = rows.reshape(batch, space.columns)
    if not np.isfinite(rows).all():
        raise UsageError(f"The action {rows.tolist()} is not finite", describe(space))
    if space.kind in ("discrete", "multidiscrete"):
        if (rows < 0).any() or (rows >= np.array(space.sizes)).any() or (rows != np.floor(rows)).any():
            raise UsageError(f"The action {rows.tolist()} does not exist", describe(space))
        return rows.astype(np.int64)
    if space.kind == "simplex":
        rows = np.clip(rows, 0, None)
        total = rows.sum(1, keepdims=True)
        return np.where(total > 0, rows / np.maximum(total, 1e-12), 1 / rows.shape[1]).astype(np.float32)
    return np.clip(rows.astype(np.float32), np.array(space.low, np.float32), np.array(space.high, np.float32))


def describe(space: Space) -> str:
    """What an action must be, as advice."""
    if space.kind in ("discrete", "multidiscrete"):
        sizes = ", ".join(f"0 to {size - 1}" for size in space.sizes)
        return f"Give whole numbers in {sizes}"
    return f"Give {space.columns} finite numbers for each episode"


def observation_space(environment: Environment, *batch: int) -> spaces.Box:
    """Unbounded float32 observations."""
    return spaces.Box(-np.inf, np.inf, (*batch, environment.observation_size), np.float32)


class SingleEnv(gymnasium.Env[Any, Any]):
    """One episode at a time."""

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.batch = BatchEnv(environment, 1)
        self.action_space = gymnasium_space(environment.action)
        self.observation_space = observation_space(environment)
        self.episode = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """The next episode; a seed starts its own sequence of episodes."""
        super().reset(seed=seed)
        if seed is not None:
            self.key, self.episode = Key(run=seed), 0
        elif not hasattr(self, "key"):
            self.key = Key(run=int(self.np_random.integers(2**31)))
        seen = self.batch.reset(self.key, first=self.episode)
        self.episode += 1
        return np.asarray(seen[0], dtype=np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One period."""
        seen, reward, done = self.batch.step(native_action(self.environment.action, action, 1))
        return np.asarray(seen[0], dtype=np.float32), float(reward[0]), bool(done[0]), False, {}


class EpisodeVector(VectorEnv[Any, Any, Any]):
    """B episodes in step."""

    metadata = {"autoreset_mode": AutoresetMode.DISABLED, "render_modes": []}  # noqa: RUF012

    def __init__(self, environment: Environment, num_envs: int) -> None:
        self.environment = environment
        self.num_envs = num_envs
        self.batch = BatchEnv(environment, num_envs)
        self.single_action_space = gymnasium_space(environment.action)
        self.single_observation_space = observation_space(environment)
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, num_envs)
        self.observation_space = gymnasium.vector.utils.batch_space(self.single_observation_space, num_envs)
        self.key = Key()
        self.first = 0

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """The next B episodes.

        Raises:
            UsageError: `options["reset_mask"]` names some episodes only: those of a vector end together.
        """
        mask = (options or {}).get("reset_mask")
        if mask is not None and not np.all(mask):
            raise UsageError(
                "reset_mask names some episodes only, and those of this vector run in step", "Reset all of them"
            )
        if isinstance(seed, list):
            seed = seed[0]
        if seed is not None:
            self.key, self.first = Key(run=seed), 0
        seen = self.batch.reset(self.key, first=self.first)
        self.first += self.num_envs
        return np.asarray(seen, dtype=np.float32), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """One period of every episode."""
        seen, reward, done = self.batch.step(native_action(self.environment.action, actions, self.num_envs))
        truncated = np.zeros(self.num_envs, dtype=bool)
        rewards = np.asarray(reward, dtype=np.float64)
        return np.asarray(seen, dtype=np.float32), rewards, np.asarray(done, dtype=bool), truncated, {}


def make_single(name: str, **parameters: Any) -> SingleEnv:
    """Gymnasium's entry point."""
    return SingleEnv(make(name, **parameters))


def make_vector(name: str, num_envs: int = 1, **parameters: Any) -> EpisodeVector:
    """Gymnasium's vector entry point."""
    return EpisodeVector(make(name, **parameters), num_envs)
