"""What every agent is: one update at a time, its whole state as tensors and JSON, its episodes named by keys."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from onlyforward.core.errors import Diverged, UsageError
from onlyforward.core.keys import Key
from onlyforward.core.weigh.quantile import Tracked
from onlyforward.decide.envs.base import Environment
from onlyforward.decide.objectives import Objective
from onlyforward.decide.presets import Settings
from onlyforward.decide.rollout import Alone, Sharing

Callback = Callable[[dict[str, Any]], Any]
"""Called after every update with `agent`, `update` and the update's numbers; returning False stops the training."""


class Agent(ABC):
    """An agent on one environment.

    Args:
        environment: where it acts.
        objective: what it maximises.
        settings: how it learns.
        seed: run coordinate of all its random numbers.
    """

    def __init__(self, environment: Environment, *, objective: Objective, settings: Settings, seed: int) -> None:
        self.environment = environment
        self.objective = objective
        self.settings = settings
        self.key = Key(run=seed, site="train")
        self.updates = 0
        self.sharing: Sharing = Alone()

    @property
    def total_updates(self) -> int:
        """Updates in the whole budget."""
        return max(1, self.settings.episodes // self.settings.batch)

    @property
    def rate(self) -> float:
        """The learning rate of the next update."""
        s = self.settings
        if s.settle > 0:
            return s.rate * (1 + self.updates / s.settle) ** -s.power
        return s.rate * max(0.0, 1 - self.updates / self.total_updates)

    @abstractmethod
    def update(self) -> dict[str, float]:
        """One update from one batch of episodes; returns numbers to show."""

    @abstractmethod
    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that the next update depends on, as tensors and JSON."""

    @abstractmethod
    def load_state(self, tensors: Mapping[str, Tensor], data: Mapping[str, Any]) -> None:
        """Continue from `state()`."""

    @abstractmethod
    def returns(self, key: Key, episodes: int, *, deterministic: bool) -> NDArray[np.float64]:
        """Returns [episodes] of the current policy on fresh episodes."""

    @abstractmethod
    def predict(self, observation: Any, *, deterministic: bool = True, key: Key | None = None) -> NDArray[Any]:
        """Actions [B, columns] for observations [B, o] or [o]."""

    def learn(self, *, updates: int | None = None, callback: Callback | None = None) -> Agent:
        """Run the rest of the budget, or so many updates more."""
        end = self.total_updates if updates is None else self.updates + updates
        while self.updates < end:
            numbers = self.update()
            self.updates += 1
            bad = [name for name, value in numbers.items() if not np.isfinite(value)]
            if bad:
                raise Diverged(f"{bad[0]} is not finite in update {self.updates}", "Lower the learning rate")
            if callback is not None and callback({"agent": self, "update": self.updates, **numbers}) is False:
                break
        return self

    def save(self, folder: str | Path) -> None:
        """Write `agent.safetensors` and `agent.json` into a folder."""
        import json

        from safetensors.torch import save_file

        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        tensors, data = self.state()
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, place / "agent.safetensors")
        (place / "agent.json").write_text(json.dumps({"updates": self.updates, **data}))

    def resume(self, folder: str | Path) -> Agent:
        """Load what `save` wrote, optimiser and trackers included, and return self."""
        import json

        from safetensors.torch import load_file

        place = Path(folder)
        if not (place / "agent.safetensors").exists():
            raise UsageError(f"{place} holds no saved agent", "Give the folder that save() wrote")
        data = json.loads((place / "agent.json").read_text())
        self.updates = data.pop("updates")
        self.load_state(load_file(place / "agent.safetensors"), data)
        return self


def module_state(prefix: str, module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """A module and its Adam moments as named tensors."""
    found = {f"{prefix}.{name}": value.detach().clone() for name, value in module.state_dict().items()}
    for name, parameter in module.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            found[f"{prefix}.adam.{key}.{name}"] = torch.as_tensor(value).detach().clone()
    return found


def load_module_state(
    prefix: str, module: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    """The inverse of `module_state`."""
    module.load_state_dict({name: tensors[f"{prefix}.{name}"] for name in module.state_dict()})
    for name, parameter in module.named_parameters():
        moments = {
            key: tensors[f"{prefix}.adam.{key}.{name}"].clone()
            for key in ("step", "exp_avg", "exp_avg_sq")
            if f"{prefix}.adam.{key}.{name}" in tensors
        }
        if moments:
            optimizer.state[parameter] = moments


def tracked_state(state: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A weighting's state (None, one tracked quantile or several) as tensors and JSON."""
    several = () if state is None else state if isinstance(state, tuple) else (state,)
    tensors = {}
    for i, tracked in enumerate(several):
        tensors[f"tracked.{i}.q"] = tracked.q.clone()
        tensors[f"tracked.{i}.recent"] = tracked.recent.clone()
    return tensors, {"calls": [tracked.calls for tracked in several], "single": isinstance(state, Tracked)}


def load_tracked(tensors: Mapping[str, Tensor], data: Mapping[str, Any]) -> Any:
    """The inverse of `tracked_state`."""
    several = tuple(
        Tracked(tensors[f"tracked.{i}.q"].clone(), calls, tensors[f"tracked.{i}.recent"].clone())
        for i, calls in enumerate(data["calls"])
    )
    return several[0] if data["single"] else several or None
