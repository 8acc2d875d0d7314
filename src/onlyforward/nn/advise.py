"""What likelihood-ratio training of a network will cost, before anything is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from onlyforward.core.checks import check_range
from onlyforward.nn.activations import LossFn
from onlyforward.nn.engine import LikelihoodRatio
from onlyforward.nn.law import needed_directions, predicted_cosine
from onlyforward.nn.pilots import FEWEST, flat_gradient, site_kappa
from onlyforward.nn.rules import NORMS
from onlyforward.nn.sites import Call, Site
from onlyforward.nn.state import Started

ROUNDS = 16
"""Independent pilot estimates per site."""
CHECKED = {8: 64, 32: 48, 128: 16}
"""Copies at which the law is compared with measurement -> independent estimates of each."""
TRUTH = 4096
"""Most copies spent on the reference gradient of a site."""


@dataclass(frozen=True)
class SiteAdvice:
    """One row of the table.

    Attributes:
        path: of the site.
        kind: type of the module.
        dimension: D, perturbed per datum.
        parameters: P of the module.
        kappa: data whose gradients add up, between 0 and b.
        noise: chosen kind of noise.
        option: where noise costs least: "activation", "channel" (a norm's scale and shift) or "weights".
        copies: n for the target cosine.
        cosine: predicted at n.
        suffix: share of the network's multiply-accumulates behind the site.
        cost: of its copies in steps of backpropagation.
        module: path of the module, for a plan.
        checks: (copies, predicted, measured) where asked for.
    """

    path: str
    kind: str
    dimension: int
    parameters: int
    kappa: float
    noise: str
    option: str
    copies: int
    cosine: float
    suffix: float
    cost: float
    module: str
    checks: tuple[tuple[int, float, float], ...] = ()


@dataclass(frozen=True)
class Advice:
    """The whole table.

    Attributes:
        sites: in forward order.
        cost_over_bp: a step with these copies over a step of backpropagation, in multiply-accumulates.
        predicted_cosine: the least of the sites.
        measured_cosine: the least measured at the copies checked nearest to those advised; NaN without a check.
        law_error: largest |predicted - measured|; NaN without a check.
        sentence: what to do.
    """

    sites: tuple[SiteAdvice, ...]
    cost_over_bp: float
    predicted_cosine: float
    measured_cosine: float
    law_error: float
    sentence: str


def advise(
    model: nn.Module,
    loss_fn: LossFn,
    inputs: Any,
    target: Any,
    target_cosine: float = 0.9,
    *,
    check: bool = False,
    seed: int = 0,
) -> Advice:
    """Measure kappa at every site with a few forward runs, and apply the law.

    Args:
        model: any module; nothing is trained.
        loss_fn: (output, target) -> losses [b].
        inputs: one batch, a tensor or a tuple.
        target: its target.
        target_cosine: asked of every site's gradient.
        check: also measure the cosine at 8, 32 and 128 copies against a reference gradient: slow.
        seed: run coordinate.

    Raises:
        UsageError: a cosine outside 0..1, or what `LikelihoodRatio` refuses.
    """
    check_range(target_cosine, name="the target cosine", low=0.0, high=0.9999, open_low=True)
    engine = LikelihoodRatio(model, copies=FEWEST, seed=seed)
    given = inputs if isinstance(inputs, tuple) else (inputs,)
    with engine.started(loss_fn, *given, target) as begun:
        rows = tuple(site_advice(engine, begun, call, site, target_cosine, check=check) for call, site in begun.places)
    forward = max(engine.costs.forward, 1.0) if engine.costs else 1.0
    pulls = sum(engine.costs.pull.values()) / forward if engine.costs else 0.0
    cost = (1.0 + pulls) / 3 + sum(row.cost for row in rows)
    errors = [abs(predicted - measured) for row in rows for _, predicted, measured in row.checks]
    nearest = [min(row.checks, key=lambda c: abs(c[0] - row.copies))[2] for row in rows if row.checks]
    return Advice(
        rows,
        cost,
        min((row.cosine for row in rows), default=1.0),
        min(nearest, default=math.nan),
        max(errors, default=math.nan),
        sentence(cost, target_cosine),
    )


def sentence(cost: float, target: float) -> str:
    """The advice in words."""
    told = f"a gradient with a cosine of {target:.2f} at every site costs about {cost:.1f} steps of backpropagation"
    if cost <= 5:
        return f"Worth it: {told}."
    return f"Use backpropagation unless something in the way has no derivative: {told}."


def site_advice(
    engine: LikelihoodRatio, begun: Started, call: Call, site: Site, target: float, *, check: bool
) -> SiteAdvice:
    """Pilot estimates at one site, its kappa and the copies that reach the target."""
    engine.probe(begun.tape, call, site, begun.objective, begun.clean, begun.key)  # chooses noise, sigma and pairing
    memory = engine.memory[site.path]
    paired = bool(memory.paired)
    dimension = site.clean[0].numel()
    per_direction = 2 if paired else 1
    kappa = site_kappa(engine, begun, site, rounds=ROUNDS)
    directions = needed_directions(memory.noise, dimension, kappa, target)
    parameters = sum(p.numel() for p in call.module.parameters())
    costs = engine.costs
    assert costs is not None
    behind = costs.suffix[site.path] / max(costs.forward, 1.0)
    own = costs.pull[site.path] / max(costs.forward, 1.0)
    copies, option, price = directions * per_direction, "activation", directions * per_direction * behind / 3
    if isinstance(call.module, NORMS) and call.module.weight is not None and not site.shared:
        # One scale and one shift a channel, per datum: D = 2C. Kappa is taken to be that of the activations.
        narrow = needed_directions(memory.noise, 2 * call.module.weight.numel(), kappa, target) * per_direction
        if narrow < copies:
            copies, option, price = narrow, "channel", narrow * behind / 3
    shared = needed_directions("gaussian", max(parameters, 1), 1.0, target) * per_direction
    if not site.shared and shared * (behind + own) / 3 < price:
        copies, option, price = shared, "weights", shared * (behind + own) / 3
    predicted = predicted_cosine(memory.noise, dimension, directions, kappa) if option == "activation" else target
    checks = checked(engine, begun, site, dimension, kappa, paired=paired) if check else ()
    return SiteAdvice(
        site.path,
        type(call.module).__name__,
        dimension,
        parameters,
        kappa,
        memory.noise,
        option,
        copies,
        predicted,
        behind,
        price,
        call.path.partition("#")[0],
        checks,
    )


def checked(
    engine: LikelihoodRatio, begun: Started, site: Site, dimension: int, kappa: float, *, paired: bool
) -> tuple[tuple[int, float, float], ...]:
    """Predicted and measured cosine at some numbers of copies; measured against a nearly exact gradient."""
    noise = engine.memory[site.path].noise
    width = 1 << max(0, dimension - 1).bit_length()
    truth = flat_gradient(engine, begun, site, min(2 * width, TRUTH), "truth", kind="hadamard", paired=True)
    rows = []
    for copies, draws in CHECKED.items():
        found = torch.stack([flat_gradient(engine, begun, site, copies, f"check{copies}/{k}") for k in range(draws)])
        # The ratio of means is what the law speaks of; single cosines of short estimates scatter widely around it.
        measured = float((found @ truth).mean() / (truth.norm() * found.square().sum(1).mean().sqrt()))
        directions = copies // 2 if paired else copies
        rows.append((copies, predicted_cosine(noise, dimension, directions, kappa), measured))
    return tuple(rows)
