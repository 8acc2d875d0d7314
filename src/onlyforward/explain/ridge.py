"""Ridge with a smooth prior: few queries, many coordinates.

Prior g ~ N(0, s K); rows E [N, k] and centred scores y [N] give g = K E'(E K E' + lam I)^-1 y. lam and the choice among
the priors K maximise the marginal likelihood on a grid of eigenvalues: no further query. Up to k rows are kept and the
[N, N] form is solved; beyond, only E'E and E'y are, so that memory does not grow with the queries. (derived;
Gaussian-process regression as in Rasmussen and Williams, ch. 2 and 5)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

NOISES = 25


@dataclass(frozen=True)
class Fit:
    """A posterior.

    Attributes:
        mean: [k].
        deviation: [k], posterior standard deviation.
        prior: index of the chosen prior.
        noise: lam, relative to the prior's scale.
        evidence: log marginal likelihood at the choice, up to a constant.
    """

    mean: Tensor
    deviation: Tensor
    prior: int
    noise: float
    evidence: float

    @property
    def sure(self) -> float:
        """Cosine that the posterior promises with the true effects: |m| / sqrt(|m|^2 + tr V)."""
        energy, doubt = float(self.mean.square().sum()), float(self.deviation.square().sum())
        return math.sqrt(energy / (energy + doubt)) if energy else 0.0


class Equations:
    """Rows and scores, or their sums once there are more rows than coordinates.

    Args:
        k: coordinates.
    """

    def __init__(self, k: int) -> None:
        self.k, self.n = k, 0
        self.kept: list[tuple[Tensor, Tensor]] = []
        self.folded = False

    def add(self, rows: Tensor, scores: Tensor) -> None:
        """Take in rows [n, k] and scores [n]."""
        self.n += len(scores)
        self.kept.append((rows.double(), scores.double()))
        if self.folded or self.n > self.k:
            self.fold()

    def fold(self) -> None:
        """Add the kept rows to the sums."""
        if not self.folded:
            zeros = torch.zeros(self.k, dtype=torch.float64)
            self.gram, self.product, self.row_sum = torch.outer(zeros, zeros), zeros.clone(), zeros.clone()
            self.score_sum = self.square_sum = 0.0
            self.folded = True
        for rows, scores in self.kept:
            self.gram += rows.T @ rows
            self.product += rows.T @ scores
            self.row_sum += rows.sum(0)
            self.score_sum += float(scores.sum())
            self.square_sum += float(scores.square().sum())
        self.kept = []

    def joined(self, other: Equations) -> Equations:
        """All rows of both."""
        both = Equations(self.k)
        both.n, both.kept = self.n + other.n, [*self.kept, *other.kept]
        if self.folded or other.folded or both.n > self.k:
            both.fold()
            for part in (self, other):
                if part.folded:
                    both.gram += part.gram
                    both.product += part.product
                    both.row_sum += part.row_sum
                    both.score_sum += part.score_sum
                    both.square_sum += part.square_sum
        return both

    def rows(self, centre: bool) -> tuple[Tensor, Tensor]:
        """E [n, k] and y [n], if nothing was folded."""
        rows, scores = torch.cat([r for r, _ in self.kept]), torch.cat([s for _, s in self.kept])
        return (rows - rows.mean(0), scores - scores.mean()) if centre else (rows, scores)

    def sums(self, centre: bool) -> tuple[Tensor, Tensor, float]:
        """E'E [k, k], E'y [k] and y'y."""
        if not self.folded:
            rows, scores = self.rows(centre)
            return rows.T @ rows, rows.T @ scores, float(scores @ scores)
        if not centre:
            return self.gram, self.product, self.square_sum
        mean, level = self.row_sum / self.n, self.score_sum / self.n
        gram = self.gram - self.n * torch.outer(mean, mean)
        return gram, self.product - self.n * mean * level, self.square_sum - self.n * level * level

    def unexplained(self, effect: Tensor, *, centre: bool) -> float:
        """Share of these scores' energy that an effect [k] found elsewhere leaves: 1 - R^2."""
        gram, product, energy = self.sums(centre)
        left = energy - 2 * float(effect @ product) + float(effect @ gram @ effect)
        return left / energy if energy > 0 else 0.0


def smooth(centres: Tensor, length: float) -> Tensor:
    """exp(-|c - c'|^2 / (2 length^2)) over centres [k, 2]: [k, k]."""
    return torch.exp(-(torch.cdist(centres, centres) ** 2) / (2 * length * length))


def fit(equations: Equations, priors: Sequence[Tensor], *, centre: bool = True) -> Fit:
    """Posterior of the coordinates' effects under the most likely prior.

    Args:
        equations: rows and scores.
        priors: covariances [k, k] to choose from.
        centre: whether an unknown constant is taken out of rows and scores.
    """
    found = [
        (small if not equations.folded else large)(equations, covariance, index, centre)
        for index, covariance in enumerate(priors)
    ]
    return max(found, key=lambda fit: fit.evidence)


def small(equations: Equations, covariance: Tensor, index: int, centre: bool) -> Fit:
    """By the eigenvalues of E K E' [N, N]."""
    rows, scores = equations.rows(centre)
    n = len(scores)
    spread = rows @ covariance
    values, vectors = torch.linalg.eigh(spread @ rows.T)
    values = values.clamp(min=0)
    turned = vectors.T @ scores
    best = (-math.inf, 1.0, 1.0)
    for noise in noises(values):
        energy = values + noise
        scale = max(float((turned**2 / energy).mean()), 1e-300)
        best = max(best, (-0.5 * (n * math.log(scale) + float(energy.log().sum())), noise, scale))
    evidence, noise, scale = best
    energy = values + noise
    half = (vectors.T @ spread) / energy.sqrt()[:, None]
    variance = (covariance.diagonal() - (half**2).sum(0)).clamp(min=0) * scale
    return Fit(spread.T @ (vectors @ (turned / energy)), variance.sqrt(), index, noise, evidence)


def large(equations: Equations, covariance: Tensor, index: int, centre: bool) -> Fit:
    """By the eigenvalues of R' E'E R [k, k] with K = R R'."""
    gram, product, square = equations.sums(centre)
    n, k = equations.n, equations.k
    jitter = 1e-8 * float(covariance.diagonal().mean())
    root = torch.linalg.cholesky(covariance + jitter * torch.eye(k, dtype=covariance.dtype))
    values, vectors = torch.linalg.eigh(root.T @ gram @ root)
    values = values.clamp(min=0)
    turned = vectors.T @ (root.T @ product)
    best = (-math.inf, 1.0, 1.0)
    for noise in noises(values):
        energy = values + noise
        misfit = (square - float((turned**2 / energy).sum())) / noise
        scale = max(misfit / n, 1e-300)
        evidence = -0.5 * (n * math.log(scale) + float(energy.log().sum()) + (n - k) * math.log(noise))
        best = max(best, (evidence, noise, scale))
    evidence, noise, scale = best
    basis = root @ vectors
    variance = (basis**2 / (values + noise)).sum(1) * noise * scale
    return Fit(basis @ (turned / (values + noise)), variance.sqrt(), index, noise, evidence)


def noises(values: Tensor) -> list[float]:
    """The grid of lam, relative to the eigenvalues' mean."""
    level = float(values.mean().clamp(min=1e-12))
    grid: list[float] = (torch.logspace(-5, 2, NOISES, dtype=torch.float64) * level).tolist()
    return grid
