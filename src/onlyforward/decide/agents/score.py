"""Score-function agents in action space: REINFORCE for the mean, QPO for a quantile or any other objective.

Ascent direction (1/N) sum_i w_i sum_t grad ln pi(a_t | s_t), with the weights of the objective (arXiv 2305.07248; the
centred weight alpha - 1{R <= q} is the default).
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
from onlyforward.core.weigh.quantile import Tracked
from onlyforward.decide.agents.base import Agent, load_module_state, load_tracked, module_state, tracked_state
from onlyforward.decide.envs.base import Environment
from onlyforward.decide.objectives import Objective
from onlyforward.decide.policies import NetworkPolicy
from onlyforward.decide.presets import Settings
from onlyforward.decide.rollout import Episodes, collect, policy_returns


def batch_numbers(episodes: Episodes, objective: Objective, tracked: Any) -> dict[str, float]:
    """What is shown of a batch: its mean return, its alpha quantile, and the tracked one where there is one."""
    returns = episodes.returns
    numbers = {"return_mean": float(returns.mean())}
    if objective.name in ("quantile", "cvar"):
        numbers["q_alpha"] = float(returns.quantile(objective.alpha))
    if isinstance(tracked, Tracked):
        numbers["q"] = float(tracked.q)
    return numbers


EXPLORING = 0.7
"""Share of the budget over which the entropy bonus falls to zero; the rest settles."""


class NetworkAgent(Agent):
    """An agent whose policy is a network; Adam, one update per batch of episodes."""

    def __init__(self, environment: Environment, *, objective: Objective, settings: Settings, seed: int) -> None:
        super().__init__(environment, objective=objective, settings=settings, seed=seed)
        self.policy = NetworkPolicy(
            environment,
            hidden=settings.hidden,
            key=self.key,
            scale=settings.scale,
            deviation=settings.deviation,
            learned=settings.learned_deviation,
        )
        self.optimizer = torch.optim.Adam(
            [p for p in self.policy.parameters() if p.requires_grad], lr=settings.rate, fused=True
        )

    def step(self, loss: Tensor, *, clip: float | None = None) -> None:
        """One Adam step at the scheduled rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        self.optimizer.zero_grad()
        loss.backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(self.policy.parameters(), clip)
        self.optimizer.step()

    def returns(self, key: Key, episodes: int, *, deterministic: bool) -> NDArray[np.float64]:
        """Returns [episodes], a few thousand episodes at a time."""
        parts = [
            policy_returns(
                self.environment, self.policy, key, min(4096, episodes - first), first=first, greedy=deterministic
            )
            for first in range(0, episodes, 4096)
        ]
        return torch.cat(parts).numpy()

    @torch.no_grad()
    def predict(self, observation: Any, *, deterministic: bool = True, key: Key | None = None) -> NDArray[Any]:
        """Actions for observations [B, o] or [o]."""
        seen = torch.as_tensor(np.asarray(observation, dtype=np.float32))
        width = self.environment.observation_size
        if seen.ndim == 0 or seen.shape[-1] != width:
            raise UsageError(
                f"An observation of shape {list(seen.shape)} does not fit {self.environment.id}",
                f"Give [B, {width}] or [{width}]",
            )
        output = self.policy(seen)
        head = self.policy.head
        if deterministic:
            return head.act(head.greedy(output)).numpy()
        shape = (*output.shape[:-1], head.space.columns)
        generator = (key or self.key.at(step=self.updates, site="predict")).generator()
        noise = torch.randn(shape, generator=generator) if head.real else torch.rand(shape, generator=generator)
        return head.act(head.sample(output, noise)).numpy()


class ScoreAgent(NetworkAgent):
    """REINFORCE and QPO: the objective alone tells them apart."""

    def __init__(self, environment: Environment, *, objective: Objective, settings: Settings, seed: int) -> None:
        super().__init__(environment, objective=objective, settings=settings, seed=seed)
        self.weighting = objective.weighting()
        self.tracked: Any = None

    def update(self) -> dict[str, float]:
        """Episodes, weights, one step up."""
        episodes = collect(
            self.environment, self.policy, self.key.at(step=self.updates), self.settings.batch, self.sharing
        )
        returns = episodes.returns
        weight, self.tracked = self.weighting(returns[:, None].double(), self.tracked)
        output = self.policy(episodes.observation)
        log_prob = self.policy.head.log_prob(output, episodes.action).sum(0)
        loss = -(weight[:, 0].float() * log_prob).sum()
        if self.settings.entropy:
            left = max(0.0, 1 - self.updates / (EXPLORING * self.total_updates))
            loss = loss - self.settings.entropy * left * self.policy.head.entropy(output).mean()
        self.step(loss)
        return {**batch_numbers(episodes, self.objective, self.tracked), "loss": float(loss.detach())}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Policy, optimiser, tracked quantile."""
        tensors, data = tracked_state(self.tracked)
        return {**module_state("policy", self.policy, self.optimizer), **tensors}, data

    def load_state(self, tensors: Mapping[str, Tensor], data: Mapping[str, Any]) -> None:
        """The inverse of `state`."""
        load_module_state("policy", self.policy, self.optimizer, tensors)
        self.tracked = load_tracked(tensors, data)
