"""What the engine keeps between steps, and what a step holds between its clean run and its gradient."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from onlyforward.core.keys import Key
from onlyforward.nn.activations import Objective
from onlyforward.nn.law import predicted_cosine
from onlyforward.nn.sites import Call, Site
from onlyforward.nn.walk import Tape

if TYPE_CHECKING:
    from onlyforward.nn.engine import LikelihoodRatio

SMOOTH, THRESHOLD = 0.05, 0.5
"""Automatic sigma over the root mean square of the site's tensor, for smooth suffixes and behind thresholds."""


@dataclass
class Memory:
    """What the engine keeps about a site between steps.

    Attributes:
        noise: kind of noise; empty before the first step.
        scale: automatic sigma over the root mean square.
        paired: whether copies run in mirrored pairs; None before the first pilot.
        odd: energy of the odd part of the response.
        even: energy of the even part.
        sigma: level of the last step.
        ema: running mean of the losses, for that baseline.
        kappa: data whose gradients add up, as last measured; 0 before.
        copies: of this site, where a target cosine decides; 0 is the engine's.
        dimension: D, perturbed per datum.
    """

    noise: str = ""
    scale: float = SMOOTH
    paired: bool | None = None
    odd: float = 0.0
    even: float = 0.0
    sigma: float = 0.0
    ema: float | None = None
    kappa: float = 0.0
    copies: int = 0
    dimension: int = 0


@dataclass
class Started:
    """A step between its clean run and its gradient.

    Attributes:
        tape: the clean run.
        objective: the loss.
        clean: [b], the clean losses.
        places: calls and sites in forward order, each made when its turn comes.
        found: gradients so far.
        key: coordinates of the step.
        residual: [b], length of the loss's slope at the output, where the last unit is exact.
    """

    tape: Tape
    objective: Objective
    clean: Tensor
    places: Iterator[tuple[Call, Site]]
    found: dict[nn.Parameter, Tensor]
    key: Key
    residual: Tensor | None = None

    @property
    def data(self) -> int:
        """B."""
        return len(self.clean)


def site_stats(engine: LikelihoodRatio, path: str, memory: Memory) -> dict[str, float]:
    """What `LikelihoodRatio.stats` says of one site."""
    copies, costs = engine.copies_at(path), engine.costs
    directions = copies // 2 if memory.paired else copies
    cosine = predicted_cosine(memory.noise, memory.dimension, directions, memory.kappa) if memory.kappa else math.nan
    return {
        "D": memory.dimension,
        "kappa": memory.kappa or math.nan,
        "copies": copies,
        "cosine_predicted": cosine,
        "paired": float(bool(memory.paired)),
        "odd": memory.odd,
        "even": memory.even,
        "sigma": memory.sigma,
        "runs": copies * engine.data,
        "macs_over_bp": copies * costs.suffix.get(path, 0.0) / (3 * max(costs.forward, 1.0)) if costs else 0.0,
    }
