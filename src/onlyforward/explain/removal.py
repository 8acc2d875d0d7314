"""What stands where something is removed: blur, mean, zero, noise, or a user's own image."""

from __future__ import annotations

import torch
from torch import Tensor

from onlyforward.core.checks import check_choice
from onlyforward.core.keys import Key

REMOVALS = ("blur", "mean", "zero", "noise")


def blurred(x: Tensor, sigma: float | None = None) -> Tensor:
    """Gaussian blur of images [..., h, w], borders mirrored; sigma in pixels (default: a twentieth of the width)."""
    sigma = max(1.0, x.shape[-1] / 20) if sigma is None else sigma
    reach = min(int(3 * sigma) + 1, x.shape[-1] - 1, x.shape[-2] - 1)
    offsets = torch.arange(-reach, reach + 1, dtype=x.dtype)
    weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
    weights = weights / weights.sum()
    flat = x.reshape(-1, 1, *x.shape[-2:])
    padded = torch.nn.functional.pad(flat, (reach, reach, reach, reach), mode="reflect")
    rows = torch.nn.functional.conv2d(padded, weights.reshape(1, 1, 1, -1))
    return torch.nn.functional.conv2d(rows, weights.reshape(1, 1, -1, 1)).reshape(x.shape)


def removed(x: Tensor, kind: str | Tensor, *, key: Key | None = None) -> Tensor:
    """The image [c, h, w] that stands for nothing, of the shape of `x`."""
    if isinstance(kind, Tensor):
        return kind.expand_as(x)
    check_choice(kind, REMOVALS, name="removal")
    if kind == "blur":
        return blurred(x)
    if kind == "mean":
        return x.mean((-1, -2), keepdim=True).expand_as(x)
    if kind == "zero":
        return torch.zeros_like(x)
    generator = (key or Key()).at(site="removal").generator()
    low, high = float(x.min()), float(x.max())
    return torch.rand(x.shape, generator=generator, dtype=x.dtype) * (high - low) + low
