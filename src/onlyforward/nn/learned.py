"""How the engine moves its noise levels after a site's runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from onlyforward.core.keys import Key
from onlyforward.nn.activations import SiteProbe, run_site
from onlyforward.nn.levels import Level, Levels, channel_axis, level_name, level_slope, mean_level, snr_slope
from onlyforward.nn.noise import SiteNoise
from onlyforward.nn.sites import ChannelSite, Site, WeightSite

if TYPE_CHECKING:
    from onlyforward.nn.engine import LikelihoodRatio
    from onlyforward.nn.state import Started

EVERY = 10
"""Steps between two measurements of a signal-to-noise ratio, which costs runs of its own."""
HALF = 8
"""Copies of each half-set of such a measurement."""


@dataclass
class Slopes:
    """Slopes of the levels in one step: what shares a level adds up, and it moves once, when the step is over.

    Attributes:
        levels: as the step found them, with those that it began.
        found: name -> slopes of its sites.
    """

    levels: Levels
    found: dict[str, list[Level]] = field(default_factory=dict)

    def note(self, engine: LikelihoodRatio, begun: Started, site: Site, probe: SiteProbe) -> None:
        """After one site's runs: "loss" uses the runs that were made, "snr" makes 4 x HALF more now and then."""
        name, axis = level_name(site.path), site_axis(site)
        channels = site.clean.shape[axis] if axis else 1
        self.levels = self.levels.started(name, mean_level(probe.noise.sigma), channels)
        if self.levels.mode == "loss":
            weight = (probe.signal - begun.clean) / (len(probe.signal) * begun.data)
            if probe.paired:  # both members of a pair have the same length: their losses add up
                half = len(weight) // 2
                weight = weight[:half] + weight[half:]
            kind = engine.kind(engine.memory[site.path])
            own = axis if self.levels.per == "channel" else 0
            slope = level_slope(kind, weight, probe.noise.key, probe.noise.shape, axis=own)
            self.found.setdefault(name, []).append(slope)
        elif engine.steps % EVERY == 0:
            key = begun.key.at(site=f"snr/{site.path}")

            def halves(sigma: float) -> tuple[Tensor, Tensor]:
                one, two = (delta(engine, begun, site, sigma, key.at(copy=side << 20)) for side in (0, 1))
                return one, two

            self.found.setdefault(name, []).append(snr_slope(halves, mean_level(self.levels.sigma[name])))

    def moved(self) -> Levels:
        """The levels of the next step."""
        if self.levels.mode == "loss":
            return self.levels.moved({name: total(slopes) for name, slopes in self.found.items()})
        means = {name: mean_level(total(slopes)) / len(slopes) for name, slopes in self.found.items()}
        return self.levels.moved(means, steps=EVERY)


def total(slopes: list[Level]) -> Level:
    """The sum of slopes, channel by channel."""
    columns = [slope if isinstance(slope, tuple) else (slope,) for slope in slopes]
    sums = tuple(sum(column) for column in zip(*columns))
    return sums if isinstance(slopes[0], tuple) else sums[0]


def site_axis(site: Site) -> int:
    """The axis (< 0) of the channels of a site; 0 for noise on scales, shifts and weights, which has none."""
    if isinstance(site, ChannelSite | WeightSite):
        return 0
    return channel_axis(site.call.module, site.clean.dim())


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
