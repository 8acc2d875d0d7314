"""Where noise and gradient live: pixels, blocks, low frequencies, superpixels, or a user's own linear map.

A basis is a matrix A [d, k] with orthonormal columns: `lift` is A c, `adjoint` is A' x. A gradient g_c = A' g in
coordinates is shown as A g_c, the part of the gradient that the basis can hold.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from onlyforward.core.checks import check_range, require
from onlyforward.core.errors import UsageError
from onlyforward.explain.ridge import root_of, smooth
from onlyforward.run.userfile import user_function

LENGTHS = (0.05, 0.1, 0.2, 0.4)
"""Length scales of smooth priors, as shares of the image's side."""
DECAYS = (0.0, 1.0, 2.0, 3.0)
"""Exponents with which a prior's energy falls with frequency."""
Pair = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]
"""A user's own basis: lift [n, k] -> [n, *shape] and its adjoint [n, *shape] -> [n, k]."""


@dataclass(frozen=True)
class Basis:
    """A linear lift with orthonormal columns.

    Attributes:
        name: the words on the command line.
        shape: of the explained x.
        k: number of coordinates.
        lift: coordinates [n, k] -> [n, *shape].
        adjoint: [n, *shape] -> coordinates [n, k].
        priors: roots R [k, r] of the covariances R R' that the ridge solver chooses from.
        squares: sum_j A_j^2 v_j of variances v [k] -> [*shape], where that is quicker than column by column.
    """

    name: str
    shape: tuple[int, ...]
    k: int
    lift: Callable[[Tensor], Tensor]
    adjoint: Callable[[Tensor], Tensor]
    priors: Callable[[], Sequence[Tensor]]
    squares: Callable[[Tensor], Tensor] | None = None

    @property
    def d(self) -> int:
        """Numbers in x."""
        return math.prod(self.shape)


def make_basis(name: str | Pair, x: Tensor) -> Basis:
    """The basis called `pixel`, `grid:B`, `dct:K` or `superpixel:N`, with `/colour` for one per channel; or a pair.

    Args:
        name: B is the side of a block in pixels, K x K the lowest frequencies, N the number of superpixels; or
            (lift, adjoint), or file.py:factory, a function of x that gives such a pair.
        x: [c, h, w] or [d].

    Raises:
        UsageError: unknown, or it does not fit x.
    """
    if not isinstance(name, str):
        return own_basis(*name, x)
    if ".py:" in name:
        return own_basis(*user_function(name)(x), x)
    word, _, rest = name.partition(":")
    size, _, colour = rest.partition("/")
    if word == "pixel":
        return pixels(x)
    if word not in ("grid", "dct", "superpixel") or not size.isdigit() or colour not in ("", "colour"):
        raise UsageError(f"Unknown basis {name!r}", "Take pixel, grid:8, dct:12 or superpixel:50, perhaps with /colour")
    if x.ndim != 3:
        raise UsageError(f"The basis {name} needs an image [channels, height, width]", "Take pixel")
    if word == "dct":
        return cosines(x, check_range(int(size), name="frequencies", low=1, high=min(x.shape[1:])), bool(colour))
    labels = blocks(x, int(size)) if word == "grid" else superpixels(x, int(size))
    return regions(name, x, labels, bool(colour))


def pixels(x: Tensor) -> Basis:
    """Every number of x is a coordinate."""
    shape = tuple(x.shape)

    def priors() -> list[Tensor]:
        if x.ndim != 3:
            return [torch.eye(x.numel(), dtype=torch.float64)]
        channels = root_of(0.5 * torch.eye(shape[0], dtype=torch.float64) + 0.5)
        return [torch.kron(channels, smooth(shape[1], shape[2], length)) for length in LENGTHS]

    return Basis("pixel", shape, x.numel(), lambda c: c.reshape(-1, *shape), lambda v: v.flatten(1), priors)


def blocks(x: Tensor, side: int) -> Tensor:
    """Labels [h, w] of blocks of side x side pixels."""
    check_range(side, name="block", low=1, high=max(x.shape[1:]))
    rows, columns = torch.arange(x.shape[1]) // side, torch.arange(x.shape[2]) // side
    return rows[:, None] * (int(columns[-1]) + 1) + columns


def superpixels(x: Tensor, count: int) -> Tensor:
    """Labels [h, w] of about `count` superpixels (SLIC of scikit-image)."""
    segmentation: Any = require("skimage.segmentation", "peers")
    picture = x.movedim(0, -1).double().numpy()
    picture = (picture - picture.min()) / max(float(picture.max() - picture.min()), 1e-12)
    labels = segmentation.slic(
        picture if picture.shape[-1] == 3 else picture[..., :1].repeat(3, -1), n_segments=count, start_label=0
    )
    return torch.unique(torch.from_numpy(labels), return_inverse=True)[1]


def regions(name: str, x: Tensor, labels: Tensor, colour: bool) -> Basis:
    """One coordinate a region, or one a region and channel; columns of length 1."""
    shape, flat = tuple(x.shape), labels.flatten()
    count = int(flat.max()) + 1
    area = torch.bincount(flat, minlength=count).double()
    channels = shape[0]
    scale = (area if colour else area * channels).sqrt().reciprocal()

    def lift(c: Tensor) -> Tensor:
        parts = c.reshape(len(c), -1, count) * scale.to(c)
        return parts[..., flat].reshape(len(c), -1, *shape[1:]).expand(-1, channels, -1, -1)

    def adjoint(v: Tensor) -> Tensor:
        planes = v.flatten(2) if colour else v.flatten(2).sum(1, keepdim=True)
        sums = planes.new_zeros(len(v), planes.shape[1], count).index_add_(2, flat, planes)
        return (sums * scale.to(v)).flatten(1)

    def priors() -> list[Tensor]:
        grid = centres(*shape[1:])
        middle = torch.zeros(count, 2, dtype=torch.float64).index_add_(0, flat, grid) / area[:, None]
        mixed = 0.5 * torch.eye(channels, dtype=torch.float64) + 0.5 if colour else torch.ones(1, 1).double()
        apart = torch.cdist(middle, middle) ** 2
        return [root_of(torch.kron(mixed, torch.exp(-apart / (2 * length * length)))) for length in LENGTHS]

    return Basis(name, shape, count * (channels if colour else 1), lift, adjoint, priors)


def cosines(x: Tensor, side: int, colour: bool) -> Basis:
    """The lowest side x side frequencies of the orthonormal DCT-II."""
    channels, height, width = x.shape
    down, across = dct_rows(height, side), dct_rows(width, side)

    def lift(c: Tensor) -> Tensor:
        # Batched products, one per row, have the same bits whatever the batch.
        flat = c.reshape(-1, side, side)
        planes = torch.bmm(down.T.to(c).expand(len(flat), -1, -1), flat)
        planes = torch.bmm(planes, across.to(c).expand(len(flat), -1, -1)).reshape(len(c), -1, height, width)
        return planes if colour else planes.expand(-1, channels, -1, -1) / channels**0.5

    def adjoint(v: Tensor) -> Tensor:
        planes = v if colour else v.sum(1, keepdim=True) / channels**0.5
        return (down.to(v) @ planes @ across.T.to(v)).flatten(1)

    def priors() -> list[Tensor]:
        u = torch.arange(side, dtype=torch.float64)
        radius = 1 + (u[:, None] ** 2 + u**2).sqrt().flatten().repeat(channels if colour else 1)
        return [torch.diag(radius ** (-decay)) for decay in DECAYS]

    def squares(variance: Tensor) -> Tensor:
        planes = (down.T**2) @ variance.reshape(-1, side, side) @ across**2
        return planes if colour else planes.expand(channels, -1, -1) / channels

    k = side * side * (channels if colour else 1)
    return Basis(f"dct:{side}{'/colour' if colour else ''}", tuple(x.shape), k, lift, adjoint, priors, squares)


def dct_rows(length: int, count: int) -> Tensor:
    """The first `count` rows of the orthonormal DCT-II of `length` points: [count, length]."""
    angle = math.pi * torch.arange(count)[:, None].double() * (torch.arange(length).double() + 0.5) / length
    rows = angle.cos() * math.sqrt(2 / length)
    rows[0] /= math.sqrt(2)
    return rows


def own_basis(lift: Callable[[Tensor], Tensor], adjoint: Callable[[Tensor], Tensor], x: Tensor) -> Basis:
    """A user's pair; its prior knows of no neighbours.

    Raises:
        UsageError: the columns of the lift are not orthonormal, or the adjoint is not its own.
    """
    k = adjoint(x[None]).shape[1]
    eye = torch.eye(k, dtype=x.dtype)
    gap = float((adjoint(lift(eye)) - eye).abs().max())
    if not gap < 1e-3:
        raise UsageError(f"adjoint(lift(c)) differs from c by {gap:.2g}", "Give a lift with orthonormal columns")
    return Basis("own", tuple(x.shape), k, lift, adjoint, lambda: [torch.eye(k, dtype=torch.float64)])


def part_of(basis: Basis, index: Tensor) -> Basis:
    """The basis of some coordinates `index [k']` alone."""

    def lift(c: Tensor) -> Tensor:
        return basis.lift(c.new_zeros(len(c), basis.k).index_copy_(1, index, c))

    def priors() -> list[Tensor]:
        return [root[index] for root in basis.priors()]

    return Basis(f"part of {basis.name}", basis.shape, len(index), lift, lambda v: basis.adjoint(v)[:, index], priors)


def centres(height: int, width: int) -> Tensor:
    """Centres of pixels as shares of the image: [h * w, 2]."""
    down, across = (torch.arange(height).double() + 0.5) / height, (torch.arange(width).double() + 0.5) / width
    return torch.cartesian_prod(down, across)
