"""What happens after every update: evaluation, checkpoints, early stop, TensorBoard. Any callable(locals) works too."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from onlyforward.core.checks import require
from onlyforward.core.keys import Key
from onlyforward.decide.agents.base import Agent, Callback


@dataclass
class EvalCallback:
    """Evaluate the deterministic policy every so many updates and keep the best agent in a folder.

    Attributes:
        every: updates between evaluations.
        episodes: fresh episodes of each.
        folder: where the best agent is saved (default: nowhere).
        history: (update, objective) of every evaluation.
    """

    every: int = 50
    episodes: int = 2_000
    folder: str | Path | None = None
    history: list[tuple[int, float]] = field(default_factory=list)

    def __call__(self, numbers: dict[str, Any]) -> None:
        """Evaluate when it is time."""
        agent: Agent = numbers["agent"]
        if agent.updates % self.every:
            return
        returns = agent.returns(Key(run=agent.key.run, site="callback"), self.episodes, deterministic=True)
        value = agent.objective.value(returns)
        best = max((value for _, value in self.history), default=-np.inf)
        self.history.append((agent.updates, value))
        if self.folder is not None and value > best:
            agent.save(self.folder)


@dataclass(frozen=True)
class CheckpointCallback:
    """Save the whole agent every so many updates, each into a folder of its own.

    Attributes:
        folder: parent of the saved agents.
        every: updates between saves.
    """

    folder: str | Path
    every: int = 100

    def __call__(self, numbers: dict[str, Any]) -> None:
        """Save when it is time."""
        agent: Agent = numbers["agent"]
        if agent.updates % self.every == 0:
            agent.save(Path(self.folder) / f"update-{agent.updates}")


@dataclass(frozen=True)
class StopOnTarget:
    """Stop when the objective of fresh episodes reaches a target.

    Attributes:
        target: value of the objective.
        every: updates between evaluations.
        episodes: fresh episodes of each.
    """

    target: float
    every: int = 20
    episodes: int = 2_000

    def __call__(self, numbers: dict[str, Any]) -> bool:
        """False stops the training."""
        agent: Agent = numbers["agent"]
        if agent.updates % self.every:
            return True
        returns = agent.returns(Key(run=agent.key.run, site="callback"), self.episodes, deterministic=True)
        return bool(agent.objective.value(returns) < self.target)


class TensorBoard:
    """Scalars under the names that Stable-Baselines3 uses: rollout/ep_rew_mean, rollout/q_alpha, train/loss, time/fps.

    Args:
        folder: log folder.
    """

    def __init__(self, folder: str | Path) -> None:
        require("tensorboard", "track")
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder))
        self.begin = time.perf_counter()

    def __call__(self, numbers: dict[str, Any]) -> None:
        """One point a scalar, at the environment steps so far."""
        agent: Agent = numbers["agent"]
        steps = agent.updates * agent.settings.batch * agent.environment.horizon
        scalars = {
            "rollout/ep_rew_mean": numbers.get("return_mean"),
            "rollout/q_alpha": numbers.get("q_alpha"),
            "rollout/q_tracked": numbers.get("q"),
            "train/loss": numbers.get("loss"),
            "train/entropy": numbers.get("entropy"),
            "train/kl": numbers.get("kl"),
            "time/fps": steps / (time.perf_counter() - self.begin),
        }
        for name, value in scalars.items():
            if value is not None:
                self.writer.add_scalar(name, value, steps)
        self.writer.flush()


def together(callbacks: Sequence[Callback]) -> Callback:
    """Several callbacks as one; the first that returns False stops the training."""

    def run(numbers: dict[str, Any]) -> bool:
        return all([callback(numbers) is not False for callback in callbacks])

    return run
