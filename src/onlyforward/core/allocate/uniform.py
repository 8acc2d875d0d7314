"""Equal counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from onlyforward.core.allocate.plan import Features, Plan, make_plan


@dataclass(frozen=True)
class Uniform:
    """Every item gets the same number of runs; leftovers go to the first items.

    Attributes:
        n_min: least runs of an item.
    """

    n_min: int = 1

    def plan(self, budget: int, features: Features) -> Plan:
        """Counts [items] that sum to the budget."""
        return make_plan(torch.ones(features.items), budget, n_min=self.n_min)

    def observe(self, ids: Sequence[int], coefficients: Tensor) -> None:
        """Uniform counts need no history."""

    def state(self) -> dict[str, Any]:
        """Nothing to remember."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Nothing to restore."""
