"""From losses to weights: mirrored pairs, or the loss minus a baseline; and the level of a site's noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from onlyforward.nn.activations import SiteProbe
from onlyforward.nn.learned import site_axis
from onlyforward.nn.levels import MODES, level_name, mean_level
from onlyforward.nn.sites import Site
from onlyforward.nn.state import Memory

if TYPE_CHECKING:
    from onlyforward.nn.engine import LikelihoodRatio

BASELINES = ("clean", "loo", "ema", "none", "standard")


def weights(engine: LikelihoodRatio, probe: SiteProbe) -> Tensor:
    """Weights [n, b] of a probe's signal: half the difference of mirrored copies, or the signal less its baseline.

    With "standard" each datum's weights are also divided by the standard deviation of its losses over the copies: the
    gradient of sum_b arcsin(sqrt(P_b)) where the loss is 1 with probability P_b. A datum that is almost always wrong
    then counts, while the plain mean of P_b gives it up; without this, training on errors loses whole classes.
    """
    found = differences(engine, probe)
    if engine.baseline == "standard":
        spread = probe.signal.std(0, correction=0)
        found = torch.where(spread > 0, found / spread, torch.zeros_like(found))
    return found


def differences(engine: LikelihoodRatio, probe: SiteProbe) -> Tensor:
    """Half the difference of mirrored copies, or the signal less its baseline, over n."""
    signal = probe.signal
    n = len(signal)
    if probe.paired:
        half = (signal[: n // 2] - signal[n // 2 :]) / (2 * n)
        return torch.cat((half, -half))
    if engine.baseline in ("loo", "standard"):
        return (signal - signal.mean(0)) / (n - 1)
    if engine.baseline == "ema":
        memory = engine.memory[probe.site]
        before = memory.ema if memory.ema is not None else float(probe.clean.mean())
        memory.ema = 0.9 * before + 0.1 * float(signal.mean())
        return (signal - before) / n
    return (signal - probe.clean) / n if engine.baseline == "clean" else signal / n


def level(engine: LikelihoodRatio, site: Site, memory: Memory) -> float | Tensor:
    """Sigma of a site, noted in its memory: fixed, learned, or a share of its root mean square."""
    found: float | Tensor
    if engine.levels is not None and (name := level_name(site.path)) in engine.levels.sigma:
        found = engine.levels.at(name, site_axis(site), site.clean)
    elif engine.sigma not in ("auto", *MODES):
        found = max(float(engine.sigma), engine.sigma_floor)
    else:
        size = site.clean.numel() ** -0.5 * float(torch.linalg.vector_norm(site.clean))
        found = max(memory.scale * (size or 1.0), engine.sigma_floor)
    memory.sigma = mean_level(found)
    return found
