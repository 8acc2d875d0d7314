"""What is put before a closed image model: maps from a few coordinates to changed images, the identity at the start."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from onlyforward.core.checks import check_choice
from onlyforward.core.errors import UsageError
from onlyforward.core.keys import Key

Shape = tuple[int, int, int]
"""Channels, height, width."""


class Adapter(Protocol):
    """A map of images.

    Attributes:
        start: [k], the coordinates of the identity.
    """

    @property
    def start(self) -> Tensor:
        """The coordinates of the identity [k]."""
        ...

    def __call__(self, x: Tensor, theta: Tensor) -> Tensor:
        """Images [n, c, h, w] in 0..1, each with coordinates of its own [n, k] -> images."""
        ...


@dataclass(frozen=True)
class Affine:
    """A 2x3 warp, gain and offset: (I + D) grid, (1 + gain) x + offset; `colour` mixes channels instead of the gain.

    Attributes:
        shape: of an image.
        colour: a 3x3 matrix and 3 offsets in place of gain and offset.
    """

    shape: Shape
    colour: bool = False

    @property
    def start(self) -> Tensor:
        """Zeros: [8], or [18] with colours."""
        channels = self.shape[0]
        return torch.zeros(6 + (channels * channels + channels if self.colour else 2), dtype=torch.float64)

    def __call__(self, x: Tensor, theta: Tensor) -> Tensor:
        """Warped and scaled images; zeros come in from outside, as in a rotation about the centre."""
        t = theta.to(x.dtype)
        height, width = self.shape[1:]
        square, points = base_points(height, width, x.dtype)
        warp = torch.eye(2, 3, dtype=x.dtype) + t[:, :6].reshape(-1, 2, 3) * square
        # One matrix product over the base points: several times faster than affine_grid on small images.
        places = (warp.reshape(-1, 3) @ points).reshape(len(x), 2, height, width)
        moved = F.grid_sample(x, places.permute(0, 2, 3, 1), align_corners=False)
        if not self.colour:
            return moved.mul_(1 + t[:, 6, None, None, None]).add_(t[:, 7, None, None, None])
        c = self.shape[0]
        mix = torch.eye(c, dtype=x.dtype) + t[:, 6 : 6 + c * c].reshape(-1, c, c)
        return torch.einsum("nij,njhw->nihw", mix, moved) + t[:, 6 + c * c :, None, None]


@lru_cache(maxsize=8)
def base_points(height: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Units of a warp [2, 3], and pixel centres in -1..1 with a row of ones [3, h w], as affine_grid has them.

    The grid is in units of half the height and half the width: the units keep pixels square.
    """
    with torch.inference_mode(False):  # kept, and used with gradients too
        y = (torch.arange(height, dtype=dtype) * 2 + 1) / height - 1
        x = (torch.arange(width, dtype=dtype) * 2 + 1) / width - 1
        square = torch.tensor([[1.0, height / width, 1.0], [width / height, 1.0, 1.0]], dtype=dtype)
        ones = torch.ones(height * width, dtype=dtype)
        return square, torch.stack((x.repeat(height), y.repeat_interleave(width), ones))


def cosines(count: int, size: int) -> Tensor:
    """The lowest `count` rows of the orthonormal DCT of length `size`: [count, size]."""
    i = torch.arange(size, dtype=torch.float64) + 0.5
    rows = torch.cos(math.pi / size * torch.arange(count, dtype=torch.float64)[:, None] * i) * (2 / size) ** 0.5
    rows[0] /= 2**0.5
    return rows


@dataclass(frozen=True)
class Prompt:
    """An image that is added: x + lift(theta) with a linear lift.

    Attributes:
        shape: of an image.
        size: k: lowest k x k frequencies a channel; or w with `border`: the pixels within w of the edge.
        border: pixels of a frame instead of frequencies.
        scale: standard deviation that a coordinate of 1 gives to the pixels it moves, roughly.
    """

    shape: Shape
    size: int = 8
    border: bool = False
    scale: float = 4.0

    @property
    def start(self) -> Tensor:
        """Zeros: [channels size^2], or one a pixel of the frame."""
        count = int(self.frame.sum()) if self.border else min(self.size, *self.shape[1:]) ** 2
        return torch.zeros(self.shape[0] * count, dtype=torch.float64)

    @property
    def frame(self) -> Tensor:
        """The pixels of the frame: bool [h, w]."""
        inside = torch.ones(self.shape[1:], dtype=torch.bool)
        inside[self.size : -self.size, self.size : -self.size] = False
        return inside

    def lift(self, theta: Tensor) -> Tensor:
        """Coordinates [n, k] -> images [n, c, h, w]."""
        channels, height, width = self.shape
        if self.border:
            image = theta.new_zeros(len(theta), channels, height, width)
            image[:, :, self.frame] = theta.reshape(len(theta), channels, -1)
            return image
        k = min(self.size, height, width)
        square = theta.reshape(len(theta), channels, k, k) * self.scale
        return cosines(k, height).T.to(theta) @ square @ cosines(k, width).to(theta)

    def adjoint(self, image: Tensor) -> Tensor:
        """Images [n, c, h, w] -> coordinates [n, k], the transposed lift."""
        _, height, width = self.shape
        if self.border:
            return image[:, :, self.frame].reshape(len(image), -1)
        k = min(self.size, height, width)
        return (cosines(k, height).to(image) @ image @ cosines(k, width).T.to(image)).reshape(
            len(image), -1
        ) * self.scale

    def __call__(self, x: Tensor, theta: Tensor) -> Tensor:
        """Images with the prompt added."""
        return x + self.lift(theta).to(x.dtype)


@dataclass(frozen=True)
class LowRank:
    """An added image U V' a channel, of rank r; U starts at fixed noise and V at zero.

    Attributes:
        shape: of an image.
        rank: r.
    """

    shape: Shape
    rank: int = 2

    @property
    def start(self) -> Tensor:
        """U [c h r] of standard deviation 1 / sqrt(r), then V [c w r] of zeros."""
        channels, height, width = self.shape
        generator = Key(site="tune/lowrank").generator()
        left = torch.randn(channels * height * self.rank, generator=generator, dtype=torch.float64) / self.rank**0.5
        return torch.cat((left, torch.zeros(channels * width * self.rank, dtype=torch.float64)))

    def __call__(self, x: Tensor, theta: Tensor) -> Tensor:
        """Images with the product added."""
        channels, height, width = self.shape
        cut = channels * height * self.rank
        u = theta[:, :cut].reshape(-1, channels, height, self.rank)
        v = theta[:, cut:].reshape(-1, channels, width, self.rank)
        return x + (u @ v.mT).to(x.dtype)


@dataclass(frozen=True)
class Chain:
    """Several adapters one after the other.

    Attributes:
        parts: in the order in which they are applied.
    """

    parts: tuple[Adapter, ...]

    @property
    def start(self) -> Tensor:
        """The parts' coordinates in a row."""
        return torch.cat([part.start for part in self.parts])

    def __call__(self, x: Tensor, theta: Tensor) -> Tensor:
        """Every part in turn."""
        first = 0
        for part in self.parts:
            count = len(part.start)
            x = part(x, theta[:, first : first + count])
            first += count
        return x


def make_adapter(name: str, shape: Shape) -> Adapter:
    """An adapter by name: affine, colour, prompt[:k], border:w, lowrank:r, coordinator, or several joined by "+".

    Raises:
        UsageError: no such adapter, or a size that is no number or does not fit the image.
    """
    words = [word for word in name.split("+") if word]
    made = [one(word, shape) for word in words]
    if not made:
        raise UsageError("No adapter is named", "Give --adapter affine, prompt, border:3, lowrank:2 or coordinator")
    return made[0] if len(made) == 1 else Chain(tuple(made))


def one(word: str, shape: Shape) -> Adapter:
    """A single adapter."""
    from onlyforward.tune.coordinator import Coordinator

    kind, _, number = word.partition(":")
    if number and not (number.isdigit() and int(number) > 0):
        raise UsageError(f"{word!r} has no whole number behind the colon", "Write prompt:8, border:3 or lowrank:2")
    size = int(number or 0)
    if size * 2 > min(shape[1:]) and kind == "border":
        raise UsageError(f"A border of {size} pixels leaves nothing of {shape[1]} x {shape[2]}", "Give a thinner one")
    known: Mapping[str, Callable[[], Adapter]] = {
        "affine": lambda: Affine(shape),
        "colour": lambda: Affine(shape, colour=True),
        "prompt": lambda: Prompt(shape, size or 8),
        "border": lambda: Prompt(shape, size or 2, border=True),
        "lowrank": lambda: LowRank(shape, size or 2),
        "coordinator": lambda: Coordinator(shape),
    }
    return known[check_choice(kind, [*known, "output"], name="adapter")]()
