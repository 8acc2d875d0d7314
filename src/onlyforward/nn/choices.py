"""Choices that the engine makes for a site by a few pilot runs: kind and scale of the noise, pairs or single copies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, finfo, zeros

from onlyforward.core.directions import direction
from onlyforward.core.errors import UsageError
from onlyforward.core.keys import Key
from onlyforward.nn.activations import Objective, run_site
from onlyforward.nn.noise import SiteNoise
from onlyforward.nn.sites import Site
from onlyforward.nn.state import SMOOTH, THRESHOLD, Memory
from onlyforward.nn.walk import Tape

if TYPE_CHECKING:
    from onlyforward.nn.engine import LikelihoodRatio

PILOTS, RECHECK = 4, 50
"""Pilot pairs per site, and steps between pilots."""


def choose_noise(
    engine: LikelihoodRatio, tape: Tape, site: Site, objective: Objective, memory: Memory, key: Key
) -> None:
    """The kind and the automatic scale of a site's noise: does a tiny step move the losses?"""
    smooth = engine.smooth_loss is not False and is_smooth(engine, tape, site, objective, key)
    memory.scale = SMOOTH if smooth else THRESHOLD
    memory.noise = ("hadamard" if smooth else "gaussian") if engine.noise == "auto" else engine.noise
    if not smooth and not direction(memory.noise).exact and not engine.force:
        raise UsageError(
            f"{memory.noise} noise at {site.path} needs a smooth way to the loss, and a threshold follows",
            'Take noise="gaussian" or force it',
        )


def is_smooth(engine: LikelihoodRatio, tape: Tape, site: Site, objective: Objective, key: Key) -> bool:
    """Whether most losses that answer to a step of the root mean square also answer to a thousandth of it.

    Behind a threshold nearly none of them does. In half precision the small step is a few roundings instead.
    """
    size = max(float(site.clean.pow(2).mean()) ** 0.5, 1e-6)
    zero = zeros(tape.data, device=site.clean.device)
    moved = []
    for scale in (1.0, max(1e-3, 4 * finfo(site.clean.dtype).eps)):
        noise = SiteNoise(
            direction("gaussian"),
            key.at(site=f"smooth/{site.path}"),
            3,
            tuple(site.clean.shape),
            scale * size,
            site.clean,
        )
        probe = run_site(
            engine.walk, tape, site, noise, objective, zero, paired=True, stack=engine.stack, reference=engine.reference
        )
        engine.runs += probe.runs
        moved.append(int((probe.signal != probe.signal[:1]).any(0).sum()))
    return moved[1] > 0.5 * moved[0]


def choose_pairing(
    engine: LikelihoodRatio, tape: Tape, site: Site, objective: Objective, clean: Tensor, memory: Memory, key: Key
) -> None:
    """One-sided exactly where the odd part of the response outweighs the even part."""
    if engine.pairing != "auto":
        memory.paired = engine.pairing == "pairs"
        return
    noise = engine.site_noise(site, memory, key.at(site=f"pilot/{site.path}"), PILOTS)
    probe = run_site(
        engine.walk, tape, site, noise, objective, clean, paired=True, stack=engine.stack, reference=engine.reference
    )
    engine.runs += probe.runs
    plus, minus = probe.signal[:PILOTS], probe.signal[PILOTS:]
    memory.odd = float(((plus - minus) / 2).square().mean())
    memory.even = float(((plus + minus) / 2 - clean).square().mean())
    memory.paired = memory.even >= memory.odd and engine.copies % 2 == 0
