"""Ridge with a smooth prior: few queries, many coordinates.

Prior g ~ N(0, s K) with K = R R'; rows E [n, k] and scores y [n] give g = K E'(E K E' + lam I)^-1 y. lam and the choice
among the priors maximise the marginal likelihood on a grid of eigenvalues: no further query. Up to k rows are kept;
beyond, only E'E and E'y are, so that memory does not grow with the queries. (derived; Gaussian-process regression as in
Rasmussen and Williams, ch. 2 and 5)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

NOISES = 25
"""Values of lam that are compared."""
AHEAD = 8
"""Times as many questions as were asked, to whose map a map's own certainty refers."""
FAINT = 1e-6
"""Share of the strongest direction's variance below which a smooth prior's directions are left out."""


@dataclass(frozen=True)
class Fit:
    """A posterior.

    Attributes:
        mean: [k].
        deviation: [k], posterior standard deviation.
        prior: index of the chosen prior.
        noise: lam, relative to the prior's scale.
        evidence: log marginal likelihood at the choice, up to a constant.
        sure: see `foreseen`; NaN where only a posterior was asked for.
    """

    mean: Tensor
    deviation: Tensor
    prior: int
    noise: float
    evidence: float
    sure: float = math.nan


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
        if not self.kept:
            return torch.zeros(0, self.k, dtype=torch.float64), torch.zeros(0, dtype=torch.float64)
        rows, scores = torch.cat([r for r, _ in self.kept]), torch.cat([s for _, s in self.kept])
        return (rows - rows.mean(0), scores - scores.mean()) if centre else (rows, scores)

    def sums(self, root: Tensor, centre: bool) -> tuple[Tensor, Tensor, float]:
        """R'E'E R [r, r], R'E'y [r] and y'y."""
        if not self.folded:
            rows, scores = self.rows(centre)
            turned = rows @ root
            return turned.T @ turned, turned.T @ scores, float(scores @ scores)
        gram, product = root.T @ self.gram @ root, root.T @ self.product
        if not centre:
            return gram, product, self.square_sum
        mean, level = root.T @ self.row_sum / self.n, self.score_sum / self.n
        gram = gram - self.n * torch.outer(mean, mean)
        return gram, product - self.n * mean * level, self.square_sum - self.n * level * level

    def unexplained(self, effect: Tensor, *, centre: bool) -> float:
        """Share of these scores' energy that an effect [k] found elsewhere leaves: 1 - R^2."""
        gram, product, energy = self.sums(effect[:, None], centre)
        left = energy - 2 * float(product) + float(gram)
        return left / energy if energy > 0 else 0.0


def smooth(height: int, width: int, length: float) -> Tensor:
    """Root R [h w, r] of exp(-|c - c'|^2 / (2 length^2)) over the centres of a grid in the unit square.

    The kernel is a product of two axes, and so are its directions; faint ones are left out.
    """
    axes = []
    for side in (height, width):
        places = (torch.arange(side, dtype=torch.float64) + 0.5) / side
        values, vectors = torch.linalg.eigh(torch.exp(-((places[:, None] - places) ** 2) / (2 * length * length)))
        axes.append((values.clamp(min=0), vectors))
    (down, rows), (across, columns) = axes
    strength = torch.outer(down, across)
    first, second = (strength > FAINT * strength.max()).nonzero(as_tuple=True)
    return (rows[:, None, first] * columns[None, :, second]).flatten(0, 1) * strength[first, second].sqrt()


def root_of(covariance: Tensor) -> Tensor:
    """R [k, r] with R R' = K [k, k], directions without variance left out."""
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > 1e-10 * values.max()
    return vectors[:, kept] * values[kept].sqrt()


def fit(equations: Equations, priors: Sequence[Tensor], *, centre: bool = True) -> Fit:
    """Posterior of the coordinates' effects under the most likely prior.

    Args:
        equations: rows and scores.
        priors: roots R [k, r] of the covariances to choose from.
        centre: whether an unknown constant is taken out of rows and scores.
    """
    compared = [(*likely(equations, root, centre), index) for index, root in enumerate(priors)]
    evidence, noise, index = max(compared)
    found = posterior(equations, priors[index], noise, index=index, evidence=evidence, centre=centre)
    return replace(found, sure=foreseen(equations, priors[index], noise, centre))


def likely(equations: Equations, root: Tensor, centre: bool) -> tuple[float, float]:
    """The highest log marginal likelihood over lam, up to a constant, and that lam."""
    n, r = equations.n, root.shape[1]
    few = n < r and not equations.folded
    if few:
        rows, scores = equations.rows(centre)
        turned = rows @ root
        values, vectors = torch.linalg.eigh(turned @ turned.T)
        energy, square = (vectors.T @ scores) ** 2, float(scores @ scores)
    else:
        gram, product, square = equations.sums(root, centre)
        values, vectors = torch.linalg.eigh(gram)
        energy = (vectors.T @ product) ** 2
    values = values.clamp(min=0)
    best = (-math.inf, 1.0)
    for noise in noises(values):
        total = values + noise
        explained = float((energy / total).sum())
        misfit = explained if few else (square - explained) / noise
        spread = n * math.log(max(misfit / max(n, 1), 1e-300))
        best = max(best, (-0.5 * (spread + float(total.log().sum()) + (n - len(values)) * math.log(noise)), noise))
    return best


def posterior(
    equations: Equations, root: Tensor, noise: float, *, index: int = 0, evidence: float = math.nan, centre: bool = True
) -> Fit:
    """The posterior under one prior R [k, r] and one lam; its scale is the likeliest."""
    n, r = equations.n, root.shape[1]
    if n < r and not equations.folded:
        rows, scores = equations.rows(centre)
        turned = rows @ root
        factor = torch.linalg.cholesky(turned @ turned.T + noise * torch.eye(n, dtype=torch.float64))
        solved = torch.cholesky_solve(scores[:, None], factor)[:, 0]
        scale = float(scores @ solved) / max(n, 1)
        weight = turned.T @ solved
        half = torch.linalg.solve_triangular(factor, turned @ root.T, upper=False)
        variance = ((root**2).sum(1) - (half**2).sum(0)).clamp(min=0) * scale
    else:
        gram, product, square = equations.sums(root, centre)
        factor = torch.linalg.cholesky(gram + noise * torch.eye(r, dtype=torch.float64))
        weight = torch.cholesky_solve(product[:, None], factor)[:, 0]
        scale = max(square - float(product @ weight), 0.0) / noise / n
        half = torch.linalg.solve_triangular(factor, root.T, upper=False)
        variance = (half**2).sum(0) * noise * scale
    return Fit(root @ weight, variance.sqrt(), index, noise, evidence)


def foreseen(equations: Equations, root: Tensor, noise: float, centre: bool) -> float:
    """Cosine that the posterior foresees between its mean and the one of `AHEAD` times as many new questions.

    With G = R'E'E R = U diag(l) U' and g = R w, the later mean is R A w plus noise, A = U diag(a) U', a = h l / (h l +
    lam), h = AHEAD. Its expectation is R A m; its energy adds tr R'R U diag(a^2 v + s lam h l / (h l + lam)^2) U' with
    the posterior's v = s lam / (l + lam). Not endless ones: what the questions hardly see stays doubtful for ever, and
    is bias of the questions instead of chance. (derived)
    """
    gram, product, square = equations.sums(root, centre)
    values, vectors = torch.linalg.eigh(gram)
    values, turned = values.clamp(min=0), vectors.T @ product
    weight = turned / (values + noise)
    scale = max(square - float(turned @ weight), 0.0) / noise / max(equations.n, 1)
    more = AHEAD * values
    kept = more / (more + noise)
    doubt = scale * noise * (kept**2 / (values + noise) + more / (more + noise) ** 2)
    lifted = root @ vectors
    now, later = lifted @ weight, lifted @ (kept * weight)
    energy = float(later @ later) + float((lifted**2).sum(0) @ doubt)
    length = math.sqrt(float(now @ now) * energy)
    return float(now @ later) / length if length else 0.0


def noises(values: Tensor) -> list[float]:
    """The grid of lam, relative to the eigenvalues' mean."""
    level = float(values.mean().clamp(min=1e-12)) if len(values) else 1.0
    grid: list[float] = (torch.logspace(-5, 2, NOISES, dtype=torch.float64) * level).tolist()
    return grid
