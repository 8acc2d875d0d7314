"""Ask and tell: the network runs here, the losses are made elsewhere (a simulator, a person, another process).

`engine.ask(*inputs)` gives the outputs of the clean run and of every perturbed copy; `engine.tell(losses)` takes one
loss per output row, in the same order, and fills `p.grad`. The engine sees no loss function, so nothing is assumed of
it: no exact head, Gaussian noise and mirrored pairs unless the user says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from onlyforward.core.checks import check_shape
from onlyforward.core.directions import direction
from onlyforward.core.errors import Diverged, UsageError
from onlyforward.core.keys import Key
from onlyforward.nn.activations import SiteProbe
from onlyforward.nn.gradients import deposit, finite, quiet, take
from onlyforward.nn.layout import Layout
from onlyforward.nn.noise import SiteNoise
from onlyforward.nn.sites import Site
from onlyforward.nn.state import SMOOTH, THRESHOLD, Memory
from onlyforward.nn.walk import check_modes

if TYPE_CHECKING:
    from onlyforward.nn.engine import LikelihoodRatio


@dataclass(frozen=True)
class Asked:
    """Runs whose losses are wanted.

    Attributes:
        outputs: [R, ...], what the network gave: b clean rows, then the copies of each site.
        index: [R] int64, the datum of each row.
        places: (site, its noise, whether its copies are mirrored) in the order of the rows.
    """

    outputs: Tensor
    index: Tensor
    places: tuple[tuple[Site, SiteNoise, bool], ...]


def ask(engine: LikelihoodRatio, inputs: tuple[Any, ...]) -> Asked:
    """Run the clean network and all copies of all sites.

    Raises:
        UsageError: a plan with backpropagation, noise at many sites at once, or data that interact.
    """
    clash = {"bp", "exact"}.intersection(engine.plan.values())
    if clash or engine.injection != "layer" or engine.allocation is not None or engine.cache != "seed":
        raise UsageError("ask and tell need noise at one site at a time and no graph", "Use backward instead")
    check_modes(engine.walk.watched)
    key = Key(run=engine.seed, step=engine.steps, site="lr")
    engine.smooth_loss = False
    with quiet():
        tape = engine.walk.record(inputs, key)
        if engine.steps == 0:
            engine.look(tape)
        if engine.stack or not isinstance(tape.output, Tensor):
            raise UsageError("ask needs one output tensor whose rows do not interact", "Use backward instead")
        outputs, places = [tape.output], []
        for _, site in engine.sites(tape):
            memory = engine.memory.setdefault(site.path, Memory(dimension=site.clean[0].numel()))
            memory.noise = memory.noise or ("gaussian" if engine.noise == "auto" else engine.noise)
            memory.scale = THRESHOLD if direction(memory.noise).exact else SMOOTH
            memory.paired = engine.pairing != "single" and engine.copies % 2 == 0
            drawn = engine.copies // 2 if memory.paired else engine.copies
            noise = engine.site_noise(site, memory, key.at(site=f"lr/{site.path}"), drawn)
            rows = noise.added(site.clean, slice(0, drawn), paired=memory.paired)
            outputs.append(engine.walk.resume(tape, site, rows, Layout("rows", engine.copies, tape.data)))
            places.append((site, noise, memory.paired))
    engine.data = tape.data
    index = torch.arange(tape.data).repeat(1 + engine.copies * len(places))
    return Asked(torch.cat(outputs), index, tuple(places))


def tell(engine: LikelihoodRatio, asked: Asked, losses: Tensor) -> Tensor:
    """Fill `p.grad` from the losses [R] of what was asked; returns the mean clean loss.

    Raises:
        UsageError: losses of another shape.
        Diverged: a loss is not finite.
    """
    check_shape(losses, "rows", name="losses", rows=len(asked.index))
    if not finite(losses):
        raise Diverged(f"A loss told in step {engine.steps} is not finite", "Leave the step out", step=engine.steps)
    data, found = engine.data, dict[nn.Parameter, Tensor]()
    exact = torch.float64 if asked.outputs.dtype == torch.float64 else torch.float32
    told = losses.detach().to(asked.outputs.device, exact).reshape(-1, data)
    clean, *signals = told.split([1, *[engine.copies] * len(asked.places)])
    with torch.no_grad():
        for (site, noise, paired), signal in zip(asked.places, signals, strict=True):
            probe = SiteProbe(site, noise, signal, clean[0], paired, signal.numel())
            take(engine, site, probe.delta(engine.weights(probe)), found, data)
    deposit(engine, found)
    engine.runs += len(losses)
    engine.steps += 1
    return clean.mean()
