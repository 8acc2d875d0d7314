"""Policies: small networks with a distribution per action space, and structured rules with a few numbers.

A network policy turns observations into distribution parameters; sampling is a deterministic function of noise that was
drawn beforehand, so that an episode depends on its key alone. Structured policies read the environment's state and take
one row of numbers per episode: they are what `ParameterSearch` perturbs, and by far the fastest to train.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from onlyforward.core.checks import check_choice
from onlyforward.core.keys import Key
from onlyforward.decide.envs.base import Array, Environment, Space, State


class Head(nn.Module):
    """The distribution of one action space over a network's output.

    Args:
        space: what is chosen.
        deviation: initial standard deviation of real-valued actions.
        learned: whether the standard deviation is trained.
    """

    def __init__(self, space: Space, *, deviation: float = 0.5, learned: bool = True) -> None:
        super().__init__()
        self.space = space
        self.real = space.kind in ("box", "simplex")
        self.outputs = space.columns if self.real else sum(space.sizes)
        if self.real:
            start = torch.full((space.columns,), math.log(deviation))
            self.log_deviation = nn.Parameter(start, requires_grad=learned)

    def noise_kind(self) -> str:
        """What one action consumes: "normal" or "uniform", one number a column."""
        return "normal" if self.real else "uniform"

    def sample(self, output: Tensor, noise: Tensor) -> Tensor:
        """Actions [..., columns] from outputs [..., outputs] and noise [..., columns]."""
        if self.real:
            return output + self.log_deviation.exp() * noise
        below = self.log_chances(output).exp().cumsum(-1) < noise[..., None]
        return below.sum(-1).clamp(max=max(self.space.sizes) - 1)

    def log_chances(self, output: Tensor) -> Tensor:
        """Ln of the chance of every value of every column: [..., columns, largest size]."""
        sizes = self.space.sizes
        if len(set(sizes)) == 1:
            return output.unflatten(-1, (len(sizes), sizes[0])).log_softmax(-1)
        # Values that a column lacks get no chance; a finite floor keeps their entropy at 0 instead of NaN.
        parts = output.split(sizes, dim=-1)
        width = max(sizes)
        padded = [nn.functional.pad(part, (0, width - part.shape[-1]), value=-1e30) for part in parts]
        return torch.stack(padded, -2).log_softmax(-1)

    def greedy(self, output: Tensor) -> Tensor:
        """The mode: [..., columns]."""
        if self.real:
            return output
        return self.log_chances(output).argmax(-1)

    def log_prob(self, output: Tensor, action: Tensor) -> Tensor:
        """Ln pi(action | output): [...]."""
        return self.log_prob_and_entropy(output, action)[0]

    def entropy(self, output: Tensor) -> Tensor:
        """Entropy of the distribution: [...]."""
        if self.real:
            return (self.log_deviation + 0.5 * math.log(2 * math.pi * math.e)).sum().expand(output.shape[:-1])
        return chance_entropy(self.log_chances(output))

    def log_prob_and_entropy(self, output: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Both at the price of one: [...], [...]."""
        if self.real:
            unit = (action - output) / self.log_deviation.exp()
            log_prob = (-0.5 * unit * unit - self.log_deviation - 0.5 * math.log(2 * math.pi)).sum(-1)
            return log_prob, self.entropy(output)
        log_chances = self.log_chances(output)
        return log_chances.gather(-1, action[..., None])[..., 0].sum(-1), chance_entropy(log_chances)

    def act(self, action: Tensor) -> Tensor:
        """What the environment receives: a box is clamped to its bounds, a simplex is the softmax of the reals."""
        if self.space.kind == "box":
            return action.clamp(action.new_tensor(self.space.low), action.new_tensor(self.space.high))
        return action.softmax(-1) if self.space.kind == "simplex" else action


def chance_entropy(log_chances: Tensor) -> Tensor:
    """Entropy of independent columns, from the ln of their chances [..., columns, k]: [...]."""
    return -(log_chances.exp() * log_chances).sum((-2, -1))


class NetworkPolicy(nn.Module):
    """Observations -> hidden layers -> head. `linear` is the same without hidden layers.

    Args:
        environment: gives the sizes.
        hidden: widths of the hidden layers.
        key: coordinates of the initial weights.
        scale: divides observations.
        deviation: initial standard deviation of real-valued actions.
        learned: whether it is trained.
    """

    def __init__(
        self,
        environment: Environment,
        *,
        hidden: tuple[int, ...] = (64, 64),
        key: Key,
        scale: float = 1.0,
        deviation: float = 0.5,
        learned: bool = True,
    ) -> None:
        super().__init__()
        self.head = Head(environment.action, deviation=deviation, learned=learned)
        self.scale = scale
        widths = (environment.observation_size, *hidden, self.head.outputs)
        layers: list[nn.Module] = []
        generator = key.at(site="policy").generator()
        for before, after in itertools.pairwise(widths):
            layer = nn.Linear(before, after)
            last = len(layers) == 2 * len(hidden)
            with torch.no_grad():
                gain = 0.01 if last else math.sqrt(2.0)
                nn.init.orthogonal_(layer.weight, gain, generator=generator)
                layer.bias.zero_()
            layers += [layer] if last else [layer, nn.Tanh()]
        self.body = nn.Sequential(*layers)

    def forward(self, observation: Tensor) -> Tensor:
        """Distribution parameters [..., outputs]."""
        return self.body(observation.float() / self.scale)


@dataclass(frozen=True)
class Structured:
    """A rule with a few numbers per episode.

    Attributes:
        name: the word on the command line.
        start: initial numbers, and the standard deviation of their perturbation, per coordinate.
        act: (environment, state, numbers [B, P]) -> actions [B, columns].
    """

    name: str
    start: tuple[float, ...]
    spread: tuple[float, ...]
    act: Callable[[Environment, State, Array], Array]


def base_stock(environment: Any, level: float = 40.0) -> Structured:
    """Order up to a level, echelon by echelon (or for the one item): order = level - position."""

    def act(env: Any, state: State, numbers: Array) -> Array:
        return (numbers - env.position(state).T).clip(min=0, max=env.parameters.max_order)

    size = positions(environment)
    return Structured("base-stock", (level,) * size, (3.0,) * size, act)


def echelon_base_stock(environment: Any, level: float = 60.0) -> Structured:
    """Order up to a level of everything from this echelon down to the customer."""

    def act(env: Any, state: State, numbers: Array) -> Array:
        return (numbers - env.position(state).cumsum(0).T).clip(min=0, max=env.parameters.max_order)

    size = positions(environment)
    return Structured("echelon-base-stock", tuple(level * (i + 1) for i in range(size)), (4.0,) * size, act)


def cyclic_base_stock(environment: Any, level: float = 40.0) -> Structured:
    """Base-stock levels that follow the season: level + a sin + b cos of the phase, per echelon."""
    size = positions(environment)

    def act(env: Any, state: State, numbers: Array) -> Array:
        phase = 2 * math.pi * state["t"] / 15
        levels = (
            numbers[:, :size] + math.sin(phase) * numbers[:, size : 2 * size] + math.cos(phase) * numbers[:, 2 * size :]
        )
        return (levels - env.position(state).T).clip(min=0, max=env.parameters.max_order)

    return Structured("cyclic-base-stock", (level,) * size + (0.0,) * 2 * size, (3.0,) * size + (2.0,) * 2 * size, act)


def capped_base_stock(environment: Any, level: float = 17.0) -> Structured:
    """Order up to a level, at most a cap: the rule to beat in lost sales."""
    size = positions(environment)

    def act(env: Any, state: State, numbers: Array) -> Array:
        wanted = (numbers[:, :size] - env.position(state).T).clip(min=0, max=env.parameters.max_order)
        return env.xp.minimum(wanted, numbers[:, size:].clip(min=0))

    return Structured("capped-base-stock", (level,) * size + (6.0,) * size, (1.5,) * size + (1.0,) * size, act)


def reorder_point(environment: Any, low: float = 5.0, high: float = 20.0) -> Structured:
    """(s, S): when the position is at most s, order up to S."""
    size = positions(environment)

    def act(env: Any, state: State, numbers: Array) -> Array:
        position = env.position(state).T
        order = (numbers[:, size:] - position).clip(min=0, max=env.parameters.max_order)
        return order * (position <= numbers[:, :size])

    return Structured("sS", (low,) * size + (high,) * size, (1.5,) * size + (2.0,) * size, act)


def frontier(environment: Any) -> Structured:
    """Portfolio: weight m on the last (boldest) asset, 1 - m on the careful mix; m = sigmoid of time and log wealth.

    Five numbers: constant, time left, log wealth, their product, log wealth squared. Without the last three it is a
    static rule: a quantile needs memory.
    """
    careful = environment.array(careful_mix(environment))

    def act(env: Any, state: State, numbers: Array) -> Array:
        xp = env.xp
        left = 1 - state["t"] / env.horizon
        wealth = 10 * xp.log(state["wealth"].clip(min=1e-6) / env.parameters.wealth)
        z = numbers[:, 0] + numbers[:, 1] * left + numbers[:, 2] * wealth
        z = z + numbers[:, 3] * wealth * left + numbers[:, 4] * wealth * wealth
        bold = (1 / (1 + xp.exp(-z.clip(min=-40, max=40))))[:, None]
        rest = (1 - bold) * careful
        return xp.concatenate((rest[:, :-1], rest[:, -1:] + bold), 1)

    # Bold when behind, careful when ahead: the basin of the quantile; started without memory, the search stays static.
    return Structured("frontier", (2.0, -3.0, -15.0, 0.0, 0.0), (1.0, 1.0, 2.0, 1.0, 1.0), act)


def blind_frontier(environment: Any) -> Structured:
    """`frontier` that does not see its wealth: constant and time left alone, the ablation."""
    seeing = frontier(environment)

    def act(env: Any, state: State, numbers: Array) -> Array:
        nothing = numbers[:, :1] * 0
        return seeing.act(env, state, env.xp.concatenate((numbers, nothing, nothing, nothing), 1))

    return Structured("frontier-blind", (0.0, 0.0), (1.0, 1.0), act)


def cppi(environment: Any) -> Structured:
    """Constant proportion portfolio insurance: multiplier times the cushion over a floor goes to the boldest asset."""
    careful = environment.array(careful_mix(environment))

    def act(env: Any, state: State, numbers: Array) -> Array:
        floor = numbers[:, 1] * env.parameters.wealth
        bold = (numbers[:, 0] * (1 - floor / state["wealth"])).clip(min=0, max=1)[:, None]
        rest = (1 - bold) * careful
        return env.xp.concatenate((rest[:, :-1], rest[:, -1:] + bold), 1)

    return Structured("cppi", (2.0, 0.9), (0.5, 0.03), act)


def constant(environment: Any) -> Structured:
    """The same real action whatever happens; the search starts in the middle of the box."""
    low, high = environment.action.low, environment.action.high

    def act(env: Any, state: State, numbers: Array) -> Array:
        return numbers.clip(min=env.array(np.array(low)), max=env.array(np.array(high)))

    middle = tuple((a + b) / 2 for a, b in zip(low, high, strict=True))
    return Structured("constant", middle, tuple(0.015 * (b - a) for a, b in zip(low, high, strict=True)), act)


def linear_price(environment: Any) -> Structured:
    """A price that is linear in time left and stock, both as shares: theta_0 + theta_1 left + theta_2 stock."""

    def act(env: Any, state: State, numbers: Array) -> Array:
        left, share = 1 - state["t"] / env.horizon, state["stock"] / env.parameters.items
        price = numbers[:, 0] + numbers[:, 1] * left + numbers[:, 2] * share
        return price.clip(min=0, max=env.parameters.dearest)[:, None]

    return Structured("linear-price", (1.5, 0.0, 0.0), (0.2, 0.2, 0.2), act)


def careful_mix(environment: Any, multiple: float = 1.2816) -> Any:
    """Long-only weights that maximise mean - multiple * standard deviation over the horizon: [assets], float32."""
    from scipy.optimize import minimize

    p = environment.parameters
    drift = np.array(p.path).mean(0) * environment.horizon if p.path else np.array(p.drift)
    covariance = np.cov(np.array(p.path).T) * environment.horizon if p.path else np.array(p.covariance)

    def loss(free: Any) -> float:
        w = np.exp(free - free.max())
        w /= w.sum()
        variance = w @ covariance @ w
        return float(-(w @ drift - variance / 2 - multiple * np.sqrt(variance)))

    free = minimize(loss, np.zeros(len(drift))).x
    weights = np.exp(free - free.max())
    return (weights / weights.sum()).astype(np.float32)


STRUCTURED: dict[str, Callable[..., Structured]] = {
    "base-stock": base_stock,
    "echelon-base-stock": echelon_base_stock,
    "cyclic-base-stock": cyclic_base_stock,
    "capped-base-stock": capped_base_stock,
    "sS": reorder_point,
    "frontier": frontier,
    "frontier-blind": blind_frontier,
    "cppi": cppi,
    "constant": constant,
    "linear-price": linear_price,
}
NETWORKS = ("mlp", "linear")


def positions(environment: Any) -> int:
    """How many levels an inventory rule has."""
    return environment.action.columns


def structured(name: str, environment: Environment) -> Structured:
    """The rule called `name`."""
    return STRUCTURED[check_choice(name, STRUCTURED, name="policy")](environment)
