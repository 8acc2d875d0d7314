"""Corruptions of images: noise, blur, contrast, JPEG and rotation at five severities, and more by physical amount."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from math import pi
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from onlyforward.core.checks import check_choice, check_range, check_shape, require
from onlyforward.core.keys import Key

if TYPE_CHECKING:
    from torch import Tensor

SEVERITIES: Mapping[str, tuple[float, ...]] = {
    "gaussian": (0.04, 0.08, 0.12, 0.18, 0.26),
    "blur": (0.4, 0.6, 0.8, 1.1, 1.5),
    "contrast": (0.75, 0.6, 0.45, 0.3, 0.2),
    "jpeg": (60, 40, 25, 15, 8),
    "rotate": (10, 20, 30, 45, 60),
}
"""Kind -> amount at severity 1..5: standard deviation of pixels; of the kernel in pixels; factor; quality; degrees."""


def corrupt(x: Tensor, kind: str, severity: float, *, key: Key) -> Tensor:
    """Corrupted images, clipped to 0..1.

    Args:
        x: images in 0..1, [b, channels, height, width], 1 or 3 channels.
        kind: gaussian, blur, contrast, jpeg, rotate, or none.
        severity: 1 to 5, read from SEVERITIES with linear interpolation; below 1 it runs linearly to no corruption.
        key: names the noise; only `gaussian` draws any.

    Returns:
        A new tensor of the same shape.
    """
    if kind == "none":
        return x.clone()
    check_choice(kind, SEVERITIES, name="corruption")
    check_range(severity, name="severity", low=0.0, high=5.0)
    return apply(x, kind, amount(kind, severity), key=key)


def amount(kind: str, severity: float) -> float:
    """The physical amount at a severity."""
    none = {"gaussian": 0.0, "blur": 0.0, "contrast": 1.0, "jpeg": 95.0, "rotate": 0.0}[kind]
    return float(np.interp(severity, range(6), (none, *SEVERITIES[kind])))


def apply(x: Tensor, kind: str, value: float, *, key: Key) -> Tensor:
    """Corrupt by a physical amount.

    gaussian: standard deviation; blur: of the kernel in pixels; contrast: factor; jpeg: quality; rotate: degrees;
    translate: pixels to the right and down; scale: factor of size; gamma: exponent; invert: share of the negative;
    patch: side of a white square in pixels.
    """
    check_shape(x, "b c h w", name="images")
    kinds: Mapping[str, Callable[[], Tensor]] = {
        "gaussian": lambda: x + value * torch.randn(x.shape, generator=key.generator()).to(x),
        "blur": lambda: blur(x, value),
        "contrast": lambda: x.mean((1, 2, 3), keepdim=True) * (1 - value) + x * value,
        "jpeg": lambda: jpeg(x, round(value)),
        "rotate": lambda: rotate(x, value),
        "translate": lambda: translate(x, value),
        "scale": lambda: zoom(x, value),
        "gamma": lambda: x.clamp(0, 1) ** check_range(value, name="gamma", low=0.0, open_low=True),
        "invert": lambda: x * (1 - value) + (1 - x) * value,
        "patch": lambda: patch(x, round(value)),
    }
    return kinds[check_choice(kind, kinds, name="corruption")]().clamp(0, 1)


def blur(x: Tensor, width: float) -> Tensor:
    """Gaussian blur with a kernel of standard deviation `width` pixels; edges repeat."""
    if width <= 0:
        return x.clone()
    radius = min(max(1, round(3 * width)), min(x.shape[2:]) - 1)
    offsets = torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device)
    kernel = torch.exp(-0.5 * (offsets / width) ** 2)
    kernel = (kernel / kernel.sum()).expand(x.shape[1], 1, -1)
    padded = F.pad(x, (radius,) * 4, mode="replicate")
    across = F.conv2d(padded, kernel[:, :, None, :], groups=x.shape[1])
    return F.conv2d(across, kernel[:, :, :, None], groups=x.shape[1])


def rotate(x: Tensor, degrees: float | Tensor) -> Tensor:
    """Rotation about the centre, counter-clockwise, bilinear, zeros outside.

    Args:
        x: [b, c, h, w].
        degrees: one angle, or one per image [b].
    """
    turn = torch.as_tensor(degrees, dtype=x.dtype, device=x.device).expand(len(x)) * (pi / 180)
    c, s, zero = turn.cos(), turn.sin(), torch.zeros_like(turn)
    height, width = x.shape[2:]
    # The grid is in units of half the height and half the width: the ratio keeps pixels square.
    matrix = torch.stack(
        [torch.stack([c, -s * (height / width), zero], 1), torch.stack([s * (width / height), c, zero], 1)], 1
    )
    return F.grid_sample(x, F.affine_grid(matrix, list(x.shape), align_corners=False), align_corners=False)


def warped(x: Tensor, matrix: Tensor) -> Tensor:
    """Images under one 2x3 matrix of the sampling grid, bilinear, zeros outside."""
    grid = F.affine_grid(matrix.to(x).expand(len(x), 2, 3), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


def translate(x: Tensor, pixels: float) -> Tensor:
    """Moved to the right and down by so many pixels."""
    height, width = x.shape[2:]
    return warped(x, torch.tensor([[1.0, 0.0, -2 * pixels / width], [0.0, 1.0, -2 * pixels / height]]))


def zoom(x: Tensor, factor: float) -> Tensor:
    """Shrunk (factor below 1) or enlarged about the centre."""
    check_range(factor, name="scale", low=0.0, open_low=True)
    return warped(x, torch.tensor([[1 / factor, 0.0, 0.0], [0.0, 1 / factor, 0.0]]))


def patch(x: Tensor, side: int) -> Tensor:
    """A white square, a banner or a stain, whose corner lies an eighth of the image from the upper left."""
    stained = x.clone()
    top, left = x.shape[2] // 8, x.shape[3] // 8
    stained[:, :, top : top + side, left : left + side] = 1.0
    return stained


def jpeg(x: Tensor, quality: int) -> Tensor:
    """Each image through JPEG at this quality."""
    image = require("PIL.Image", "data")
    pixels = (x.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    rows = []
    for row in pixels:
        buffer = io.BytesIO()
        image.fromarray(row.squeeze(2) if row.shape[2] == 1 else row).save(buffer, "JPEG", quality=quality)
        rows.append(np.asarray(image.open(buffer)).reshape(row.shape))
    return torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2).to(x) / 255
