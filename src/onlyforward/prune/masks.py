"""Masks that never cut a network: iterated scores, protected best paths, no kept weight without a path (derived)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from typing import Any

import torch
from torch import Tensor, nn

from onlyforward.core.checks import check_choice, check_range
from onlyforward.core.errors import Diverged, UsageError
from onlyforward.prune import scores, tropical
from onlyforward.prune.connect import Probe, gradients, live_flags, probe, sizes
from onlyforward.prune.quotas import Quotas, Survivors

Masks = dict[str, Tensor]
SCOPES = ("global", "layer", "erk")
ROUNDS = 10


def safe_masks(
    model: nn.Module,
    example_inputs: Any,
    sparsity: float,
    *,
    kappa: float = 0.5,
    steps: int = 50,
    scope: str = "global",
    ignore: Sequence[str] = (),
    n_m: tuple[int, int] | None = None,
    start: Mapping[str, Tensor] | None = None,
    **options: Any,
) -> Masks:
    """Masks with exactly round((1 - sparsity) M) of M weights, every output reachable and every kept weight on a path.

    The score is |W|^(1 - kappa) share^kappa, recomputed on the masked weights while the density falls geometrically in
    `steps`. The best max-product path to every output is always kept; what has no path gives its place to the next best
    weight that has one.

    Args:
        model: any module; not changed.
        example_inputs: one example.
        sparsity: fraction of the weights to remove, in [0, 1).
        kappa: 0 is magnitude, 1 is SynFlow on these weights.
        steps: rounds.
        scope: "global"; "layer" keeps the same fraction everywhere; "erk" the Erdos-Renyi-kernel fractions.
        ignore: patterns of parameter names that stay whole and are not counted.
        n_m: keep n of every m consecutive inputs instead (sparsity is then 1 - n / m).
        start: masks to go on from: what they remove stays removed.
        options: of the probe, such as kwargs and rules.

    Raises:
        UsageError: a sparsity outside [0, 1), or above the largest that leaves every output reachable (it is named).
        Diverged: a weight is not finite.
    """
    check_choice(scope, SCOPES, name="scope")
    if n_m is not None:
        sparsity = check_pattern(*n_m)
    if not 0 <= sparsity < 1:
        raise UsageError(f"The sparsity is {sparsity}", "Give a fraction of at least 0 and below 1")
    check_range(kappa, name="kappa", low=0.0, high=1.0)
    check_range(steps, name="steps", low=1)
    how, weights, slopes = prepare(model, example_inputs, ignore, options, start)
    names = list(slopes)
    if n_m is not None:
        return patterned(how, weights, slopes, kappa, n_m)
    total = sum(weights[name].numel() for name in names)
    budget = round((1 - sparsity) * total)
    kept = protected(how, weights, names, budget, total)
    quotas = Quotas(weights, names, scope, kept)
    living = Survivors(weights, quotas, kept)
    for step in range(1, steps):
        living.cut(slopes, kappa, max(budget, round(total * (1 - sparsity) ** (step / steps))))
        slopes, _ = gradients(how, living.weights, names=names)
    masks = quotas.choose(scores.connect(living.weights, slopes, kappa), kept, budget)
    return {name: mask.bool() for name, mask in revive(how, weights, masks, kept, kappa, quotas, budget).items()}


def prepare(
    model: nn.Module,
    example_inputs: Any,
    ignore: Sequence[str],
    options: Mapping[str, Any],
    start: Mapping[str, Tensor] | None = None,
) -> tuple[Probe, dict[str, Tensor], dict[str, Tensor]]:
    """The probe, |W| of every parameter in float64 (0 where `start` is), and d log phi / d|W| of what may be pruned."""
    weights = sizes(model)
    for name, w in weights.items():
        if not bool(w.isfinite().all()):
            raise Diverged(f"The weights {name!r} hold a NaN or an infinity", "Load sound weights")
    how = probe(model, example_inputs, **options)
    weights |= {name: weights[name] * mask for name, mask in (start or {}).items()}
    slopes, log = gradients(how, weights)
    if math.isinf(log):
        # A network without a path does not say what its weights are; one of ones does.
        found, _ = gradients(how, {name: torch.ones_like(w) for name, w in weights.items()})
        slopes = {name: torch.zeros_like(weights[name]) for name in found}
    slopes = {n: slope for n, slope in slopes.items() if not any(fnmatch(n, pattern) for pattern in ignore)}
    if not slopes:
        raise UsageError("No weight is left to prune", "Ignore fewer names")
    return how, weights, slopes


def protected(
    how: Probe, weights: Mapping[str, Tensor], names: Sequence[str], budget: int, total: int
) -> dict[str, Tensor]:
    """Flags of the best paths to every output, or of a small tree where the budget cannot hold them.

    Raises:
        UsageError: even the tree does not fit.
    """
    best = tropical.support(how, weights)
    kept = {name: best[name] for name in names}
    if tropical.count(kept) > budget:
        grown = tropical.tree(how, weights)
        kept = {name: grown[name] for name in names}
        least = tropical.count(kept)
        if least > budget:
            outputs = tropical.reached(how, weights)
            # Rounded down to what a user can type; one weight more than the least would do as well.
            largest = int((1 - least / total) * 1e6) / 1e6
            raise UsageError(
                f"At least {least} of {total} weights must stay for the {outputs} outputs to be reachable",
                f"The largest sparsity is {largest:.6f}",
            )
    return kept


def minimum_weights(model: nn.Module, example_inputs: Any, *, ignore: Sequence[str] = (), **options: Any) -> int:
    """How many weights the greedy tree needs to reach every output (an upper bound of the true minimum)."""
    how, weights, slopes = prepare(model, example_inputs, ignore, options)
    grown = tropical.tree(how, weights)
    best = tropical.support(how, weights)
    return min(tropical.count({n: grown[n] for n in slopes}), tropical.count({n: best[n] for n in slopes}))


def revive(
    how: Probe,
    weights: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    kept: Mapping[str, Tensor],
    kappa: float,
    quotas: Quotas,
    budget: int,
) -> dict[str, Tensor]:
    """Give the places of kept weights without a path to the next best ones that have one."""
    masks = dict(masks)
    for _ in range(ROUNDS):
        current = {name: w * masks[name] if name in masks else w for name, w in weights.items()}
        flags, _ = live_flags(how, current)
        alive = {name: flags[name].double() for name in masks}
        if all(bool((masks[name] == alive[name]).all()) for name in masks):
            break
        slopes = scores.flow_of(how, weights, alive)
        candidates = scores.connect(weights, slopes, kappa)
        # Living weights first, then what would live at once, then the old places, so that the count stays exact.
        top = max(float(score.max()) for score in candidates.values()) or 1.0
        ranked = {
            name: torch.where(
                alive[name] > 0,
                3.0 + candidates[name] / top,
                torch.where(candidates[name] > 0, 1.0 + candidates[name] / top, masks[name] * weights[name] * 1e-12),
            )
            for name in masks
        }
        before, masks = masks, quotas.choose(ranked, kept, budget)
        # What was taken for having a path keeps it, since nothing alive was given up.
        sound = all(bool((ranked[name][masks[name] > 0] >= 1).all()) for name in masks)
        if sound or all(bool((masks[name] == before[name]).all()) for name in masks):
            break
    return masks


def check_pattern(n: int, m: int) -> float:
    """The sparsity 1 - n / m of a pattern.

    Raises:
        UsageError: it keeps nothing or everything.
    """
    if not 0 < n < m:
        raise UsageError(f"The pattern {n}:{m} keeps no part of a group", "Give for instance --n-m 2 4")
    return 1 - n / m


def patterned(
    how: Probe, weights: Mapping[str, Tensor], slopes: Mapping[str, Tensor], kappa: float, n_m: tuple[int, int]
) -> Masks:
    """N of every m consecutive inputs by score, protected paths first.

    Raises:
        UsageError: a pattern that cannot be; an input width that m does not divide; a pattern that cuts an output off.
    """
    n, m = n_m
    fitting = [name for name in slopes if weights[name].flatten(1).shape[1] % m == 0]
    if not fitting:
        raise UsageError(f"No layer has a number of inputs that {m} divides", "Take a smaller m")
    scored = scores.connect(weights, slopes, kappa)
    best = tropical.support(how, weights)
    masks: Masks = {name: torch.ones_like(weights[name], dtype=torch.bool) for name in slopes}
    for name in fitting:
        ranked = Quotas.ranked(scored, best, name).view(-1, m)
        flags = torch.zeros_like(ranked, dtype=torch.bool).scatter_(1, ranked.topk(n, dim=1).indices, True)
        masks[name] = flags.view(weights[name].shape)
    current = {name: w * masks[name] if name in masks else w for name, w in weights.items()}
    if tropical.reached(how, current) < tropical.reached(how, weights):
        raise UsageError(f"The pattern {n}:{m} cuts an output off", "Keep more of each group")
    return masks


def plain_masks(scored: Mapping[str, Tensor], sparsity: float) -> Masks:
    """The best round((1 - sparsity) M) scores, whatever they cut: what unguarded criteria do."""
    flat = torch.cat([score.flatten() for score in scored.values()])
    kept = round((1 - sparsity) * len(flat))
    mask = torch.zeros(len(flat), dtype=torch.bool).index_fill_(0, flat.topk(kept).indices, True)
    parts = mask.split([score.numel() for score in scored.values()])
    return {name: part.view(score.shape) for (name, score), part in zip(scored.items(), parts)}


def apply_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Zero the weights that the masks remove, in place."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in masks:
                parameter.mul_(masks[name].to(parameter.dtype))
