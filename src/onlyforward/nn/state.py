"""What the engine keeps between steps, and what a step holds between its clean run and its gradient."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from onlyforward.core.keys import Key
from onlyforward.nn.activations import Objective
from onlyforward.nn.sites import Call, Site
from onlyforward.nn.walk import Tape

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
    """

    noise: str = ""
    scale: float = SMOOTH
    paired: bool | None = None
    odd: float = 0.0
    even: float = 0.0
    sigma: float = 0.0
    ema: float | None = None


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
    """

    tape: Tape
    objective: Objective
    clean: Tensor
    places: Iterator[tuple[Call, Site]]
    found: dict[nn.Parameter, Tensor]
    key: Key

    @property
    def data(self) -> int:
        """B."""
        return len(self.clean)
