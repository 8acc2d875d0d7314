"""Agents as users of Stable-Baselines3 expect them: `Model(env, ...).learn(steps)`, `predict`, `save`, `load`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from onlyforward.core.errors import FileError
from onlyforward.core.keys import Key
from onlyforward.decide.agents.base import Callback
from onlyforward.decide.agents.make import make_agent
from onlyforward.decide.callbacks import TensorBoard, together
from onlyforward.decide.envs.base import Environment
from onlyforward.decide.envs.register import make
from onlyforward.decide.evaluate import Evaluation, evaluate
from onlyforward.decide.objectives import Objective
from onlyforward.decide.presets import settings
from onlyforward.run.events import Progress

Self = TypeVar("Self", bound="Model")


class Model:
    """One agent on one environment.

    Args:
        env: a registered name, with or without "onlyforward/" and "-v0", or an Environment.
        alpha: level of the objective (default: the environment's own).
        objective: mean, quantile, cvar, wang, power or mixture.
        policy: mlp or linear; for ParameterSearch a structured policy.
        seed: of all random numbers.
        env_options: parameters of the environment, "preset" and "backend" included.
        track: folder for TensorBoard scalars.

    Raises:
        UsageError: an unknown name, a parameter out of range, an agent that cannot act there.
    """

    agent_name: ClassVar[str]
    default_policy: ClassVar[str] = "mlp"

    def __init__(
        self,
        env: str | Environment,
        *,
        alpha: float | None = None,
        objective: str = "quantile",
        policy: str | None = None,
        seed: int = 0,
        env_options: dict[str, Any] | None = None,
        track: str | Path | None = None,
    ) -> None:
        self.environment = make(env, **(env_options or {})) if isinstance(env, str) else env
        self.told: dict[str, Any] = {
            "agent": self.agent_name,
            "env": self.environment.id,
            "objective": objective,
            "seed": seed,
            "alpha": self.environment.alpha if alpha is None else alpha,
            "policy": policy or self.default_policy,
            "env_options": env_options or {},
        }
        self.track = track
        self.build(settings(self.agent_name, self.environment.id).episodes)

    def build(self, episodes: int) -> None:
        """The agent for a budget of episodes."""
        changed = replace(settings(self.agent_name, self.environment.id), episodes=episodes)
        self.agent = make_agent(
            self.agent_name,
            self.environment,
            objective=Objective(self.told["objective"], self.told["alpha"]),
            seed=self.told["seed"],
            policy=self.told["policy"],
            changed=changed,
        )

    def learn(
        self: Self,
        total_steps: int | None = None,
        *,
        callback: Callback | Sequence[Callback] | None = None,
        progress_bar: bool = False,
    ) -> Self:
        """Train for so many environment steps (default: the preset's); calling again goes on.

        Args:
            total_steps: steps of single episodes: episodes times periods.
            callback: callable(s) of a dictionary with `agent`, `update` and the update's numbers; False stops.
            progress_bar: show a bar with rate and remaining time.
        """
        if total_steps is not None:
            episodes = max(self.agent.settings.batch, total_steps // self.environment.horizon)
            if self.agent.updates == 0:
                self.build(episodes)
            else:
                grown = self.agent.updates * self.agent.settings.batch + episodes
                self.agent.settings = replace(self.agent.settings, episodes=grown)
        callbacks = list(callback) if isinstance(callback, Sequence) else [callback] if callback is not None else []
        if self.track is not None:
            callbacks.append(TensorBoard(self.track))
        bar = (
            Progress(self.agent.total_updates, self.agent_name, verbose=False, say=lambda text: None)
            if progress_bar
            else None
        )
        if bar is not None:
            callbacks.append(lambda numbers: bar.advance({"return": numbers["return_mean"]}))
        try:
            self.agent.learn(callback=together(callbacks))
        finally:
            if bar is not None:
                bar.close()
        return self

    def predict(self, observation: Any, state: Any = None, *, deterministic: bool = True) -> tuple[NDArray[Any], Any]:
        """Actions [B, columns] for observations [B, o] (or [columns] for [o]), and the state as it was given."""
        return self.agent.predict(observation, deterministic=deterministic), state

    def evaluate(self, episodes: int = 20_000, *, deterministic: bool = True, seed: int = 1) -> Evaluation:
        """Statistics of fresh episodes, with 95 % intervals."""
        returns = self.agent.returns(Key(run=seed, site="evaluation"), episodes, deterministic=deterministic)
        return evaluate(np.asarray(returns), self.agent.objective, self.told["alpha"])

    def save(self, folder: str | Path) -> None:
        """Write everything: policy, optimiser, trackers, schedules, what it was made of. No pickle."""
        self.agent.save(folder)
        told = {**self.told, "episodes": self.agent.settings.episodes}
        (Path(folder) / "model.json").write_text(json.dumps(told))

    @classmethod
    def load(cls: type[Self], folder: str | Path, env: str | Environment | None = None) -> Self:
        """What `save` wrote, ready to predict or to learn on.

        Raises:
            FileError: the folder holds no such model.
        """
        place = Path(folder) / "model.json"
        if not place.exists():
            raise FileError(f"{folder} holds no saved model", "Give the folder that save() wrote")
        told = json.loads(place.read_text())
        if told["agent"] != cls.agent_name:
            raise FileError(f"{folder} holds a {told['agent']} model", f"Load it with the class for {told['agent']}")
        model = cls(
            env or told["env"],
            alpha=told["alpha"],
            objective=told["objective"],
            policy=told["policy"],
            seed=told["seed"],
            env_options=told["env_options"],
        )
        model.build(told["episodes"])
        return model.resume(folder)

    def resume(self: Self, folder: str | Path) -> Self:
        """Continue to the same bits as if it had never stopped."""
        self.agent.resume(folder)
        return self


class QPO(Model):
    """Quantile policy optimisation (arXiv 2305.07248): the score function weighted by alpha - 1{R <= q}."""

    agent_name = "qpo"


class QPPO(Model):
    """Quantile proximal policy optimisation, step form."""

    agent_name = "qppo"


class Reinforce(Model):
    """REINFORCE with a leave-one-out baseline."""

    agent_name = "reinforce"


class PPO(Model):
    """Proximal policy optimisation of the mean."""

    agent_name = "ppo"


class SPSA(Model):
    """Simultaneous perturbation of the policy's weights."""

    agent_name = "spsa"


class QRDQN(Model):
    """Quantile-regression DQN, greedy in the alpha quantile."""

    agent_name = "qrdqn"


class ParameterSearch(Model):
    """Search over the few numbers of a structured policy."""

    agent_name = "params"
    default_policy = "base-stock"
