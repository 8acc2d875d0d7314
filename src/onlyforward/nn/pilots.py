"""Pilot runs: independent estimates at one site, the kappa that they show, and the copies that a cosine needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from onlyforward.core.directions import direction
from onlyforward.nn.activations import run_site
from onlyforward.nn.credit import credited
from onlyforward.nn.law import measured_kappa, needed_directions
from onlyforward.nn.noise import SiteNoise
from onlyforward.nn.sites import Site

if TYPE_CHECKING:
    from onlyforward.nn.engine import LikelihoodRatio
    from onlyforward.nn.state import Started

FEWEST, MOST = 32, 256
"""Fewest and most copies of one pilot estimate (an eighth of D in between)."""
CEILING = 4096
"""Most copies that a target cosine is given at one site."""


def site_kappa(engine: LikelihoodRatio, begun: Started, site: Site, *, rounds: int) -> float:
    """Kappa of a site, without bias before it is kept within 0.001 and b, from `rounds` independent estimates."""
    memory = engine.memory[site.path]
    dimension = site.clean[0].numel()
    width = 1 << max(0, dimension - 1).bit_length()
    copies = min(MOST, max(FEWEST, dimension // 8 * 2))
    copies = min(copies, max(2, width // 2)) if memory.noise == "hadamard" else copies
    signal, spread = moments([flat_gradient(engine, begun, site, copies, f"pilot{k}") for k in range(rounds)])
    drawn = copies // 2 if memory.paired else copies
    kappa = measured_kappa(signal, spread, memory.noise, dimension, drawn)
    return min(max(kappa, 1e-3), float(begun.data))


def copies_for(engine: LikelihoodRatio, site: Site, cosine: float) -> int:
    """Least copies of a site whose kappa is known that reach a cosine, even where they run in pairs."""
    memory = engine.memory[site.path]
    directions = needed_directions(memory.noise, site.clean[0].numel(), memory.kappa, cosine)
    return min(CEILING, max(2, directions * (2 if memory.paired else 1)))


def flat_gradient(
    engine: LikelihoodRatio,
    begun: Started,
    site: Site,
    copies: int,
    name: str,
    *,
    kind: str = "",
    paired: bool | None = None,
) -> Tensor:
    """One estimate of the gradient that a site gives to its module, flat."""
    memory = engine.memory[site.path]
    pairs = bool(memory.paired) if paired is None else paired
    key = begun.key.at(site=f"advise/{site.path}/{name}")
    drawn = copies // 2 if pairs else copies
    noise = SiteNoise(direction(kind or memory.noise), key, drawn, engine.noise_shape(site), memory.sigma, site.clean)
    probe = run_site(
        engine.walk, begun.tape, site, noise, begun.objective, begun.clean, paired=pairs, stack=engine.stack
    )
    weight = credited(engine, begun.tape, site.call, site, engine.weights(probe))
    found = site.pull(probe.delta(weight) / begun.data)
    return torch.cat([found[key].reshape(-1) for key in sorted(found)])


def moments(estimates: Sequence[Tensor]) -> tuple[float, float]:
    """|g|^2 without bias, and the total variance of one estimate, from independent estimates."""
    stacked = torch.stack(list(estimates)).double()
    count = len(stacked)
    total = stacked.sum(0)
    squares = float(stacked.square().sum())
    signal = (float(total.square().sum()) - squares) / (count * (count - 1))
    spread = float((stacked - total / count).square().sum()) / (count - 1)
    return signal, spread
