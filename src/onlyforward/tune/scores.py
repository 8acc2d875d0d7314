"""Losses on scores without a scale: a temperature fitted once on clean scores, and a cap on each loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

CAP = 10.0
"""Largest loss of one answer: without it, knowing nothing beats being wrong once."""
STEPS = 60
"""Steps of the golden-section search."""


@dataclass(frozen=True)
class Objective:
    """What a batch's answers are judged by, with its clean answers as reference.

    Attributes:
        clean: [b], losses of the clean answers.
        residual: [b], how much noise each datum is expected to show.
    """

    clean: Tensor
    residual: Tensor

    def signal(self, answers: Tensor, place: Tensor) -> Tensor:
        """Differences [n] of answers [n, c] to the clean answer of the batch's datum `place` [n]."""
        raise NotImplementedError


@dataclass(frozen=True)
class Classified(Objective):
    """Capped cross-entropy of scaled scores.

    Attributes:
        judge: the loss.
        labels: [b].
    """

    judge: CrossEntropy
    labels: Tensor

    def signal(self, answers: Tensor, place: Tensor) -> Tensor:
        """L(answers) - L(clean), [n]."""
        return self.judge.losses(answers, self.labels[place]) - self.clean[place]


@dataclass(frozen=True)
class CrossEntropy:
    """min(cap, cross-entropy of z / T) with a fixed temperature T > 0.

    Attributes:
        temperature: T.
        cap: largest loss.
    """

    temperature: float = 1.0
    cap: float = CAP

    def losses(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Losses [n] of scores [n, c]; NaN where a score is NaN."""
        found = F.cross_entropy(scores.double() / self.temperature, labels, reduction="none")
        return torch.where(found > self.cap, torch.full_like(found, self.cap), found)

    def residual(self, scores: Tensor, labels: Tensor) -> Tensor:
        """|softmax(z / T) - onehot| [n], the length of the loss's slope in the scaled scores."""
        p = torch.softmax(scores.double() / self.temperature, 1)
        return (p - F.one_hot(labels, scores.shape[1])).norm(dim=1)

    def objective(self, scores: Tensor, labels: Tensor) -> Classified:
        """The objective of a batch whose clean scores [b, c] are known."""
        return Classified(self.losses(scores, labels), self.residual(scores, labels), self, labels)


def fit_temperature(scores: Tensor, labels: Tensor, *, cap: float = CAP) -> CrossEntropy:
    """The T that makes the capped loss of clean scores [n, c] least; golden section over log T, no query.

    One further answer that is wrong everywhere alike is added in thought: shots that are all right would otherwise ask
    for T = 0, at which no loss ever moves. T is at most the scores' mean deviation: a model worse than chance would ask
    for infinity, at which all losses are equal. A coarse grid finds the valley first, since the loss is not convex.
    """
    z = torch.nan_to_num(scores.double(), nan=0.0, posinf=1e12, neginf=-1e12)
    scale = float((z - z.mean(1, keepdim=True)).abs().mean()) or 1.0

    def loss(log_t: float) -> float:
        judge = CrossEntropy(scale * 10**log_t, cap)
        thought = -torch.log_softmax(z / judge.temperature, 1).mean(1).clamp(max=cap)
        return float(judge.losses(z, labels).sum() + thought.mean())

    grid = [k / 4 for k in range(-12, 1)]
    best = min(grid, key=loss)
    low, high, ratio = best - 0.25, min(0.0, best + 0.25), (5**0.5 - 1) / 2
    for _ in range(STEPS):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, right) if loss(left) <= loss(right) else (left, high)
    return CrossEntropy(scale * 10 ** ((low + high) / 2), cap)
