"""Batched environments: structure of arrays, B episodes at once, all noise drawn before an episode begins.

An environment is a set of pure functions over a state of arrays [B, ...]: `draw` the noise of some episodes, `start`,
`observe`, `advance`. Noise comes from keys in fixed chunks of episodes, so that an episode is the same alone, in a
batch, in any shard and after a resume, and so that policies can be compared under common random numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from onlyforward.core.checks import check_choice
from onlyforward.core.keys import Key

Array = Any
"""A numpy array or a torch tensor, whichever the backend is."""
State = dict[str, Any]
CHUNK = 64
"""Episodes whose noise comes from one key: a constant, so that sharding changes nothing."""


@dataclass(frozen=True)
class Space:
    """What an agent may do in one period.

    Attributes:
        kind: "discrete" (one of sizes[0]), "multidiscrete" (sizes[i] values each), "box" (len(low) reals) or "simplex"
            (size non-negative weights that sum to one).
        sizes: numbers of values, or (dimension,) for box and simplex.
        low: lower bounds of a box.
        high: upper bounds of a box.
    """

    kind: str
    sizes: tuple[int, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    @property
    def columns(self) -> int:
        """Width of an action row."""
        return 1 if self.kind == "discrete" else len(self.sizes) if self.kind == "multidiscrete" else self.sizes[0]


@dataclass(frozen=True)
class Reference:
    """A known value of the environment's objective.

    Attributes:
        value: the objective under the environment's own alpha and discount.
        kind: "exact" or "heuristic".
        policy: what earns it.
    """

    value: float
    kind: str
    policy: str


class Environment(ABC):
    """A batched episodic simulator.

    Attributes:
        id: its Gymnasium name without the namespace and version.
        horizon: T, periods per episode.
        gamma: discount per period.
        alpha: the quantile that its papers and references use.
        observation_size: o.
        action: the action space.
        xp: numpy or torch: the backend that holds states, observations and rewards.
        device: where torch states live.
    """

    id: ClassVar[str]
    horizon: int
    gamma: float
    alpha: float
    observation_size: int
    action: Space

    def __init__(self, *, backend: str = "numpy", device: str = "cpu") -> None:
        check_choice(backend, ("numpy", "torch"), name="backend")
        self.device = device
        self.xp = load_backend(backend)

    @abstractmethod
    def draw(self, generator: np.random.Generator, episodes: int) -> dict[str, NDArray[Any]]:
        """The noise of some episodes, episode-major: name -> [episodes, ...]."""

    @abstractmethod
    def start(self, noise: Mapping[str, Array]) -> State:
        """The state before the first period; `noise` is time-major: name -> [T, B, ...] or [B, ...]."""

    @abstractmethod
    def observe(self, state: State) -> Array:
        """Observations [B, o], float32."""

    @abstractmethod
    def advance(self, state: State, action: Array) -> tuple[State, Array]:
        """One period: the next state and the rewards [B]. Actions are [B, columns]."""

    def scenery(self, noise: Mapping[str, Array]) -> Array | None:
        """All observations [T, B, o] at once where actions do not change them; None where they do."""
        return None

    def references(self) -> dict[str, Reference]:
        """Known values, the strongest first."""
        return {}

    def noise(self, key: Key, start: int, stop: int) -> dict[str, Array]:
        """The noise of episodes start..stop-1, time-major, on the backend."""
        parts = []
        for chunk in range(start // CHUNK, -(-stop // CHUNK)):
            drawn = self.draw(key.at(site=self.id, chunk=chunk).numpy(), CHUNK)
            low, high = max(start - chunk * CHUNK, 0), min(stop - chunk * CHUNK, CHUNK)
            parts.append({name: value[low:high] for name, value in drawn.items()})
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return {name: self.array(np.moveaxis(v, 1, 0) if v.ndim > 1 else v) for name, v in joined.items()}

    def array(self, value: NDArray[Any]) -> Array:
        """A numpy array on the backend; reals become float32."""
        single = np.ascontiguousarray(value, dtype=np.float32 if value.dtype.kind == "f" else value.dtype)
        return single if self.xp is np else self.xp.from_numpy(single).to(self.device)

    def reals(self, value: Array) -> Array:
        """An array of the backend, of whole numbers or reals, as float32."""
        return value.astype(np.float32) if self.xp is np else value.float()

    def rows(self, value: Array) -> Array:
        """An array [B, n] as float32 [n, B]: arithmetic on whole rows is several times faster than on short columns."""
        single = isinstance(value, np.ndarray)
        return np.ascontiguousarray(value.T, dtype=np.float32) if single else value.T.float().contiguous()

    def zeros(self, *shape: int) -> Array:
        """float32 zeros on the backend."""
        return self.array(np.zeros(shape, dtype=np.float32))


def load_backend(name: str) -> ModuleType:
    """The module behind a backend's name; torch is imported only when it is asked for."""
    if name == "numpy":
        return np
    import torch

    return torch


class BatchEnv:
    """The stateful face of an environment: `reset(key) -> obs`, `step(action) -> obs, reward, done`.

    Args:
        environment: the dynamics.
        batch: B, episodes at once.
    """

    def __init__(self, environment: Environment, batch: int) -> None:
        self.environment = environment
        self.batch = batch
        self.period = 0
        self.state: State = {}

    def reset(self, key: Key, *, first: int = 0) -> Array:
        """Start episodes first..first+B-1 of `key`: observations [B, o]."""
        self.period = 0
        self.state = self.environment.start(self.environment.noise(key, first, first + self.batch))
        return self.environment.observe(self.state)

    def step(self, action: Array) -> tuple[Array, Array, Array]:
        """One period: observations [B, o], rewards [B], and whether the episodes are over [B]."""
        self.state, reward = self.environment.advance(self.state, action)
        self.period += 1
        done = self.environment.array(np.full(self.batch, self.period >= self.environment.horizon))
        return self.environment.observe(self.state), reward, done
