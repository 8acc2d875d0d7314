"""What training minimises: distance to a frozen centre, plain or beyond a soft radius; and a guard against collapse."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from onlyforward.core.errors import Diverged

OBJECTIVES = ("one-class", "soft-boundary")
WARM_UP = 10
"""Epochs before the soft radius moves away from 0."""


class CollapsedDetector(Diverged):
    """All scores are equal, or the centre is 0: the detector says nothing (exit 4)."""


def first_center(latent: Tensor) -> Tensor:
    """Mean latent with entries of |c_j| < 0.1 moved to +-0.1, sign kept and 0 to +0.1: [m]."""
    center = latent.mean(0)
    away = torch.where(center < 0, -0.1, 0.1).to(center)
    return torch.where(center.abs() < 0.1, away, center)


@dataclass(frozen=True)
class Objective:
    """The loss of latents f [b, m] and its slope in f.

    Attributes:
        kind: "one-class", mean d, d = |f - c|^2; "soft-boundary", R^2 + mean max(0, d - R^2) / nu.
        center: c [m], frozen.
        nu: share of training rows allowed outside the radius.
        radius2: R^2 as a tensor of one element.
        latent: which features f holds.
    """

    kind: str
    center: Tensor
    nu: float
    radius2: Tensor
    latent: str = "z"

    def loss(self, distance: Tensor) -> Tensor:
        """Loss of every row [b], R^2 included."""
        if self.kind == "one-class":
            return distance
        return self.radius2 + (distance - self.radius2).clamp(min=0) / self.nu

    def of(self, f: Tensor) -> Tensor:
        """Loss of every row [b] from latents [b, m]."""
        return self.loss((f - self.center).square().sum(-1))

    def slope(self, f: Tensor) -> Tensor:
        """G = d loss / d f: 2 (f - c), for soft-boundary masked to the rows outside and divided by nu: [b, m]."""
        g = 2 * (f - self.center)
        if self.kind == "one-class":
            return g
        outside = (f - self.center).square().sum(-1, keepdim=True) > self.radius2
        return g * outside / self.nu


def check_alive(scores: np.ndarray, center: np.ndarray) -> None:
    """Refuse a detector whose scores are constant or whose centre is 0.

    Raises:
        CollapsedDetector: with what to try.
    """
    spread, size = float(np.std(scores)), float(np.sqrt((center**2).sum()))
    if spread <= 1e-8 or size < 1e-3:
        raise CollapsedDetector(
            f"The detector has collapsed (standard deviation of training scores {spread:.1e}, centre {size:.1e})",
            "Check that rows differ, lower lr or max_epochs, or use another preprocess",
        )
