"""Noise at many sites in the same runs: all of a network's (`injection="all"`), or all of a block's ("block").

A step then costs n runs per group of sites instead of n per site, and the perturbed dimension D is the sum of theirs.
Behind its first site a run feeds perturbed inputs to every later module, so local rules take all n b rows: the
estimate is a likelihood ratio at every sigma, as with one site at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from onlyforward.core.checks import check_choice
from onlyforward.core.errors import Diverged, UsageError
from onlyforward.nn.activations import SiteProbe
from onlyforward.nn.choices import choose_noise
from onlyforward.nn.gradients import finite
from onlyforward.nn.layout import Layout
from onlyforward.nn.noise import SiteNoise
from onlyforward.nn.recurrent import record_steps, step_sites
from onlyforward.nn.sites import RECURRENT, Call, Site
from onlyforward.nn.state import Memory
from onlyforward.nn.units import sites_of
from onlyforward.nn.walk import Masks, expanded, patched

if TYPE_CHECKING:
    from onlyforward.nn.engine import LikelihoodRatio
    from onlyforward.nn.state import Started

INJECTIONS = ("layer", "block", "all")
Place = tuple[Call, Site]


def check_injection(engine: LikelihoodRatio, injection: str) -> str:
    """The name, or why it does not go with the engine's other settings."""
    check_choice(injection, INJECTIONS, name="injection")
    if injection == "layer":
        return injection
    kinds = {"bp", "weights"}.intersection(engine.plan.values())
    clash = (
        f"the plan's {min(kinds)}"
        if kinds
        else f"cache {engine.cache}"
        if engine.cache != "seed"
        else "local flow"
        if engine.flow == "local"
        else "workers"
        if engine.group is not None
        else "learned noise levels"
        if engine.levels is not None
        else ""
    )
    if clash:
        raise UsageError(f"injection {injection} does not go with {clash}", "Take injection layer")
    return injection


def block_of(path: str) -> str:
    """The module that holds a unit; a unit at the top is a block of its own."""
    path = path.partition("#")[0]
    return path.rpartition(".")[0] or path


def groups(injection: str, places: Sequence[Place]) -> list[list[Place]]:
    """Sites that are perturbed together, in forward order."""
    if injection == "all":
        return [list(places)] if places else []
    return [list(group) for _, group in groupby(places, key=lambda place: block_of(place[0].path))]


def joint_deltas(engine: LikelihoodRatio, begun: Started) -> Iterator[tuple[Site, Tensor]]:
    """Run each group's copies: (site of the perturbed run, its cotangent [n b, *site])."""
    if engine.stack or engine.position_credit is not None:
        raise UsageError("Credit masks need noise at one site at a time", "Take injection layer")
    found = groups(engine.injection, list(begun.places))
    engine.leads = tuple(group[0][1].path for group in found)
    for group in found:
        yield from Group(engine, begun, group).deltas()


class Group:
    """One group of sites in one step.

    Args:
        engine: the likelihood ratio.
        begun: the step after its clean run.
        places: calls and sites of the clean run.
    """

    def __init__(self, engine: LikelihoodRatio, begun: Started, places: Sequence[Place]) -> None:
        self.engine, self.begun = engine, begun
        self.paired = engine.pairing != "single" and engine.copies % 2 == 0
        drawn = engine.copies // 2 if self.paired else engine.copies
        self.noises = {site.path: self.noise(site, drawn) for _, site in places}
        self.first = places[0][0]
        self.layout = Layout("rows", engine.copies, begun.data)
        self.noisy: list[Site] = []

    def noise(self, site: Site, drawn: int) -> tuple[SiteNoise, Tensor]:
        """A site's directions and sigma eps of all copies [n b, *site]."""
        engine, begun = self.engine, self.begun
        memory = engine.memory.setdefault(site.path, Memory())
        if not memory.noise:
            choose_noise(engine, begun.tape, site, begun.objective, memory, begun.key)
        memory.paired = self.paired
        made = engine.site_noise(site, memory, begun.key.at(site=f"lr/{site.path}"), drawn)
        zeros = torch.zeros_like(site.clean)
        return made, made.added(zeros, slice(0, drawn), paired=self.paired).flatten(0, 1)

    def deltas(self) -> Iterator[tuple[Site, Tensor]]:
        """Cotangents of every site in the perturbed run, weights included."""
        engine, begun = self.engine, self.begun
        signal = begun.objective.losses(self.run(), engine.copies, begun.data)
        if not finite(signal):
            raise Diverged(f"A loss is not finite in step {engine.steps}", "Lower sigma", step=engine.steps)
        engine.runs += signal.numel()
        for site in self.noisy:
            noise, added = self.noises[site.path]
            # Each run is weighed by its own loss: its inputs are its own, so a mirrored loss would bias it.
            weight = engine.weights(SiteProbe(site, noise, signal, begun.clean, False, signal.numel()))
            score = noise.direction.score(added / noise.sigma, noise.sigma)
            yield site, weight.reshape(-1, *[1] * (score.dim() - 1)) * score

    def run(self) -> Any:
        """The output [n b, ...] of the network with noise at every site of the group."""
        walk, tape = self.engine.walk, self.begun.tape
        begin = self.first.part
        value: tuple[Any, ...] = self.layout.expand(tape.inputs[begin])
        for index in range(begin, len(walk.parts)):
            part = walk.parts[index]
            recorded = [call for call in tape.calls if call.part == index]
            turn = iter(recorded)
            with patched(part, lambda *called, turn=turn: self.unit(next(turn), *called), Masks(tape, self.layout)):
                value = (part.module(*value),)
        return value[0]

    def unit(
        self, clean: Call, path: str, module: Any, forward: Any, inputs: tuple[Any, ...], named: dict[str, Any]
    ) -> Any:
        """A unit's turn: from the record before the group, perturbed within it, as it is behind it."""
        if (clean.part, clean.order) < (self.first.part, self.first.order):
            return expanded(clean, self.layout)
        call = Call(clean.path, module, inputs, named, None, clean.part, clean.order)
        if type(module) in RECURRENT:
            call.output = record_steps(call, disturb=self.disturbed)
            self.noisy += [site for site in step_sites(call) if site.path in self.noises]
            return call.output
        call.output = out = forward(*inputs, **named)
        alone = Layout("alone", 1, len(inputs[0]))
        for site in sites_of(call, self.engine.kind_of(path)):
            if site.path in self.noises:
                out = site.outcome(site.clean + self.noises[site.path][1], alone)
                self.noisy.append(site)
        return out

    def disturbed(self, site: str, u: Tensor) -> Tensor:
        """A gate pre-activation with its noise, if its step is in the group."""
        return u + self.noises[site][1] if site in self.noises else u
