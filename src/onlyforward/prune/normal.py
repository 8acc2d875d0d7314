"""Normalised sizes as single operations of autograd: the measure meets two at every layer."""

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


class Gain(torch.autograd.Function):
    """x gain per channel, gain = |gamma| root / mean(|gamma| root): what a batch norm does to the flow.

    x: [b, c, ...], gamma and root: [c]; root gets no gradient. With s = 1 / mean(|gamma| root) and h = sum of g x over
    all but channels, for the gradient g of the result: dL/dx = g gain and
    dL/dgamma = sign(gamma) root s (h - <h, gain> / c).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, root: Tensor) -> Tensor:
        """-> [b, c, ...]."""
        gain = gamma.abs() * root
        mean = float(gain.mean())
        ctx.scale = 1.0 / mean if mean > 0 else 0.0
        gain.mul_(ctx.scale)
        ctx.save_for_backward(x, gamma, root, gain)
        return x * gain.view(-1, *(1,) * (x.ndim - 2))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        """The gradients of x and gamma."""
        x, gamma, root, gain = ctx.saved_tensors
        (g,) = gradients
        scale = ctx.scale
        if torch.is_grad_enabled() and scale > 0:
            # Second derivatives need the gain as a function of gamma.
            scale = 1 / (gamma.abs() * root).mean()
            gain = gamma.abs() * root * scale
        h = (g * x).sum([k for k in range(x.ndim) if k != 1])
        inner = (h - torch.dot(h, gain) / len(h)) * (gamma.sign() * root * scale)
        return g * gain.view(-1, *(1,) * (x.ndim - 2)), inner, None
