"""SPSA on the network's weights: two-sided differences of empirical quantiles, the baseline of arXiv 2305.07248."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from onlyforward.decide.agents.base import module_state
from onlyforward.decide.agents.score import NetworkAgent
from onlyforward.decide.rollout import policy_returns

PAIRED = 5
"""Episodes on either side of a difference."""


class SPSA(NetworkAgent):
    """theta += gamma_k (q(theta + c_k d) - q(theta - c_k d)) / (2 c_k) d, d random signs, c_k = 1.9 / k^(1/6).

    Both sides see the same episodes' noise (common random numbers). One update makes batch / 10 differences.
    """

    @torch.no_grad()
    def update(self) -> dict[str, float]:
        """One step from 2 * 5 episodes a difference."""
        flat = parameters_to_vector(self.policy.parameters())
        reach = 1.9 / (self.updates + 1) ** (1 / 6)
        total, seen = torch.zeros_like(flat), []
        pairs = max(1, self.settings.batch // (2 * PAIRED))
        for pair in range(pairs):
            key = self.key.at(step=self.updates, copy=pair)
            signs = torch.empty_like(flat).bernoulli_(0.5, generator=key.at(site="signs").generator()).mul_(2).sub_(1)
            values = []
            for side in (1.0, -1.0):
                vector_to_parameters(flat + side * reach * signs, self.policy.parameters())
                returns = policy_returns(self.environment, self.policy, key, PAIRED).numpy()
                values.append(self.objective.value(returns))
                seen.append(float(returns.mean()))
            total += (values[0] - values[1]) / (2 * reach) * signs / pairs
        vector_to_parameters(flat + self.rate * total / (total.norm() + 1e-12), self.policy.parameters())
        return {"return_mean": float(np.mean(seen)), "step": float(total.norm())}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The policy alone: SPSA has no moments."""
        return module_state("policy", self.policy, self.optimizer), {}

    def load_state(self, tensors: Mapping[str, Tensor], data: Mapping[str, Any]) -> None:
        """The inverse of `state`."""
        self.policy.load_state_dict({name: tensors[f"policy.{name}"] for name in self.policy.state_dict()})
