"""Stable-Baselines3 on the same environments, through its own vector-environment interface."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onlyforward.core.checks import require
from onlyforward.core.keys import Key
from onlyforward.decide.adapter import EpisodeVector
from onlyforward.decide.envs.base import Environment


def installed() -> bool:
    """Whether Stable-Baselines3 can be imported."""
    return importlib.util.find_spec("stable_baselines3") is not None


def vector_env(environment: Environment, batch: int, key: Key) -> Any:
    """Our batch as a Stable-Baselines3 VecEnv: when its episodes end, which they do together, new ones begin."""
    require("stable_baselines3", "peers")
    from stable_baselines3.common.vec_env import VecEnv

    inner = EpisodeVector(environment, batch)
    inner.key = key

    class Adapter(VecEnv):
        """The episodes of one batch."""

        def __init__(self) -> None:
            super().__init__(batch, inner.single_observation_space, inner.single_action_space)
            self.actions: Any = None

        def reset(self) -> NDArray[np.float32]:
            return inner.reset()[0]

        def step_async(self, actions: Any) -> None:
            self.actions = actions

        def step_wait(self) -> tuple[Any, Any, Any, list[dict[str, Any]]]:
            seen, reward, done, _, _ = inner.step(self.actions)
            infos: list[dict[str, Any]] = [{} for _ in range(batch)]
            if done.all():
                for i in range(batch):
                    infos[i]["terminal_observation"] = seen[i]
                seen = inner.reset()[0]
            return seen, reward.astype(np.float32), done, infos

        def close(self) -> None:
            inner.close()

        def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
            return [getattr(inner, attr_name, None)] * batch

        def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
            setattr(inner, attr_name, value)

        def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
            return [getattr(inner, method_name)(*args, **kwargs)] * batch

        def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
            return [False] * batch

    return Adapter()


def sb3_ppo_returns(
    environment: Environment, *, steps: int, seed: int, episodes: int, hidden: Sequence[int] = (64, 64), batch: int = 64
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Train Stable-Baselines3's PPO, then returns [episodes] of its greedy and of its sampled policy."""
    require("stable_baselines3", "peers")
    from stable_baselines3 import PPO

    vector = vector_env(environment, batch, Key(run=seed, site="sb3"))
    length = environment.horizon
    model = PPO(
        "MlpPolicy",
        vector,
        n_steps=length,
        batch_size=max(64, batch * length // 10),
        gamma=environment.gamma,
        seed=seed,
        policy_kwargs={"net_arch": list(hidden)},
        device="cpu",
        verbose=0,
    )
    model.learn(steps)
    kinds = [
        play(environment, model, Key(run=seed, site="evaluation"), episodes, greedy=greedy) for greedy in (True, False)
    ]
    return kinds[0], kinds[1]


def play(environment: Environment, model: Any, key: Key, episodes: int, *, greedy: bool) -> NDArray[np.float64]:
    """Discounted returns [episodes] of a Stable-Baselines3 model on our fresh episodes."""
    inner = EpisodeVector(environment, episodes)
    inner.key = key
    seen, _ = inner.reset()
    total = np.zeros(episodes)
    for t in range(environment.horizon):
        action, _ = model.predict(seen, deterministic=greedy)
        seen, reward, _, _, _ = inner.step(action)
        total += environment.gamma**t * reward
    return total
