"""Whole episodes, many at once: what a policy did and what came back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

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


SHARDS = 4
"""Pieces in which a large batch is always simulated, so that bits do not depend on how many workers share them."""
WORTH_SHARING = 8192
"""Environment steps from which a batch is cut into pieces: below, sending costs more than simulating."""


class Sharing(Protocol):
    """Workers that share the pieces of a batch."""

    def mine(self, chunks: int) -> range:
        """The pieces that this worker simulates."""
        ...

    def gather(self, losses: Sequence[Tensor], copies: Sequence[int], like: Tensor) -> list[Tensor]:
        """All pieces [rows, ...] in order, from this worker's own; `copies` are the rows of every piece."""
        ...


class Alone:
    """One worker: everything is its own."""

    def mine(self, chunks: int) -> range:
        """All pieces."""
        return range(chunks)

    def gather(self, losses: Sequence[Tensor], copies: Sequence[int], like: Tensor) -> list[Tensor]:
        """What was given."""
        return list(losses)


def pieces(batch: int, horizon: int) -> list[tuple[int, int]]:
    """First episode and length of every piece of a batch: four, or one if it is small or four does not divide it."""
    count = SHARDS if batch % SHARDS == 0 and batch * horizon >= WORTH_SHARING else 1
    return [(i * batch // count, batch // count) for i in range(count)]


def pack(run: Episodes) -> Tensor:
    """Episodes as one tensor [B, T, o + columns + 2], to be sent."""
    columns = (run.observation, run.action.float(), run.log_prob[..., None], run.reward[..., None])
    return torch.cat(columns, -1).transpose(0, 1).contiguous()


def collect(environment: Environment, policy: NetworkPolicy, key: Key, episodes: int, sharing: Any) -> Episodes:
    """`rollout` of a batch, its pieces spread over workers; every worker gets all of it, bit for bit."""
    parts = pieces(episodes, environment.horizon)
    if hasattr(sharing, "simulate"):
        packed = sharing.simulate(environment, policy, key, parts, None)
    else:
        packed = [
            pack(rollout(environment, policy, key, parts[i][1], first=parts[i][0])) for i in sharing.mine(len(parts))
        ]
    widths = [environment.observation_size, policy.head.space.columns, 1, 1]
    like = torch.empty(environment.horizon, sum(widths))
    whole = torch.cat(sharing.gather(packed, [count for _, count in parts], like)).transpose(0, 1)
    observation, action, log_prob, reward = whole.split(widths, -1)
    action = action if policy.head.real else action.long()
    discount = environment.gamma ** torch.arange(environment.horizon)
    return Episodes(observation, action, log_prob[..., 0], reward[..., 0], discount)


def collect_returns(environment: Environment, policy: Structured, numbers: Any, key: Key, sharing: Any) -> np.ndarray:
    """`structured_returns` of a batch, its pieces spread over workers: [B]."""
    parts = pieces(len(numbers), environment.horizon)
    if hasattr(sharing, "simulate"):
        own = sharing.simulate(environment, policy, key, parts, numbers)
    else:
        own = [
            torch.from_numpy(structured_returns(environment, policy, numbers[first : first + count], key, first=first))
            for first, count in (parts[i] for i in sharing.mine(len(parts)))
        ]
    like = torch.empty((), dtype=torch.float64)
    return torch.cat(sharing.gather(own, [count for _, count in parts], like)).numpy()


def action_noise(key: Key, kind: str, shape: tuple[int, int], start: int, stop: int) -> Tensor:
    """What the actions of episodes start..stop-1 consume, in chunks of episodes: [T, B, columns]."""
    parts = []
    for chunk in range(start // CHUNK, -(-stop // CHUNK)):
        generator = key.at(site="action", chunk=chunk).generator()
        drawn = torch.empty(CHUNK, *shape)
        drawn = drawn.normal_(generator=generator) if kind == "normal" else drawn.uniform_(generator=generator)
        parts.append(drawn[max(start - chunk * CHUNK, 0) : min(stop - chunk * CHUNK, CHUNK)])
    return torch.cat(parts).transpose(0, 1).contiguous()


def periods(
    environment: Environment, policy: NetworkPolicy, key: Key, episodes: int, first: int, greedy: bool
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Observations [B, o], the network's outputs, actions [B, columns] and rewards [B] of every period."""
    horizon, head = environment.horizon, policy.head
    noise = action_noise(key, head.noise_kind(), (horizon, head.space.columns), first, first + episodes)
    drawn = environment.noise(key, first, first + episodes)
    state = environment.start(drawn)

    def decide(seen: Any, unit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        observation = torch.as_tensor(np.ascontiguousarray(seen) if environment.xp is np else seen).float()
        output = policy(observation)
        return observation, output, head.greedy(output) if greedy else head.sample(output, unit)

    scenery = environment.scenery(drawn)
    # Where actions do not change what is seen, one pass of the network serves the whole episode.
    foreseen = None if scenery is None else list(zip(*decide(scenery, noise), strict=True))
    for t in range(horizon):
        told = foreseen[t] if foreseen is not None else decide(environment.observe(state), noise[t])
        state, reward = environment.advance(state, on_backend(environment, head.act(told[2])))
        yield *told, torch.as_tensor(reward).float()


@torch.no_grad()
def rollout(environment: Environment, policy: NetworkPolicy, key: Key, episodes: int, *, first: int = 0) -> Episodes:
    """Run episodes first..first+episodes-1 of `key` under a network policy. Memory: O(T B)."""
    seen, outputs, actions, paid = zip(*periods(environment, policy, key, episodes, first, False), strict=True)
    action = torch.stack(actions)
    # One pass over all periods: a call per period would cost as much as the simulation.
    log_prob = policy.head.log_prob(torch.stack(outputs), action)
    discount = environment.gamma ** torch.arange(environment.horizon)
    return Episodes(torch.stack(seen), action, log_prob, torch.stack(paid), discount)


@torch.no_grad()
def policy_returns(
    environment: Environment, policy: NetworkPolicy, key: Key, episodes: int, *, first: int = 0, greedy: bool = False
) -> Tensor:
    """Discounted returns [B] of episodes first..first+episodes-1 of `key`, float64, with nothing else kept."""
    total = torch.zeros(episodes, dtype=torch.float64)
    for t, (*_, reward) in enumerate(periods(environment, policy, key, episodes, first, greedy)):
        total += environment.gamma**t * reward
    return total


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
