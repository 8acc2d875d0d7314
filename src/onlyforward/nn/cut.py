"""A step without a derivative inside an ordinary autograd graph: forward as it is, backward by likelihood ratio.

`cut` takes a function to losses [b] or to outputs [b, ...]. For losses the backward pass is the likelihood ratio of the
function itself. For outputs y = fn(z) the cotangent g that autograd brings makes the losses g . fn(z + sigma eps), so
the result is the vector-Jacobian product of the smoothed function.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from onlyforward.core.checks import check_choice, check_range
from onlyforward.core.directions import direction
from onlyforward.core.errors import UsageError
from onlyforward.core.keys import Key
from onlyforward.nn.noise import SiteNoise

BASELINES = ("clean", "loo", "none", "pairs")


class CutFunction(torch.autograd.Function):
    """Forward fn(z) without a graph; backward sum_n weight_n eps_n / sigma."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, fn: Callable[[Tensor], Tensor], settings: dict[str, Any]) -> Tensor:
        """fn(z); z is kept for the backward pass."""
        ctx.fn, ctx.settings = fn, settings
        with torch.no_grad():
            out = fn(z.detach())
        if not isinstance(out, Tensor) or out.dim() == 0 or out.shape[0] != z.shape[0]:
            shape = list(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise UsageError(f"The cut function gives {shape} for {len(z)} data", "Return [b] or [b, ...]")
        ctx.save_for_backward(z.detach(), out.detach())
        return out.detach().clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """The vector-Jacobian product of the smoothed function at z."""
        z, out = ctx.saved_tensors
        with torch.no_grad():
            return estimate(ctx.fn, z, out, grads[0], **ctx.settings), None, None


def slope(surrogate: Callable[[Tensor], Tensor], z: Tensor, cotangent: Tensor) -> Tensor:
    """The surrogate's vector-Jacobian product at z: a made-up derivative, here only a control variate."""
    with torch.enable_grad():
        leaf = z.detach().requires_grad_()
        found: Tensor = torch.autograd.grad(surrogate(leaf), leaf, cotangent)[0]
    return found


def escape_score(z: Tensor, rows: Tensor, threshold: float, sigma: float) -> Tensor:
    """The score's mean given which side of the threshold each row fell on: phi(a) (s - p) / (p (1 - p) sigma).

    a = (z - threshold) / sigma, p = Phi(a), s = 1 where a row is at or above the threshold (Rao-Blackwell).
    """
    a = (z - threshold) / sigma
    density = torch.exp(-0.5 * a.square()) / math.sqrt(2 * math.pi)
    above = density / (torch.special.ndtr(a) * sigma).clamp_min(1e-30)
    below = -density / (torch.special.ndtr(-a) * sigma).clamp_min(1e-30)
    return torch.where(rows >= threshold, above, below)


def estimate(
    fn: Callable[[Tensor], Tensor],
    z: Tensor,
    out: Tensor,
    cotangent: Tensor,
    *,
    copies: int,
    sigma: float,
    noise: str,
    baseline: str,
    key: Key,
    surrogate: Callable[[Tensor], Tensor] | None = None,
    threshold: float | None = None,
) -> Tensor:
    """sum_n weight[n, b] score[n, b] with losses cotangent . fn(z + sigma eps): shape of z."""
    if not z.numel():
        return torch.zeros_like(z)
    paired = baseline == "pairs"
    drawn = copies // 2 if paired else copies
    flat = cotangent.reshape(len(z), -1)
    directions = SiteNoise(direction(noise), key, drawn, tuple(z.shape), sigma, z)
    rows = directions.added(z, slice(0, drawn), paired=paired)
    values = fn(rows.flatten(0, 1)).reshape(len(rows), len(z), -1)
    losses = (values.to(flat.dtype) * flat).sum(2)
    control = None if surrogate is None else slope(surrogate, z, cotangent)
    if control is not None:  # what the surrogate explains is taken out of the losses and added exactly below
        losses = losses - ((rows - z) * control).reshape(len(rows), len(z), -1).sum(2)
    if paired:
        weight = (losses[:drawn] - losses[drawn:]) / copies
    elif baseline == "loo":
        weight = (losses - losses.mean(0)) / (copies - 1)
    elif baseline == "clean":
        weight = (losses - (out.reshape(len(z), -1).to(flat.dtype) * flat).sum(1)) / copies
    else:
        weight = losses / copies
    if threshold is None:
        found = directions.correlate(weight.to(z.dtype))
    else:
        found = torch.einsum("nb,nb...->b...", weight.to(z.dtype), escape_score(z, rows, threshold, sigma))
    return found if control is None else found + control


def cut(
    fn: Callable[[Tensor], Tensor],
    z: Tensor,
    *,
    copies: int = 32,
    sigma: float = 0.1,
    noise: str = "gaussian",
    baseline: str = "clean",
    key: Key | None = None,
    surrogate: Callable[[Tensor], Tensor] | None = None,
    threshold: float | None = None,
) -> Tensor:
    """fn(z), with a backward pass that needs forward runs of fn alone.

    Args:
        fn: z [rows, ...] -> losses [rows] or outputs [rows, ...]; called with b rows, and with copies * b rows when
            backpropagation comes through. Rows must not interact.
        z: [b, ...].
        copies: n, perturbed runs per datum.
        sigma: noise level in units of z.
        noise: kind of noise; gaussian and laplace are exact for discontinuous functions.
        baseline: clean, loo, pairs (mirrored copies) or none.
        key: coordinates of the noise; default: drawn from torch's own generator, so that calls differ.
        surrogate: a differentiable stand-in for fn (straight-through, a soft sign). Its slope is a control variate: it
            takes variance away and leaves the estimate unbiased, however wrong it is.
        threshold: for an fn that depends on z only through z >= threshold: the score is replaced by its mean given
            that outcome (Rao-Blackwell), which has less variance. Gaussian noise only.

    Raises:
        UsageError: settings that mean nothing, or an output that is not [rows, ...].
    """
    check_range(copies, name="copies", low=2, why="one run has nothing to be compared with")
    check_range(sigma, name="sigma", low=0.0, open_low=True, why="without noise there is no signal")
    check_choice(baseline, BASELINES, name="baseline")
    direction(noise)
    if baseline == "pairs" and copies % 2:
        raise UsageError(f"copies is {copies}", "Give an even number, because copies come in mirrored pairs")
    if threshold is not None and (noise != "gaussian" or surrogate is not None or baseline == "pairs"):
        raise UsageError("A threshold needs gaussian noise, no pairs and no surrogate", "Leave one of them out")
    chosen = key if key is not None else Key(run=int(torch.randint(0, 2**31, ())), site="cut")
    settings = {"copies": copies, "sigma": sigma, "noise": noise, "baseline": baseline, "key": chosen}
    settings |= {"surrogate": surrogate, "threshold": threshold}
    result: Tensor = CutFunction.apply(z, fn, settings)  # type: ignore[no-untyped-call]
    return result


class Cut(nn.Module):
    """A module in the middle of a network that backpropagation crosses by likelihood ratio.

    Args:
        module: any function or module of rows; its own parameters are not trained through the cut.
        copies: n.
        sigma: noise level in units of the input.
        noise: kind of noise.
        baseline: see `cut`.
        surrogate: see `cut`.
        threshold: see `cut`.
        seed: run coordinate; each call takes the next step.
    """

    def __init__(
        self,
        module: Callable[[Tensor], Tensor],
        *,
        copies: int = 32,
        sigma: float = 0.1,
        noise: str = "gaussian",
        baseline: str = "clean",
        surrogate: Callable[[Tensor], Tensor] | None = None,
        threshold: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.inner = module
        self.settings = {"copies": copies, "sigma": sigma, "noise": noise, "baseline": baseline}
        self.settings |= {"surrogate": surrogate, "threshold": threshold}
        self.seed = seed
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        """The module's output."""
        key = Key(run=self.seed, step=self.calls, site="cut")
        self.calls += 1
        return cut(self.inner, x, key=key, **self.settings)  # type: ignore[arg-type]
