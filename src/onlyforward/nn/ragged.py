"""Copies where they help most: an allocator decides how many of a site's n b runs each datum of the batch gets.

delta_b = (1/n_b) sum over the runs of b of (L - L_b) score: unbiased for every counts n_b >= 1 that do not depend on
this step's noise (arXiv 2410.05966). Runs of one datum are independent; Hadamard and Sobol rows, which need equal
counts, are replaced by random signs and Gaussian noise.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from onlyforward.core.allocate.plan import Features, Plan
from onlyforward.core.directions import direction
from onlyforward.core.errors import Diverged, UsageError
from onlyforward.nn.activations import chunk_copies
from onlyforward.nn.choices import choose_noise
from onlyforward.nn.gradients import finite
from onlyforward.nn.layout import Layout
from onlyforward.nn.sites import Site, WeightSite
from onlyforward.nn.state import Memory
from onlyforward.nn.weights import level

if TYPE_CHECKING:
    from onlyforward.nn.engine import LikelihoodRatio
    from onlyforward.nn.state import Started

INDEPENDENT = {"hadamard": "rademacher", "sobol": "gaussian"}


def check_allocation(engine: LikelihoodRatio) -> None:
    """Refuse what runs with different counts cannot do."""
    clash = [
        name
        for name, found in (
            ("pairs", engine.pairing == "pairs"),
            (f"the baseline {engine.baseline}", engine.baseline != "clean"),
            (f"cache {engine.cache}", engine.cache != "seed"),
            ("learned noise levels", engine.levels is not None),
            ("workers", engine.group is not None),
            (f"injection {engine.injection}", engine.injection != "layer"),
        )
        if found
    ]
    if clash:
        raise UsageError(f"An allocation of copies does not go with {clash[0]}", "Leave one of the two out")


def ragged_deltas(engine: LikelihoodRatio, begun: Started) -> Iterator[tuple[Site, Tensor]]:
    """Plan the step's copies once, run them at each site: (site, cotangent [b, *site])."""
    if engine.stack or engine.position_credit is not None:
        raise UsageError("Credit masks need as many copies of every datum", "Leave the allocation out")
    features = Features(loss=begun.clean, residual=begun.residual)
    plan = engine.allocation.plan(engine.copies * begun.data, features)
    for _, site in begun.places:
        if isinstance(site, WeightSite):
            raise UsageError(f"Noise on the weights of {site.path} is shared by all data", "Leave the allocation out")
        yield site, allocated_delta(engine, begun, site, plan)


def allocated_delta(engine: LikelihoodRatio, begun: Started, site: Site, plan: Plan) -> Tensor:
    """One site's cotangent from plan.counts runs of each datum."""
    memory = engine.memory.setdefault(site.path, Memory())
    if not memory.noise:
        choose_noise(engine, begun.tape, site, begun.objective, memory, begun.key)
    memory.paired = False
    level(engine, site, memory)
    kind = direction(INDEPENDENT.get(memory.noise, memory.noise))
    delta = torch.zeros_like(site.clean)
    rows = len(plan.index)
    step = chunk_copies(begun.data, begun.objective.width, -(-rows // begun.data)) * begun.data
    for begin in range(0, rows, step):
        index = plan.index[begin : begin + step].to(site.clean.device)
        key = begun.key.at(site=f"lr/{site.path}", copy=begin)
        noise = kind.draw(key, slice(0, 1), (len(index), *site.clean.shape[1:]), site.clean)[0]
        layout = Layout("ragged", 1, begun.data, index)
        moved = site.clean[index] + memory.sigma * noise
        losses = begun.objective.row_losses(engine.walk.resume(begun.tape, site, moved, layout), index)
        if not finite(losses):
            raise Diverged(f"A loss at {site.path} is not finite in step {engine.steps}", "Lower sigma", site=site.path)
        weight = (losses - begun.clean[index]) / plan.counts.to(index.device)[index]
        score = kind.score(noise, memory.sigma)
        delta.index_add_(0, index, (weight.reshape(-1, *[1] * (score.dim() - 1)) * score).to(delta))
        engine.runs += len(index)
    return delta
