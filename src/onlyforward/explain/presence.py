"""Presence: which parts must be there? Masks of kept parts, scores of the masked images, effects of the parts.

z ~ Bernoulli(1/2) per cell of a coarse grid, shifted by a random offset and upsampled bilinearly: image = x0 + M o (x -
x0). The centred effect of a pixel is the covariance of score and mask (RISE, arXiv 1806.07421, keeps the nuisance
mean(f) mean(M)); with the ridge solver the scores are regressed on the masks seen on a fine grid, with a smooth prior.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from onlyforward.core.checks import check_choice, check_range
from onlyforward.core.keys import Key
from onlyforward.explain.bases import centres
from onlyforward.explain.estimator import Estimate
from onlyforward.explain.ridge import Equations, fit, smooth

FINE = 28
"""Side of the grid on which effects are solved for."""
CHUNK = 64
"""Masks that are summed at once."""
LENGTHS = (0.06, 0.1, 0.16, 0.25)
"""Length scales of the prior, as shares of the image's side."""


def masks(key: Key, first: int, count: int, cells: int, size: tuple[int, int]) -> Tensor:
    """Soft masks first..first+count-1 in complement pairs: [count, h, w] in [0, 1]."""
    height, width = (-(-side // cells) for side in size)
    grids, offsets = [], []
    for pair in range(first // 2, (first + count + 1) // 2):
        generator = key.at(copy=pair, site=f"{key.site}mask").generator()
        grids.append(torch.empty(cells + 1, cells + 1).bernoulli_(0.5, generator=generator))
        offsets.append([int(torch.randint(0, step, (1,), generator=generator)) for step in (height, width)])
    large = torch.nn.functional.interpolate(
        torch.stack(grids)[:, None],
        size=((cells + 1) * height, (cells + 1) * width),
        mode="bilinear",
        align_corners=False,
    )[:, 0]
    found = torch.empty(count, *size)
    for row in range(count):
        pair, side = divmod(first + row, 2)
        place = pair - first // 2
        top, left = offsets[place]
        window = large[place, top : top + size[0], left : left + size[1]]
        found[row] = 1 - window if side else window
    return found


@dataclass
class Presence:
    """Effects of pixels from softly masked images, in complement pairs.

    Attributes:
        x: [c, h, w].
        nothing: x0 [c, h, w], what stands where a part is removed.
        key: coordinates of the masks.
        cells: cells per side of the masks' grid.
        solver: ridge or mean.
    """

    x: Tensor
    nothing: Tensor
    key: Key
    cells: int = 7
    solver: str = "ridge"
    needs_clean: bool = False
    clean: float = float("nan")

    def __post_init__(self) -> None:
        check_choice(self.solver, ("mean", "ridge"), name="solver")
        self.size = (self.x.shape[-2], self.x.shape[-1])
        check_range(self.cells, name="cells", low=2, high=min(self.size))
        fine = FINE if self.solver == "ridge" else min(self.size)
        self.fine = (min(fine, self.size[0]), min(fine, self.size[1]))
        self.waiting: list[list[tuple[Tensor, Tensor]]] = [[], []]
        self.sums: list[Any] = [self.summed([]), self.summed([])]
        self.asked: tuple[int, Tensor] = (0, torch.zeros(0))

    def rows(self, first: int, count: int) -> Tensor:
        """Masked images first..first+count-1."""
        mask = masks(self.key, first, count, self.cells, self.size)
        self.asked = (first, mask)
        return torch.lerp(self.nothing, self.x, mask[:, None].to(self.x))

    def observe(self, first: int, scores: Tensor) -> None:
        """Scores of the next masked images; rows that failed are left out on both sides."""
        start, mask = self.asked
        if start != first or len(mask) < len(scores):
            mask = masks(self.key, first, len(scores), self.cells, self.size)
        mask = mask[: len(scores)]
        good = scores.isfinite()
        if self.solver == "ridge":
            mask = torch.nn.functional.interpolate(mask[:, None], size=self.fine, mode="area").flatten(1) - 0.5
        for half in range(2):
            own = good & ((torch.arange(first, first + len(scores)) // 2) % 2 == half)
            self.waiting[half] += list(zip(mask[own], scores[own], strict=True))
            while len(self.waiting[half]) >= CHUNK:
                self.sums[half] = self.sums[half].joined(self.summed(self.waiting[half][:CHUNK]))
                del self.waiting[half][:CHUNK]

    def summed(self, pairs: list[tuple[Tensor, Tensor]]) -> Equations | Moments:
        """Sums of some masks and scores; chunks of one size keep the bits whatever the batches were."""
        found = Equations(self.fine[0] * self.fine[1]) if self.solver == "ridge" else Moments(self.size)
        if pairs:
            found.add(torch.stack([m for m, _ in pairs]).double(), torch.stack([s for _, s in pairs]).double())
        return found

    def half(self, half: int) -> Any:
        """The sums of one half, those of the last, open chunk included."""
        return self.sums[half].joined(self.summed(self.waiting[half]))

    def estimate(self, half: int | None = None) -> Estimate:
        """Effect per pixel [h, w]; see `Estimator`."""
        sums = self.half(0).joined(self.half(1)) if half is None else self.half(half)
        if self.solver == "mean":
            effect, error = sums.effect()
            return Estimate(effect, error, effect.flatten())
        places = centres(*self.fine)
        found = fit(sums, [smooth(places, length) for length in LENGTHS])
        residual = self.half(1).unexplained(found.mean, centre=True) if half == 0 else float("nan")
        return Estimate(self.enlarge(found.mean), self.enlarge(found.deviation), found.mean, residual, sure=found.sure)

    def enlarge(self, values: Tensor) -> Tensor:
        """From the fine grid to pixels."""
        small = values.reshape(1, 1, *self.fine)
        return torch.nn.functional.interpolate(small, size=self.size, mode="bilinear", align_corners=False)[0, 0]


class Moments:
    """Sums over masks and scores from which every pixel's covariance follows."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.n, self.score, self.square = 0, 0.0, 0.0
        self.mask, self.mixed = torch.zeros(2, *size, dtype=torch.float64)

    def add(self, mask: Tensor, scores: Tensor) -> None:
        """Take in masks [n, h, w] and scores [n]."""
        self.n += len(scores)
        self.score += float(scores.sum())
        self.square += float(scores.square().sum())
        self.mask += mask.sum(0)
        self.mixed += torch.tensordot(scores, mask, dims=1)

    def joined(self, other: Moments) -> Moments:
        """The sums of both."""
        both = Moments((self.mask.shape[0], self.mask.shape[1]))
        for part in (self, other):
            both.n += part.n
            both.score += part.score
            both.square += part.square
            both.mask = both.mask + part.mask
            both.mixed = both.mixed + part.mixed
        return both

    def effect(self) -> tuple[Tensor, Tensor]:
        """4 cov(score, mask) per pixel, and its standard error: [h, w] each."""
        n = max(2, self.n)
        level = self.score / n
        effect = 4 * (self.mixed - level * self.mask) / (n - 1)
        deviation = max(0.0, self.square / n - level * level) ** 0.5
        return effect, torch.full_like(effect, 2 * deviation / n**0.5)
