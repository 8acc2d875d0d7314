"""Parameter-space search: every episode has its own draw of a structured policy's numbers, theta = mu + sigma z.

Direction (1/N) sum_i w_i z_i / sigma with the weights of any objective; antithetic pairs share their episode's noise
(common random numbers). Adam on mu with bias correction, step (1 + k / 20)^-0.7 in units of the spread.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onlyforward.core.errors import UsageError
from onlyforward.core.keys import Key
from onlyforward.decide.agents.base import Agent, load_tracked, tracked_state
from onlyforward.decide.envs.base import Environment
from onlyforward.decide.objectives import Objective
from onlyforward.decide.policies import Structured, structured
from onlyforward.decide.presets import Settings
from onlyforward.decide.rollout import collect_returns, structured_returns


class ParameterSearch(Agent):
    """Search over the few numbers of a structured policy.

    Args:
        environment: where it acts.
        objective: what it maximises.
        settings: how it learns; `rate` is in units of each number's spread.
        seed: run coordinate.
        policy: name of the structured policy.
    """

    def __init__(
        self,
        environment: Environment,
        *,
        objective: Objective,
        settings: Settings,
        seed: int,
        policy: str = "base-stock",
    ) -> None:
        super().__init__(environment, objective=objective, settings=settings, seed=seed)
        self.rule: Structured = structured(policy, environment)
        self.mean = np.array(self.rule.start)
        self.first = np.zeros_like(self.mean)
        self.second = np.zeros_like(self.mean)
        self.weighting = objective.weighting()
        self.tracked: Any = None

    @property
    def spread(self) -> NDArray[np.float64]:
        """Standard deviation of every number's perturbation: the rule's, falling geometrically to `narrow` times it."""
        return np.array(self.rule.spread) * self.settings.narrow ** min(1.0, self.updates / self.total_updates)

    def update(self) -> dict[str, float]:
        """One batch of perturbed policies, one Adam step on the mean."""
        key = self.key.at(step=self.updates)
        half = self.settings.batch // 2
        z = key.at(site="parameters").numpy().standard_normal((half, len(self.mean)))
        z = np.concatenate([z, -z])
        numbers = (self.mean + self.spread * z).astype(np.float32)
        returns = collect_returns(self.environment, self.rule, self.numbers(numbers), key, self.sharing)
        weight, self.tracked = self.weighting(torch.from_numpy(returns)[:, None], self.tracked)
        direction = weight[:, 0].numpy() @ z
        self.first = 0.9 * self.first + 0.1 * direction
        self.second = 0.99 * self.second + 0.01 * direction**2
        count = self.updates + 1
        unit = (self.first / (1 - 0.9**count)) / (np.sqrt(self.second / (1 - 0.99**count)) + 1e-12)
        self.mean = self.mean + self.rate * self.spread * unit
        return {"return_mean": float(returns.mean()), "largest_step": float(np.abs(unit).max())}

    def numbers(self, rows: NDArray[np.float32]) -> Any:
        """Rows on the environment's backend."""
        return self.environment.array(rows)

    def returns(self, key: Key, episodes: int, *, deterministic: bool) -> NDArray[np.float64]:
        """Returns [episodes] at the mean, or with freshly perturbed numbers."""
        rows = np.repeat(self.mean[None], episodes, 0)
        if not deterministic:
            rows = rows + self.spread * key.at(site="evaluate").numpy().standard_normal(rows.shape)
        return structured_returns(self.environment, self.rule, self.numbers(rows.astype(np.float32)), key)

    def predict(self, observation: Any, *, deterministic: bool = True, key: Key | None = None) -> NDArray[Any]:
        """Actions for the state that `BatchEnv.state` holds: a structured policy reads the simulator's state.

        Raises:
            UsageError: plain observations, for a rule that needs more than they tell.
        """
        if isinstance(observation, Mapping):
            batch = next(observation[name].shape[-1] for name in ("stock", "wealth") if name in observation)
        elif self.rule.name == "constant":
            batch = len(np.atleast_2d(observation))
        else:
            raise UsageError(
                f"The policy {self.rule.name} reads the simulator's state, not an observation",
                "Pass BatchEnv.state, or call evaluate()",
            )
        rows = np.repeat(self.mean[None].astype(np.float32), batch, 0)
        return np.asarray(self.rule.act(self.environment, observation, self.numbers(rows)))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Mean, moments, tracked quantile."""
        tensors, data = tracked_state(self.tracked)
        own = {"mean": self.mean, "first": self.first, "second": self.second}
        return {**{name: torch.from_numpy(value.copy()) for name, value in own.items()}, **tensors}, data

    def load_state(self, tensors: Mapping[str, Tensor], data: Mapping[str, Any]) -> None:
        """The inverse of `state`."""
        self.mean, self.first, self.second = (tensors[name].numpy().copy() for name in ("mean", "first", "second"))
        self.tracked = load_tracked(tensors, data)
