"""QPPO as published (arXiv 2305.07248, algorithm 2): clipped ratios of whole prefixes, one quantile per prefix length.

Prefixes l = first .. T: R_l is the discounted return of the first l rewards, q_l its tracked quantile,
rho_l = exp(clip(sum_{t < l} ln pi - ln pi_old, -20, 20)), A_l = -1{R_l <= q_l} - V_old(s_0, l); the loss is
-mean min(rho A, clip(rho, 0.8, 1.2) A) + 0.5 MSE(V), and after each minibatch q_l += beta mean(alpha - rho 1{R_l <=
q_l}). The ratio of a long episode leaves [0.8, 1.2] after a few updates and the clip then kills most of the gradient:
that is why the step-level form is the default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from onlyforward.decide.agents.base import load_module_state, module_state
from onlyforward.decide.agents.score import NetworkAgent
from onlyforward.decide.envs.base import Environment
from onlyforward.decide.objectives import Objective
from onlyforward.decide.presets import Settings
from onlyforward.decide.rollout import collect

CLIP = 0.2
LARGEST_LOG_RATIO = 20.0


class PaperQPPO(NetworkAgent):
    """Prefix-level quantile PPO.

    Args:
        environment: where it acts.
        objective: gives alpha.
        settings: how it learns.
        seed: run coordinate.
        prefixes: how many prefix lengths are used, evenly spaced and ending at T.
    """

    def __init__(
        self, environment: Environment, *, objective: Objective, settings: Settings, seed: int, prefixes: int = 10
    ) -> None:
        super().__init__(environment, objective=objective, settings=settings, seed=seed)
        count = min(prefixes, environment.horizon)
        self.lengths = torch.linspace(environment.horizon / count, environment.horizon, count).round().long()
        self.critic = nn.Sequential(nn.Linear(environment.observation_size, 64), nn.Tanh(), nn.Linear(64, count))
        generator = self.key.at(site="critic").generator()
        for layer in (self.critic[0], self.critic[2]):
            nn.init.orthogonal_(layer.weight, 1.0, generator=generator)
            nn.init.zeros_(layer.bias)
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), lr=settings.rate, fused=True)
        self.q = torch.zeros(0)

    def update(self) -> dict[str, float]:
        """One batch, several passes over its episodes."""
        key = self.key.at(step=self.updates)
        episodes = collect(self.environment, self.policy, key, self.settings.batch, self.sharing)
        earned = (episodes.discount[:, None] * episodes.reward).cumsum(0)[self.lengths - 1]
        if not len(self.q):
            self.q = earned.quantile(self.objective.alpha, dim=1)
        spread = (earned.quantile(0.75, dim=1) - earned.quantile(0.25, dim=1)).clamp(min=1e-6)
        start = episodes.observation[0] / self.settings.scale
        with torch.no_grad():
            old_value = self.critic(start).T
        generator = key.at(site="minibatches").generator()
        loss = torch.zeros(())
        beta = 1.0 / (1 + self.updates / 100) ** 0.6
        for _ in range(self.settings.epochs):
            order = torch.randperm(self.settings.batch, generator=generator)
            for rows in order.chunk(min(self.settings.minibatches, 4)):
                output = self.policy(episodes.observation[:, rows])
                log_prob = self.policy.head.log_prob(output, episodes.action[:, rows])
                moved = (log_prob - episodes.log_prob[:, rows]).cumsum(0)[self.lengths - 1]
                ratio = moved.clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp()
                below = (earned[:, rows] <= self.q[:, None]).float()
                gain = -below - old_value[:, rows]
                clipped = ratio.clamp(1 - CLIP, 1 + CLIP)
                value = self.critic(start[rows]).T
                loss = -torch.minimum(ratio * gain, clipped * gain).mean() + 0.5 * ((value + below) ** 2).mean()
                self.critic_optimizer.zero_grad()
                for group in self.critic_optimizer.param_groups:
                    group["lr"] = self.rate
                self.step(loss, clip=0.5)
                self.critic_optimizer.step()
                side = self.objective.alpha - (ratio.detach() * below).mean(1)
                self.q = self.q + beta * spread * side
        return {"return_mean": float(episodes.returns.mean()), "loss": float(loss.detach()), "q": float(self.q[-1])}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Policy, critic, both optimisers, every q."""
        tensors = module_state("policy", self.policy, self.optimizer)
        return {**tensors, **module_state("critic", self.critic, self.critic_optimizer), "q": self.q.clone()}, {}

    def load_state(self, tensors: Mapping[str, Tensor], data: Mapping[str, Any]) -> None:
        """The inverse of `state`."""
        load_module_state("policy", self.policy, self.optimizer, tensors)
        load_module_state("critic", self.critic, self.critic_optimizer, tensors)
        self.q = tensors["q"].clone()
