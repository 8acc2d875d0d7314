"""VarGrad: how much the gradient itself moves in the noise, beyond the uncertainty of its estimates.

Replicate r estimates the gradient at x + sigma u_r by small noise around that point; the variance over the replicates
minus their mean Monte-Carlo variance is unbiased for Var_u grad f(x + sigma u). (Adebayo et al. 2018; the correction is
derived)
"""

from __future__ import annotations

import torch
from torch import Tensor

from onlyforward.core.keys import Key
from onlyforward.explain.bases import Basis
from onlyforward.explain.estimator import Estimate
from onlyforward.explain.gaussian import Gradient, dealt_rows, hand_out

REPLICATES = 8
INNER = 0.1
"""Noise around each point as a share of the noise between the points."""


class VarGrad:
    """Eight gradients at noisy points, questions dealt in turn.

    Args:
        x: [*shape].
        basis: of the gradients.
        sigma: noise between the points, per number of x.
        key: coordinates of all noise.
        directions: see `Gradient`.
        difference: mean or antithetic.
    """

    needs_clean = False
    clean = float("nan")

    def __init__(
        self, x: Tensor, basis: Basis, sigma: float, key: Key, *, directions: str, difference: str = "antithetic"
    ) -> None:
        self.step = 2 if difference == "antithetic" else 1
        self.parts = []
        for r in range(REPLICATES):
            own = key.at(site=f"{key.site}replicate{r}")
            noise = torch.randn(x.shape, generator=own.generator(), dtype=torch.float64)
            point = x + (sigma * noise).to(x)
            self.parts.append(Gradient(point, basis, INNER * sigma, own, directions=directions, difference=difference))

    def place(self, question: int) -> tuple[Gradient, int]:
        """Whose question it is, and its number there."""
        turn, side = divmod(question, self.step)
        return self.parts[turn % REPLICATES], turn // REPLICATES * self.step + side

    def rows(self, first: int, count: int) -> Tensor:
        """Questions first..first+count-1."""
        return dealt_rows([self.place(question) for question in range(first, first + count)])

    def observe(self, first: int, scores: Tensor) -> None:
        """Scores of the next questions."""
        hand_out([self.place(first + i) for i in range(len(scores))], scores)

    def estimate(self, half: int | None = None) -> Estimate:
        """Variance per number of x, and a standard error for normal replicates."""
        found = [part.estimate(half) for part in self.parts if part.asked >= 4 * self.step]
        if len(found) < 2:
            zero = torch.zeros(self.parts[0].x.shape, dtype=torch.float64)
            return Estimate(zero, zero, zero.flatten())
        spread = torch.stack([one.map for one in found]).var(0)
        noise = torch.stack([one.error.square() for one in found]).mean(0)
        return Estimate(spread - noise, spread * (2 / (len(found) - 1)) ** 0.5, (spread - noise).flatten())
