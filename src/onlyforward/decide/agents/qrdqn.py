"""QR-DQN with a risk-sensitive greedy policy, the distributional peer (arXiv 1710.10044): discrete actions only.

N = 32 quantiles of the return to go per action, quantile Huber loss on batches of whole episodes with a target network;
the policy is greedy in the interpolated alpha quantile, with an exploration rate that falls to 5 %.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from onlyforward.core.errors import UsageError
from onlyforward.core.keys import Key
from onlyforward.decide.agents.base import Agent, load_module_state, module_state
from onlyforward.decide.envs.base import Environment
from onlyforward.decide.objectives import Objective
from onlyforward.decide.presets import Settings
from onlyforward.decide.rollout import action_noise

QUANTILES = 32
TARGET_EVERY = 10


class QRDQN(Agent):
    """Quantile regression of returns to go, greedy in the alpha quantile."""

    def __init__(self, environment: Environment, *, objective: Objective, settings: Settings, seed: int) -> None:
        if environment.action.kind != "discrete":
            raise UsageError(
                f"qrdqn cannot act on the {environment.action.kind} actions of {environment.id}",
                "Choose an agent for it: qpo, ppo, qppo or params",
            )
        super().__init__(environment, objective=objective, settings=settings, seed=seed)
        generator = self.key.at(site="policy").generator()
        self.actions = environment.action.sizes[0]
        first, second = nn.Linear(environment.observation_size, 64), nn.Linear(64, self.actions * QUANTILES)
        for layer in (first, second):
            nn.init.orthogonal_(layer.weight, 1.0, generator=generator)
            nn.init.zeros_(layer.bias)
        self.network = nn.Sequential(first, nn.Tanh(), second)
        self.target = copy.deepcopy(self.network)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=settings.rate, fused=True)
        self.levels = (torch.arange(QUANTILES) + 0.5) / QUANTILES

    def quantiles(self, network: nn.Module, observation: Tensor) -> Tensor:
        """[..., actions, 32]."""
        return network(observation / self.settings.scale).unflatten(-1, (self.actions, QUANTILES))

    def choose(self, observation: Tensor) -> Tensor:
        """Greedy actions in the interpolated alpha quantile: [...]."""
        place = min(max(self.objective.alpha * QUANTILES - 0.5, 0.0), QUANTILES - 1.0)
        low, share = int(place), place - int(place)
        ordered = self.quantiles(self.network, observation).sort(-1).values
        high = min(low + 1, QUANTILES - 1)
        return ((1 - share) * ordered[..., low] + share * ordered[..., high]).argmax(-1)

    @torch.no_grad()
    def play(self, key: Key, episodes: int, *, first: int = 0, explore: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
        """Observations [T, B, o], actions [T, B] and rewards [T, B]."""
        env = self.environment
        noise = action_noise(key, "uniform", (env.horizon, 2), first, first + episodes)
        state = env.start(env.noise(key, first, first + episodes))
        seen, done, paid = [], [], []
        for t in range(env.horizon):
            observation = torch.as_tensor(np.ascontiguousarray(env.observe(state))).float()
            random = (noise[t, :, 1] * self.actions).long().clamp(max=self.actions - 1)
            action = torch.where(noise[t, :, 0] < explore, random, self.choose(observation))
            state, reward = env.advance(state, action[:, None].numpy() if env.xp is np else action[:, None])
            seen.append(observation)
            done.append(action)
            paid.append(torch.as_tensor(reward).float())
        return torch.stack(seen), torch.stack(done), torch.stack(paid)

    def update(self) -> dict[str, float]:
        """One batch of episodes, one pass of quantile regression over it."""
        explore = max(0.05, 1 - 2 * self.updates / self.total_updates)
        seen, action, reward = self.play(self.key.at(step=self.updates), self.settings.batch, explore=explore)
        with torch.no_grad():
            following = self.quantiles(self.target, seen[1:])
            best = following.mean(-1).argmax(-1)
            ahead = following.gather(-2, best[..., None, None].expand(*best.shape, 1, QUANTILES))[..., 0, :]
            goal = reward[..., None].expand(*reward.shape, QUANTILES).clone()
            goal[:-1] += self.environment.gamma * ahead
        own = self.quantiles(self.network, seen).gather(-2, action[..., None, None].expand(*action.shape, 1, QUANTILES))
        gap = goal[..., None, :] - own[..., 0, :, None]
        huber = torch.where(gap.abs() <= 1, 0.5 * gap**2, gap.abs() - 0.5)
        loss = ((self.levels[:, None] - (gap.detach() < 0).float()).abs() * huber).mean()
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if (self.updates + 1) % TARGET_EVERY == 0:
            self.target.load_state_dict(self.network.state_dict())
        return {"return_mean": float(reward.sum(0).mean()), "loss": float(loss.detach())}

    def returns(self, key: Key, episodes: int, *, deterministic: bool) -> NDArray[np.float64]:
        """Returns [episodes]; the policy has no noise of its own, so both kinds are greedy."""
        discount = self.environment.gamma ** torch.arange(self.environment.horizon)
        parts = []
        for first in range(0, episodes, 4096):
            _, _, reward = self.play(key, min(4096, episodes - first), first=first)
            parts.append((discount[:, None] * reward).sum(0))
        return torch.cat(parts).double().numpy()

    @torch.no_grad()
    def predict(self, observation: Any, *, deterministic: bool = True, key: Key | None = None) -> NDArray[Any]:
        """Greedy actions [B, 1]."""
        return self.choose(torch.as_tensor(np.asarray(observation, dtype=np.float32)))[..., None].numpy()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Both networks and the optimiser."""
        target = {f"target.{name}": value.clone() for name, value in self.target.state_dict().items()}
        return {**module_state("network", self.network, self.optimizer), **target}, {}

    def load_state(self, tensors: Mapping[str, Tensor], data: Mapping[str, Any]) -> None:
        """The inverse of `state`."""
        load_module_state("network", self.network, self.optimizer, tensors)
        self.target.load_state_dict({name: tensors[f"target.{name}"] for name in self.target.state_dict()})
