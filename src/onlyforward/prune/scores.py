"""Scores of single weights: ours and the criteria of the field, each name -> tensor of the weight's shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from onlyforward.prune.connect import Probe, gradients, probe, sizes

Loss = Callable[[nn.Module], Tensor]
"""Gives the loss of a module on data it holds."""


def prunable(model: nn.Module, example_inputs: Any, **options: Any) -> dict[str, Tensor]:
    """The weights in the flow of the model: at least two dimensions and on the way from input to output."""
    weights = sizes(model)
    found, _ = gradients(probe(model, example_inputs, **options), {n: torch.ones_like(w) for n, w in weights.items()})
    parameters = dict(model.named_parameters())
    return {name: parameters[name] for name in found}


def magnitude(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """|W|."""
    return {name: w.detach().abs().double() for name, w in weights.items()}


def lamp(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Layer-adaptive magnitude (arXiv 2010.07611): W^2 over the sum of the squares not smaller, per layer."""
    found = {}
    for name, w in weights.items():
        square = w.detach().double().square().flatten()
        order = square.argsort()
        tail = square[order].flip(0).cumsum(0).flip(0)
        scored = torch.empty_like(square)
        scored[order] = square[order] / tail.clamp_min(torch.finfo(torch.float64).tiny)
        found[name] = scored.view(w.shape)
    return found


def random(weights: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Uniform numbers."""
    return {name: torch.rand(w.shape, generator=generator, dtype=torch.float64) for name, w in weights.items()}


def connect(weights: Mapping[str, Tensor], slopes: Mapping[str, Tensor], kappa: float) -> dict[str, Tensor]:
    """|W|^(1 - kappa) share^kappa with share = |W| d log phi / d|W| (derived); 0 without a path.

    kappa 0 is magnitude, 1 is SynFlow up to the factor phi.
    """
    return {name: weighed(weights[name].double(), slope, kappa) for name, slope in slopes.items()}


def weighed(size: Tensor, slope: Tensor, kappa: float) -> Tensor:
    """The same of one tensor: |W| slope^kappa, any shape."""
    return size * (slope.clamp_min(0).pow_(kappa) if kappa else slope > 0)


def share(model: nn.Module, example_inputs: Any, **options: Any) -> dict[str, Tensor]:
    """Path shares of the un-normalised flow: connect with kappa 1."""
    weights = sizes(model)
    slopes, _ = gradients(probe(model, example_inputs, **options), weights)
    return connect(weights, slopes, 1.0)


def synflow(
    model: nn.Module, example_inputs: Any, keep: float, *, steps: int = 100, ignore: Sequence[str] = ()
) -> dict[str, Tensor]:
    """SynFlow's masks (arXiv 2006.05467) as scores: `steps` rounds of |W| dPhi/d|W| at density keep^(i / steps).

    A score is the round in which a weight fell, refined by its last score; batch norm counts as |gamma| alone.
    """
    how = probe(model, example_inputs, batch_norm="gamma")
    weights = sizes(model)
    slopes, _ = gradients(how, weights)
    names = [name for name in slopes if name not in ignore]
    total = sum(weights[name].numel() for name in names)
    alive = {name: torch.ones_like(weights[name]) for name in names}
    found = {name: torch.zeros_like(weights[name]) for name in names}
    for step in range(1, steps + 1):
        current = {name: w * alive.get(name, 1.0) for name, w in weights.items()}
        slopes, log = gradients(how, current)
        scored = torch.cat([(current[name] * slopes[name] * alive[name]).flatten() for name in names])
        scored = scored / scored.sum().clamp_min(torch.finfo(torch.float64).tiny)
        living = torch.cat([alive[name].flatten() for name in names])
        kept = max(1, round(total * keep ** (step / steps)))
        rank = torch.where(living > 0, scored, -torch.ones_like(scored))
        mask = torch.zeros_like(scored).index_fill_(0, rank.topk(kept).indices, 1.0)
        flat = torch.cat([found[name].flatten() for name in names])
        flat = torch.where(living > 0, (step - 1) + scored, flat)
        flat = torch.where(mask > 0, step + scored, flat)
        offset = 0
        for name in names:
            n = weights[name].numel()
            alive[name] = mask[offset : offset + n].view(weights[name].shape)
            found[name] = flat[offset : offset + n].view(weights[name].shape)
            offset += n
        if log == float("-inf"):
            break
    return found


def snip(model: nn.Module, weights: Mapping[str, Tensor], loss: Loss) -> dict[str, Tensor]:
    """|W dL/dW| (arXiv 1810.02340)."""
    slopes = torch.autograd.grad(loss(model), list(weights.values()))
    return {name: (w.detach() * g).abs().double() for (name, w), g in zip(weights.items(), slopes)}


def grasp(model: nn.Module, weights: Mapping[str, Tensor], loss: Loss) -> dict[str, Tensor]:
    """W Hg by one product with the Hessian; GraSP (arXiv 2002.07376) removes what has the largest -W Hg."""
    tensors = list(weights.values())
    slopes = torch.autograd.grad(loss(model), tensors, create_graph=True)
    inner = sum(((g * g.detach()).sum() for g in slopes), torch.zeros(()))
    products = torch.autograd.grad(inner, tensors)
    return {name: (w.detach() * h).double() for (name, w), h in zip(weights.items(), products)}


def wanda(weight: Tensor, x: Tensor) -> Tensor:
    """|W_ij| ||X_j||_2 of a linear layer (arXiv 2306.11695); x: [n, in] -> [out, in]."""
    return weight.detach().abs() * x.detach().norm(dim=0)


def coactivation(weight: Tensor, x: Tensor, gate: Tensor) -> Tensor:
    """|W_ij| sqrt(sum_n |X_jn| |G_in|) of an up-projection beside a gate; x: [n, in], gate: [n, out] (derived)."""
    return weight.detach().abs() * (F.silu(gate.detach()).abs().T @ x.detach().abs()).sqrt()


def flow_of(how: Probe, weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """D log phi / d|W| of the masked weights, also at the masked places."""
    masked = {name: w * masks[name] if name in masks else w for name, w in weights.items()}
    return gradients(how, masked, names=list(masks))[0]
