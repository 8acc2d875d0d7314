"""Soft masks: coarse grids of kept and removed cells, shifted at random and upsampled bilinearly, in complement pairs.

Upsampling is linear and separable: mask = D g A' with the grid g and one small matrix per axis and shift. So a mask
costs two small products, and its means over any coarser grid cost less still.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from onlyforward.core.keys import Key


@dataclass(frozen=True)
class Draws:
    """What names some masks.

    Attributes:
        grids: [n, cells + 1, cells + 1] of 0 and 1.
        tops, lefts: shifts in pixels, [n] each.
    """

    grids: Tensor
    tops: Tensor
    lefts: Tensor

    def every(self, first: int, step: int) -> Draws:
        """Each `step`-th draw from `first` on."""
        return Draws(self.grids[first::step], self.tops[first::step], self.lefts[first::step])


class SoftMasks:
    """Masks of one image size, drawn by number.

    Args:
        key: coordinates of the draws.
        cells: cells per side.
        size: height and width of a mask.
        fine: height and width of the grid of `means`.
    """

    def __init__(self, key: Key, cells: int, size: tuple[int, int], fine: tuple[int, int] | None = None) -> None:
        self.key, self.cells = key, cells
        self.steps = tuple(-(-side // cells) for side in size)
        self.axes = [upsampling(cells, step, side) for step, side in zip(self.steps, size, strict=True)]
        pooled = fine or size
        self.pooled = [pooling(side, coarse) @ axis for side, coarse, axis in zip(size, pooled, self.axes, strict=True)]

    def draws(self, first: int, count: int) -> Draws:
        """Masks first..first+count-1: even ones are drawn, odd ones are the complements before them."""
        grids: list[Tensor] = []
        shifts: list[list[int]] = []
        for pair in range(first // 2, (first + count + 1) // 2):
            generator = self.key.at(copy=pair, site=f"{self.key.site}mask").generator()
            grid = torch.empty(self.cells + 1, self.cells + 1).bernoulli_(0.5, generator=generator)
            grids += [grid, 1 - grid]
            shifts += 2 * [[int(torch.randint(0, step, (1,), generator=generator)) for step in self.steps]]
        if not count:
            return Draws(torch.zeros(0, self.cells + 1, self.cells + 1), *torch.zeros(2, 0).long())
        own = slice(first % 2, first % 2 + count)
        tops, lefts = torch.tensor(shifts).T[:, own]
        return Draws(torch.stack(grids)[own], tops, lefts)

    def masks(self, draws: Draws) -> Tensor:
        """[n, h, w] in [0, 1]."""
        down, across = (axis.float() for axis in self.axes)
        return product(draws, down, across).clamp_(0, 1)

    def means(self, draws: Draws) -> Tensor:
        """Their means over the cells of the fine grid: [n, fine, fine]."""
        return product(draws, *self.pooled)


def product(draws: Draws, down: Tensor, across: Tensor) -> Tensor:
    """D g A' with the matrices of each draw's shifts; one product a mask, so that batches do not change the bits."""
    grids = draws.grids.to(down)
    return torch.bmm(torch.bmm(down[draws.tops], grids), across[draws.lefts].mT)


def upsampling(cells: int, step: int, side: int) -> Tensor:
    """For each shift the matrix [side, cells + 1] of bilinear upsampling by `step`: [step, side, cells + 1]."""
    eye = torch.eye(cells + 1, dtype=torch.float64)[None]
    whole = torch.nn.functional.interpolate(eye, size=(cells + 1) * step, mode="linear", align_corners=False)[0].T
    return torch.stack([whole[shift : shift + side] for shift in range(step)])


def pooling(side: int, coarse: int) -> Tensor:
    """The matrix [coarse, side] of means over nearly equal parts."""
    eye = torch.eye(side, dtype=torch.float64)[None]
    return torch.nn.functional.interpolate(eye, size=coarse, mode="area")[0].T
