"""How the engine moves its noise levels after a site's runs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from onlyforward.core.keys import Key
from onlyforward.nn.activations import SiteProbe, run_site
from onlyforward.nn.levels import Levels, level_slope, snr_slope
from onlyforward.nn.noise import SiteNoise
from onlyforward.nn.sites import Site

if TYPE_CHECKING:
    from onlyforward.nn.engine import LikelihoodRatio
    from onlyforward.nn.state import Started

EVERY = 10
"""Steps between two measurements of a signal-to-noise ratio, which costs runs of its own."""
HALF = 8
"""Copies of each half-set of such a measurement."""


def learned(engine: LikelihoodRatio, levels: Levels, begun: Started, site: Site, probe: SiteProbe) -> Levels:
    """The levels after one site's runs: "loss" uses the runs that were made, "snr" makes 4 x HALF more now and then."""
    if site.path not in levels.sigma:
        levels = replace(levels, sigma={**levels.sigma, site.path: float(probe.noise.sigma)})
    if levels.mode == "loss":
        weight = (probe.signal - begun.clean) / (len(probe.signal) * begun.data)
        if probe.paired:  # both members of a pair have the same length: their losses add up
            half = len(weight) // 2
            weight = weight[:half] + weight[half:]
        return levels.moved(
            {site.path: level_slope(engine.kind(engine.memory[site.path]), weight, probe.noise.key, probe.noise.shape)}
        )
    if engine.steps % EVERY:
        return levels
    key = begun.key.at(site=f"snr/{site.path}")

    def halves(sigma: float) -> tuple[Tensor, Tensor]:
        return tuple(delta(engine, begun, site, sigma, key.at(copy=side << 20)) for side in (0, 1))  # type: ignore[return-value]

    return levels.moved({site.path: snr_slope(halves, levels.sigma[site.path])}, steps=EVERY)


def delta(engine: LikelihoodRatio, begun: Started, site: Site, sigma: float, key: Key) -> Tensor:
    """One half-set's cotangent at a level."""
    kind = engine.kind(engine.memory[site.path])
    named = key.at(site=f"{key.site}/{key.copy}")
    noise = SiteNoise(kind, named, HALF, tuple(site.clean.shape), sigma, site.clean)
    probe = run_site(
        engine.walk, begun.tape, site, noise, begun.objective, begun.clean, paired=False, stack=engine.stack
    )
    engine.runs += probe.runs
    return probe.delta((probe.signal - begun.clean) / HALF)
