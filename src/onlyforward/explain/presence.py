"""Presence: which parts must be there? Masks of kept parts, scores of the masked images, effects of the parts.

Images x0 + M o (x - x0) with soft masks M and their complements. Half the difference of a pair's scores is, but for
interactions of three and more parts, the sum over pixels of effect times M - 1/2: what the pair shares drops out, the
nuisance mean(f) mean(M) of RISE (arXiv 1806.07421) included. `mean` averages difference times M - 1/2; `ridge`
regresses the differences on the masks seen on a fine grid, with a prior that is smooth in place; `look` makes it smooth
in colour too and lets its scale follow |x - x0|: neighbours that look alike act alike, and what is not changed has no
effect.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from onlyforward.core.checks import check_choice, check_range
from onlyforward.core.keys import Key
from onlyforward.explain.bases import centres
from onlyforward.explain.estimator import Estimate
from onlyforward.explain.ridge import Equations, Fit, fit, refit
from onlyforward.explain.softmasks import SoftMasks

FINE = 28
"""Side of the grid on which effects are solved for."""
CHUNK = 64
"""Pairs that are summed at once; one size keeps the bits whatever the batches were."""
LENGTHS = (0.06, 0.1, 0.16, 0.25)
"""Length scales of the prior, as shares of the image's side."""
COLOUR = 0.25
"""Distance in colour, as a share of the image's range, over which effects change."""


@dataclass
class Presence:
    """Effects of pixels from softly masked images, in complement pairs.

    Attributes:
        x: [c, h, w].
        nothing: x0 [c, h, w], what stands where a part is removed.
        key: coordinates of the masks.
        cells: cells per side of the masks' grid.
        solver: ridge or mean.
        look: the prior follows what the picture shows, not place alone.
    """

    x: Tensor
    nothing: Tensor
    key: Key
    cells: int = 7
    solver: str = "ridge"
    look: bool = False
    needs_clean: bool = False
    clean: float = float("nan")

    def __post_init__(self) -> None:
        check_choice(self.solver, ("mean", "ridge"), name="solver")
        self.size = (self.x.shape[-2], self.x.shape[-1])
        check_range(self.cells, name="cells", low=2, high=min(self.size))
        ridge = self.solver == "ridge"
        self.fine = (min(FINE, self.size[0]), min(FINE, self.size[1])) if ridge else self.size
        self.soft = SoftMasks(self.key, self.cells, self.size, self.fine)
        self.asked = (0, self.soft.draws(0, 0))
        self.seen = 0
        self.designs: list[Tensor] = []
        self.scores: list[Tensor] = []
        self.sums: list[Any] = [self.empty(), self.empty()]
        self.chosen: tuple[int, Fit] | None = None

    def empty(self) -> Equations | Moments:
        """Sums of nothing."""
        return Equations(self.fine[0] * self.fine[1]) if self.solver == "ridge" else Moments(self.fine)

    def rows(self, first: int, count: int) -> Tensor:
        """Masked images first..first+count-1."""
        self.asked = (first, self.soft.draws(first, count))
        return torch.lerp(self.nothing, self.x, self.soft.masks(self.asked[1])[:, None].to(self.x))

    def observe(self, first: int, scores: Tensor) -> None:
        """Scores of the next masked images; a pair in which one failed is left out."""
        start, draws = self.asked
        if start != first or len(draws.tops) != len(scores):
            draws = self.soft.draws(first, len(scores))
        self.designs += list(self.soft.means(draws.every(first % 2, 2)) - 0.5)
        self.scores += list(scores.double())
        while len(self.scores) >= 2 * CHUNK:
            for half, part in enumerate(self.summed(CHUNK)):
                self.sums[half] = self.sums[half].joined(part)
            del self.designs[:CHUNK], self.scores[: 2 * CHUNK]
            self.seen += CHUNK

    def summed(self, count: int) -> list[Any]:
        """Sums of the first waiting pairs, even and odd ones apart."""
        parts = [self.empty(), self.empty()]
        if count:
            design, scores = torch.stack(self.designs[:count]), torch.stack(self.scores[: 2 * count]).reshape(-1, 2)
            difference = (scores[:, 0] - scores[:, 1]) / 2
            for half in range(2):
                own = difference.isfinite() & (torch.arange(self.seen, self.seen + count) % 2 == half)
                parts[half].add(design[own].flatten(1), difference[own])
        return parts

    def estimate(self, half: int | None = None) -> Estimate:
        """Effect per pixel [h, w]; see `Estimator`."""
        halves = [done.joined(part) for done, part in zip(self.sums, self.summed(len(self.scores) // 2), strict=True)]
        if self.solver == "mean":
            effect, error = (halves[0].joined(halves[1]) if half is None else halves[half]).effect()
            return Estimate(effect, error, effect.flatten())
        found = self.whole(halves)
        if half is None:
            return Estimate(self.enlarge(found.mean), self.enlarge(found.deviation), found.mean, sure=found.sure)
        own = refit(halves[half], self.priors, found, centre=False)
        residual = halves[1].unexplained(own.mean, centre=False) if half == 0 else float("nan")
        return Estimate(self.enlarge(own.mean), self.enlarge(own.deviation), own.mean, residual, sure=own.sure)

    def whole(self, halves: list[Any]) -> Fit:
        """The fit to all pairs; its prior and noise serve the halves too."""
        n = halves[0].n + halves[1].n
        if self.chosen is None or self.chosen[0] != n:
            self.chosen = (n, fit(halves[0].joined(halves[1]), self.priors, centre=False))
        return self.chosen[1]

    @cached_property
    def priors(self) -> list[Tensor]:
        """Roots of the covariances that the effects may have.

        exp(-|c - c'|^2 / (2 length^2)), with `look` times sqrt(|x - x0|) sqrt(|x - x0|') exp(-|colour - colour'|^2 / (2
        COLOUR^2)).
        """
        places = centres(*self.fine)
        apart = torch.cdist(places, places) ** 2
        nugget = 1e-8 * torch.eye(len(places), dtype=torch.float64)
        near, scale = torch.ones_like(apart), torch.ones(len(places), 1, dtype=torch.float64)
        if self.look:
            change = self.coarse((self.x - self.nothing).square().mean(0)[None]).sqrt()
            scale = (change / change.max()).sqrt() if float(change.max()) else torch.ones_like(change)
            low, high = float(self.x.min()), float(self.x.max())
            colours = self.coarse(self.x) / max(high - low, 1e-12)
            near = torch.exp(-(torch.cdist(colours, colours) ** 2) / (2 * COLOUR**2))
        return [
            scale * torch.linalg.cholesky(near * torch.exp(-apart / (2 * length**2)) + nugget) for length in LENGTHS
        ]

    def coarse(self, planes: Tensor) -> Tensor:
        """Means of planes [c, h, w] over the fine grid's cells: [cells, c]."""
        small = torch.nn.functional.interpolate(planes.double()[None], size=self.fine, mode="area")[0]
        return small.flatten(1).T

    def enlarge(self, values: Tensor) -> Tensor:
        """From the fine grid to pixels."""
        small = values.reshape(1, 1, *self.fine)
        return torch.nn.functional.interpolate(small, size=self.size, mode="bilinear", align_corners=False)[0, 0]


class Moments:
    """Sums over pairs from which every pixel's effect and its standard error follow."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.n, self.size = 0, size
        self.total, self.square = torch.zeros(2, *size, dtype=torch.float64)

    def add(self, design: Tensor, difference: Tensor) -> None:
        """Take in M - 1/2 [n, h w] and half differences [n]."""
        terms = 4 * difference[:, None] * design
        self.n += len(terms)
        self.total += terms.sum(0).reshape(self.size)
        self.square += terms.square().sum(0).reshape(self.size)

    def joined(self, other: Moments) -> Moments:
        """The sums of both."""
        both = Moments(self.size)
        both.n, both.total, both.square = self.n + other.n, self.total + other.total, self.square + other.square
        return both

    def effect(self) -> tuple[Tensor, Tensor]:
        """Mean of 4 d (M - 1/2) over the pairs, and its standard error: [h, w] each."""
        n = max(2, self.n)
        mean = self.total / n
        return mean, ((self.square / n - mean.square()).clamp(min=0) / (n - 1)).sqrt()
