"""Is a map right? Remove or bring in pixels in its order and watch the score (arXiv 1806.07421), or compare maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from onlyforward.core.keys import Key
from onlyforward.explain.removal import removed

Score = Callable[[Tensor], Tensor]
"""Rows [n, c, h, w] -> scores [n]."""


@dataclass(frozen=True)
class Curve:
    """Score against the share of changed pixels.

    Attributes:
        share: [steps + 1], from 0 to 1.
        score: [steps + 1].
    """

    share: Tensor
    score: Tensor

    @property
    def area(self) -> float:
        """Area under the curve by the trapezoid rule."""
        return float(torch.trapezoid(self.score, self.share))


def plane(values: Tensor) -> Tensor:
    """A map as one value a pixel [h, w]: channels are summed."""
    return values.sum(0) if values.ndim == 3 else values


def order_of(values: Tensor) -> Tensor:
    """Pixels from most to least important, ties by position: [h * w]."""
    return torch.argsort(values.flatten(), descending=True, stable=True)


def curve(score: Score, start: Tensor, end: Tensor, values: Tensor, *, steps: int = 32, batch: int = 33) -> Curve:
    """Replace pixels of `start` by those of `end` in the order of `values [h, w]`, in equal steps."""
    values = plane(values)
    order = order_of(values)
    counts = torch.linspace(0, len(order), steps + 1, dtype=torch.float64).round().long()
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order))
    rank = rank.reshape(values.shape)
    scores = []
    for part in counts.split(batch):
        changed = (rank[None] < part[:, None, None])[:, None]
        scores.append(score(torch.where(changed, end, start)))
    return Curve(counts.double() / len(order), torch.cat(scores).double())


def deletion(score: Score, x: Tensor, values: Tensor, *, steps: int = 32, baseline: str | Tensor = "mean") -> Curve:
    """Remove the most important pixels first: the lower the area the better."""
    return curve(score, x, removed(x, baseline), values, steps=steps)


def insertion(score: Score, x: Tensor, values: Tensor, *, steps: int = 32, baseline: str | Tensor = "blur") -> Curve:
    """Bring the most important pixels in first: the higher the area the better."""
    return curve(score, removed(x, baseline), x, values, steps=steps)


def morf(score: Score, x: Tensor, values: Tensor, *, steps: int = 32, baseline: str | Tensor = "mean") -> Curve:
    """Most relevant first: deletion under the name of pixel flipping."""
    return deletion(score, x, values, steps=steps, baseline=baseline)


def lerf(score: Score, x: Tensor, values: Tensor, *, steps: int = 32, baseline: str | Tensor = "mean") -> Curve:
    """Least relevant first: the higher the area the better."""
    return deletion(score, x, -plane(values), steps=steps, baseline=baseline)


def random_map(size: tuple[int, int], key: Key) -> Tensor:
    """A map without knowledge [h, w]: what every curve is held against."""
    return torch.rand(size, generator=key.at(site="random map").generator(), dtype=torch.float64)


def cosine(left: Tensor, right: Tensor) -> float:
    """Cosine of two maps."""
    left, right = left.flatten().double(), right.flatten().double()
    return float(left @ right / (left.norm() * right.norm()).clamp(min=1e-300))


def ranks(values: Tensor) -> Tensor:
    """Ranks with ties averaged: [n] double."""
    ordered = values.flatten().double().contiguous()
    rows = ordered.sort().values
    below = torch.searchsorted(rows, ordered)
    through = torch.searchsorted(rows, ordered, right=True)
    return (below + through - 1).double() / 2


def spearman(left: Tensor, right: Tensor) -> float:
    """Rank correlation of two maps."""
    a, b = ranks(left), ranks(right)
    return cosine(a - a.mean(), b - b.mean())


def top_k_overlap(left: Tensor, right: Tensor, share: float = 0.1) -> float:
    """Share of common pixels among the most important ones of two maps."""
    k = max(1, round(share * left.numel()))
    first, second = set(order_of(left)[:k].tolist()), set(order_of(right)[:k].tolist())
    return len(first & second) / k


def gini(values: Tensor) -> float:
    """Gini index of the absolute map: 0 spread evenly, 1 on one pixel."""
    ordered = values.abs().flatten().double().sort().values
    n = len(ordered)
    weight = (2 * torch.arange(1, n + 1) - n - 1).double()
    return float((weight * ordered).sum() / (n * ordered.sum()).clamp(min=1e-300))


def pointing(values: Tensor, inside: Tensor) -> float:
    """Share of the map's positive mass in a region `inside` [h, w] of booleans."""
    positive = plane(values).clamp(min=0)
    return float(positive[inside].sum() / positive.sum().clamp(min=1e-300))
