"""Ridge with a smooth prior: few queries, many coordinates.

Prior g ~ N(0, s K) with K = R R'; rows E [n, k] and scores y [n] give g = K E'(E K E' + lam I)^-1 y. lam and the choice
among the priors maximise the marginal likelihood on a grid of eigenvalues: no further query. Up to k rows are kept;
beyond, only E'E and E'y are, so that memory does not grow with the queries. (derived; Gaussian-process regression as in
Rasmussen and Williams, ch. 2 and 5)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

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
        sure: cosine that the posterior foresees with the map of many more questions; see `Spectrum.posterior`.
    """

    mean: Tensor
    deviation: Tensor
    prior: int
    noise: float
    evidence: float
    sure: float


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


@dataclass(frozen=True)
class Spectrum:
    """The equations along the directions of one prior: E R = V diag(l)^1/2 U', m directions.

    Attributes:
        root: R [k, r].
        values: l [m].
        turn: U [r, m].
        along: U'R'E'y [m].
        square: y'y.
        n: number of rows.
    """

    root: Tensor
    values: Tensor
    turn: Tensor
    along: Tensor
    square: float
    n: int

    @staticmethod
    def of(equations: Equations, root: Tensor, centre: bool) -> Spectrum:
        """By the eigenvalues of E K E' [n, n] or of R'E'E R [r, r], whichever is smaller."""
        if equations.n < root.shape[1] and not equations.folded:
            rows, scores = equations.rows(centre)
            turned = rows @ root
            values, vectors = torch.linalg.eigh(turned @ turned.T)
            values = values.clamp(min=1e-12 * float(values.max().clamp(min=1e-300)) if len(values) else 0)
            along = values.sqrt() * (vectors.T @ scores)
            return Spectrum(
                root, values, turned.T @ vectors / values.sqrt(), along, float(scores @ scores), len(scores)
            )
        gram, product, square = equations.sums(root, centre)
        values, vectors = torch.linalg.eigh(gram)
        return Spectrum(root, values.clamp(min=0), vectors, vectors.T @ product, square, equations.n)

    def misfit(self, noise: float) -> float:
        """Y'(E K E' + lam I)^-1 y."""
        explained = float((self.along**2 / (self.values + noise)).sum())
        return max((self.square - explained) / noise, 1e-300)

    def evidence(self, noise: float) -> float:
        """Log marginal likelihood at lam and the likeliest scale, up to a constant."""
        volume = float((self.values + noise).log().sum()) + (self.n - len(self.values)) * math.log(noise)
        return -0.5 * (self.n * math.log(self.misfit(noise) / max(self.n, 1)) + volume)

    def posterior(self, noise: float, index: int) -> Fit:
        """Mean and deviation under lam and the likeliest scale s, and what they foresee.

        `sure` is the cosine that is expected between the mean and the one of h = `AHEAD` times as many new questions.
        With g = R w the later mean is R A w and noise, A = U diag(a) U', a = h l / (h l + lam): its expectation is R A
        m, and its energy adds tr R'R U diag(a^2 s lam / (l + lam) + s lam h l / (h l + lam)^2) U'. Endless questions
        would ask for more: what these hardly see stays doubtful for ever, which is bias and not chance. (derived)
        """
        directions, total = self.root @ self.turn, self.values + noise
        scale = self.misfit(noise) / max(self.n, 1)
        weight = self.along / total
        mean = directions @ weight
        square = directions**2
        variance = ((self.root**2).sum(1) - square @ (self.values / total)).clamp(min=0) * scale
        more = AHEAD * self.values
        kept = more / (more + noise)
        later = directions @ (kept * weight)
        doubt = scale * noise * (kept**2 / total + more / (more + noise) ** 2)
        length = math.sqrt(float(mean @ mean) * (float(later @ later) + float(square.sum(0) @ doubt)))
        sure = float(mean @ later) / length if length else 0.0
        return Fit(mean, variance.sqrt(), index, noise, self.evidence(noise), sure)


def fit(equations: Equations, priors: Sequence[Tensor], *, centre: bool = True) -> Fit:
    """Posterior of the coordinates' effects under the most likely prior and noise.

    Args:
        equations: rows and scores.
        priors: roots R [k, r] of the covariances to choose from.
        centre: whether an unknown constant is taken out of rows and scores.
    """
    spectra = [Spectrum.of(equations, root, centre) for root in priors]
    compared = [
        (spectrum.evidence(noise), noise, index)
        for index, spectrum in enumerate(spectra)
        for noise in noises(spectrum.values)
    ]
    _, noise, index = max(compared)
    return spectra[index].posterior(noise, index)


def refit(equations: Equations, priors: Sequence[Tensor], chosen: Fit, *, centre: bool = True) -> Fit:
    """Posterior of other equations under the prior and noise that `chosen` has."""
    return Spectrum.of(equations, priors[chosen.prior], centre).posterior(chosen.noise, chosen.prior)


def noises(values: Tensor) -> list[float]:
    """The grid of lam, relative to the eigenvalues' mean."""
    level = float(values.mean().clamp(min=1e-12)) if len(values) else 1.0
    grid: list[float] = (torch.logspace(-5, 2, NOISES, dtype=torch.float64) * level).tolist()
    return grid
