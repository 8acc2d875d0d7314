"""PPO and step-level QPPO: clipped steps on generalised advantages, for the mean or for a quantile.

PPO: arXiv 1707.06347 with GAE (1506.02438). QPPO, variant "step": the reward stands at the end of an episode and is
-1{R <= q}; the critic also sees t/T and (accumulated return - q t/T) / scale, because a quantile is not a function of
the observation alone; the first half of the budget maximises the mean as a warm start (derived from arXiv 2305.07248).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from onlyforward.core.weigh.quantile import Tracker
from onlyforward.decide.agents.base import load_module_state, load_tracked, module_state, tracked_state
from onlyforward.decide.agents.score import NetworkAgent, batch_numbers
from onlyforward.decide.envs.base import Environment
from onlyforward.decide.objectives import Objective
from onlyforward.decide.presets import Settings
from onlyforward.decide.rollout import Episodes, collect

CLIP = 0.2
VALUE_WEIGHT = 0.5
LARGEST_NORM = 0.5


def advantages(reward: Tensor, value: Tensor, gamma: float, lam: float) -> Tensor:
    """Generalised advantages [T, B] of episodes that all end at T: sum_k (gamma lam)^k delta_{t+k}."""
    result = torch.empty_like(reward)
    ahead = torch.zeros_like(reward[0])
    following = torch.zeros_like(reward[0])
    for t in reversed(range(len(reward))):
        delta = reward[t] + gamma * following - value[t]
        ahead = delta + gamma * lam * ahead
        result[t], following = ahead, value[t]
    return result


class PPO(NetworkAgent):
    """Proximal policy optimisation of the mean return."""

    def __init__(self, environment: Environment, *, objective: Objective, settings: Settings, seed: int) -> None:
        super().__init__(environment, objective=objective, settings=settings, seed=seed)
        generator = self.key.at(site="critic").generator()
        widths = (environment.observation_size + 2, *(settings.hidden or (64,)), 1)
        layers: list[nn.Module] = []
        for i in range(len(widths) - 1):
            layer = nn.Linear(widths[i], widths[i + 1])
            nn.init.orthogonal_(layer.weight, 1.0 if i == len(widths) - 2 else 2**0.5, generator=generator)
            nn.init.zeros_(layer.bias)
            layers += [layer, nn.Tanh()]
        self.critic = nn.Sequential(*layers[:-1])
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), lr=settings.rate, fused=True)
        self.spread = 1.0

    def features(self, episodes: Episodes, q: float, scale: float) -> Tensor:
        """What the critic sees: observation, t/T, (accumulated return - q t/T) / scale: [T, B, o + 2]."""
        horizon = len(episodes.reward)
        earned = (episodes.discount[:, None] * episodes.reward).cumsum(0)
        before = torch.cat((torch.zeros_like(earned[:1]), earned[:-1]))
        time = (torch.arange(horizon) / horizon)[:, None].expand_as(before)
        seen = episodes.observation / self.settings.scale
        return torch.cat((seen, time[..., None], ((before - q * time) / scale)[..., None]), -1)

    def targets(self, episodes: Episodes) -> tuple[Tensor, Tensor, Tensor]:
        """Critic features [T, B, o + 2], advantages [T, B] and value targets [T, B] of one batch."""
        returns = episodes.returns
        self.spread = 0.9 * self.spread + 0.1 * float(returns.std()) if self.updates else float(returns.std())
        scale = max(self.spread, 1e-6)
        features = self.features(episodes, float(returns.mean()), scale)
        with torch.no_grad():
            value = self.critic(features)[..., 0]
        gain = advantages(episodes.reward / scale, value, self.environment.gamma, self.settings.gae_lambda)
        return features, gain, gain + value

    def update(self) -> dict[str, float]:
        """One batch of episodes, several clipped passes over it."""
        key = self.key.at(step=self.updates)
        episodes = collect(self.environment, self.policy, key, self.settings.batch, self.sharing)
        features, gain, target = self.targets(episodes)
        steps = gain.numel()
        flat = {
            "observation": episodes.observation.reshape(steps, -1),
            "action": episodes.action.reshape(steps, -1),
            "old": episodes.log_prob.reshape(steps),
            "features": features.reshape(steps, -1),
            "gain": ((gain - gain.mean()) / (gain.std() + 1e-8)).reshape(steps),
            "target": target.reshape(steps),
        }
        generator = key.at(site="minibatches").generator()
        numbers: dict[str, float] = {}
        for _ in range(self.settings.epochs):
            order = torch.randperm(steps, generator=generator)
            for rows in order.chunk(self.settings.minibatches):
                numbers = self.minibatch({name: value.index_select(0, rows) for name, value in flat.items()})
        return {**batch_numbers(episodes, self.objective, getattr(self, "tracked", None)), **numbers}

    def minibatch(self, part: Mapping[str, Tensor]) -> dict[str, float]:
        """One step of policy and critic on some rows; both losses, the entropy, and how far the policy has moved."""
        output = self.policy(part["observation"])
        log_prob, entropy = self.policy.head.log_prob_and_entropy(output, part["action"])
        ratio = (log_prob - part["old"]).exp()
        clipped = ratio.clamp(1 - CLIP, 1 + CLIP)
        loss = -torch.minimum(ratio * part["gain"], clipped * part["gain"]).mean()
        loss = loss - self.settings.entropy * entropy.mean()
        self.step(loss, clip=LARGEST_NORM)
        error = VALUE_WEIGHT * ((self.critic(part["features"])[..., 0] - part["target"]) ** 2).mean()
        for group in self.critic_optimizer.param_groups:
            group["lr"] = self.rate
        self.critic_optimizer.zero_grad()
        error.backward()
        torch.nn.utils.clip_grad_norm_(self.critic.parameters(), LARGEST_NORM)
        self.critic_optimizer.step()
        moved = part["old"] - log_prob.detach()
        return {
            "loss": float(loss.detach()),
            "value_loss": float(error.detach()),
            "entropy": float(entropy.detach().mean()),
            "kl": float(moved.mean()),
        }

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Policy, critic, both optimisers, the scale of returns."""
        tensors = module_state("policy", self.policy, self.optimizer)
        return {**tensors, **module_state("critic", self.critic, self.critic_optimizer)}, {"spread": self.spread.hex()}

    def load_state(self, tensors: Mapping[str, Tensor], data: Mapping[str, Any]) -> None:
        """The inverse of `state`."""
        load_module_state("policy", self.policy, self.optimizer, tensors)
        load_module_state("critic", self.critic, self.critic_optimizer, tensors)
        self.spread = float.fromhex(data["spread"])


class QPPO(PPO):
    """Quantile PPO at the level of steps: mean first, then -1{R <= q} at the end of every episode."""

    def __init__(self, environment: Environment, *, objective: Objective, settings: Settings, seed: int) -> None:
        super().__init__(environment, objective=objective, settings=settings, seed=seed)
        self.tracker = Tracker(objective.alpha, "batch")
        self.tracked: Any = None

    def targets(self, episodes: Episodes) -> tuple[Tensor, Tensor, Tensor]:
        """The mean's targets in the first half of the budget, the quantile's in the second."""
        returns = episodes.returns[:, None].double()
        self.tracked = (
            self.tracker.start(returns) if self.tracked is None else self.tracker.update(returns, self.tracked)
        )
        if self.updates < self.total_updates // 2:
            return super().targets(episodes)
        self.spread = 0.9 * self.spread + 0.1 * float(returns.std())
        q = float(self.tracked.q)
        features = self.features(episodes, q, max(self.spread, 1e-6))
        reward = torch.zeros_like(episodes.reward)
        reward[-1] = -(episodes.returns <= q).float()
        with torch.no_grad():
            value = self.critic(features)[..., 0]
        gain = advantages(reward, value, 1.0, 0.97)
        return features, gain, gain + value

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """PPO's state and the tracked quantile."""
        tensors, data = super().state()
        more, tracked = tracked_state(self.tracked)
        return {**tensors, **more}, {**data, **tracked}

    def load_state(self, tensors: Mapping[str, Tensor], data: Mapping[str, Any]) -> None:
        """The inverse of `state`."""
        super().load_state(tensors, data)
        self.tracked = load_tracked(tensors, data)
