"""The normalised size of a weight as a single operation of autograd, as the measure meets one at every layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Normal(torch.autograd.Function):
    """|W| / (fan mean |W|), any shape; the derivative at W = 0 is 0, so that what is pruned stays pruned.

    With c = 1 / (fan mean |W|), theta = c |W| and N entries, dL/dW = sign(W) c (g - fan <g, theta> / N) for the
    gradient g of theta. Layers that are zero everywhere give zero and pass no gradient.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, fan: float) -> Tensor:
        """W -> theta of the same shape."""
        size = weight.abs()
        mean = float(size.mean()) if size.numel() else 0.0
        ctx.scale = 1.0 / (mean * fan) if mean > 0 else 0.0
        ctx.fan = fan
        theta = size.mul_(ctx.scale)
        ctx.save_for_backward(weight, theta)
        return theta

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """The gradient of W."""
        weight, theta = ctx.saved_tensors
        (g,) = gradients
        # Second derivatives need the scale as a function of W.
        differentiable = torch.is_grad_enabled() and ctx.scale > 0
        scale = 1 / (weight.abs().mean() * ctx.fan) if differentiable else ctx.scale
        along = torch.dot(g.flatten(), theta.flatten()) * (ctx.fan / theta.numel())
        return (g - along) * (weight.sign() * scale), None
