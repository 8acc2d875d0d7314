"""Whole episodes, many at once: what a policy did and what came back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onlyforward.core.keys import Key
from onlyforward.decide.envs.base import CHUNK, Environment
from onlyforward.decide.policies import NetworkPolicy, Structured


@dataclass(frozen=True)
class Episodes:
    """Episodes of equal length.

    Attributes:
        observation: [T, B, o].
        action: [T, B, columns], as the head sampled it.
        log_prob: [T, B] under the policy that acted.
        reward: [T, B].
        discount: [T], gamma^t.
    """

    observation: Tensor
    action: Tensor
    log_prob: Tensor
    reward: Tensor
    discount: Tensor

    @property
    def returns(self) -> Tensor:
        """Discounted returns [B]."""
        return (self.discount[:, None] * self.reward).sum(0)


def action_noise(key: Key, kind: str, shape: tuple[int, int], start: int, stop: int) -> Tensor:
    """What the actions of episodes start..stop-1 consume, in chunks of episodes: [T, B, columns]."""
    parts = []
    for chunk in range(start // CHUNK, -(-stop // CHUNK)):
        generator = key.at(site="action", chunk=chunk).generator()
        drawn = torch.empty(CHUNK, *shape)
        drawn = drawn.normal_(generator=generator) if kind == "normal" else drawn.uniform_(generator=generator)
        parts.append(drawn[max(start - chunk * CHUNK, 0) : min(stop - chunk * CHUNK, CHUNK)])
    return torch.cat(parts).transpose(0, 1).contiguous()


@torch.no_grad()
def rollout(
    environment: Environment, policy: NetworkPolicy, key: Key, episodes: int, *, first: int = 0, greedy: bool = False
) -> Episodes:
    """Run episodes first..first+episodes-1 of `key` under a network policy. Memory: O(T B)."""
    horizon, head = environment.horizon, policy.head
    noise = action_noise(key, head.noise_kind(), (horizon, head.space.columns), first, first + episodes)
    state = environment.start(environment.noise(key, first, first + episodes))
    seen, done, chances, paid = [], [], [], []
    for t in range(horizon):
        observation = torch.as_tensor(np.ascontiguousarray(environment.observe(state))).float()
        output = policy(observation)
        action = head.greedy(output) if greedy else head.sample(output, noise[t])
        state, reward = environment.advance(state, on_backend(environment, head.act(action)))
        seen.append(observation)
        done.append(action)
        chances.append(head.log_prob(output, action))
        paid.append(torch.as_tensor(reward).float())
    discount = environment.gamma ** torch.arange(horizon)
    return Episodes(torch.stack(seen), torch.stack(done), torch.stack(chances), torch.stack(paid), discount)


def structured_returns(
    environment: Environment, policy: Structured, numbers: Any, key: Key, *, first: int = 0
) -> np.ndarray:
    """Discounted returns [B] of a structured policy, one row of `numbers [B, P]` per episode."""
    state = environment.start(environment.noise(key, first, first + len(numbers)))
    total: Any = 0.0
    for t in range(environment.horizon):
        state, reward = environment.advance(state, policy.act(environment, state, numbers))
        total = total + environment.gamma**t * reward
    return np.asarray(total, dtype=np.float64)


def on_backend(environment: Environment, action: Tensor) -> Any:
    """A torch action as the environment's backend wants it, without a copy where possible."""
    return action.numpy() if environment.xp is np else action.to(environment.device)
