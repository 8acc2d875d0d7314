"""A prompt that depends on the image: a small convolutional encoder whose weights are the coordinates.

The idea of BlackVIP, arXiv 2303.14773.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from onlyforward.core.keys import Key

WIDTHS = (8, 12)
"""Channels of the two encoder layers."""


@dataclass(frozen=True)
class Coordinator:
    """Two strided 3x3 convolutions with rectifiers, a third back to the image's channels, upsampled and added.

    The last layer starts at zero, so that the start changes nothing; fewer than 4,000 weights.

    Attributes:
        shape: of an image.
    """

    shape: tuple[int, int, int]

    @property
    def layers(self) -> tuple[tuple[int, int], ...]:
        """Channels in and out of each layer."""
        channels = self.shape[0]
        return ((channels, WIDTHS[0]), (WIDTHS[0], WIDTHS[1]), (WIDTHS[1], channels))

    @property
    def start(self) -> Tensor:
        """He-scaled weights of the encoder, zero biases, and a zero last layer."""
        generator = Key(site="tune/coordinator").generator()
        parts = []
        for number, (a, b) in enumerate(self.layers):
            scale = 0.0 if number == len(self.layers) - 1 else (2 / (9 * a)) ** 0.5
            parts += [torch.randn(b * a * 9, generator=generator, dtype=torch.float64) * scale]
            parts += [torch.zeros(b, dtype=torch.float64)]
        return torch.cat(parts)

    def __call__(self, x: Tensor, theta: Tensor) -> Tensor:
        """Images [n, c, h, w], each through weights of its own [n, k]: one grouped convolution a layer."""
        n, hidden, first = len(x), x, 0
        t = theta.to(x.dtype)
        for number, (a, b) in enumerate(self.layers):
            weight = t[:, first : first + b * a * 9].reshape(n * b, a, 3, 3)
            bias = t[:, first + b * a * 9 : first + b * a * 9 + b].reshape(n * b)
            first += b * a * 9 + b
            stride = 1 if number == len(self.layers) - 1 else 2
            height, width = hidden.shape[2:]
            out = F.conv2d(hidden.reshape(1, n * a, height, width), weight, bias, stride, 1, groups=n)
            hidden = out.reshape(n, b, *out.shape[2:])
            if stride == 2:
                hidden = hidden.relu()
        return x + F.interpolate(hidden, size=self.shape[1:], mode="bilinear", align_corners=False)
