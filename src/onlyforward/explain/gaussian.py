"""Gradients of a black box by noise on its input (arXiv 2403.15603), along a path if wanted (arXiv 2308.09381).

grad_c E f(x + sigma A eps) = E[(f - b) eps] / sigma: SmoothGrad (arXiv 1706.03825) for a large sigma, the plain
gradient for a small one. Along x0 + a (x - x0), a uniform, it gives integrated gradients (arXiv 1703.01365) at no
factor per step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from onlyforward.core.checks import check_choice, check_range
from onlyforward.core.directions import direction
from onlyforward.core.errors import UsageError
from onlyforward.core.keys import Key
from onlyforward.core.weigh import LeaveOneOut, Mean
from onlyforward.explain.bases import Basis
from onlyforward.explain.estimator import Estimate
from onlyforward.explain.ridge import Equations, Fit, fit, refit

DIRECTIONS = {"gaussian": "gaussian", "rademacher": "rademacher", "orthogonal": "hadamard", "sobol": "sobol"}
"""Names here -> kinds of `core.directions`."""
DIFFERENCES = ("plain", "mean", "forward", "antithetic")
PATHS = ("point", "integrated", "expected")
GOLDEN = (5**0.5 - 1) / 2


@dataclass
class Gradient:
    """One gradient, question by question.

    Attributes:
        x: [*shape].
        basis: where the noise lives.
        sigma: standard deviation of the noise per number of x, whatever the basis.
        key: coordinates of the noise.
        directions: gaussian, rademacher, orthogonal or sobol.
        difference: plain (no baseline), mean (leave one out), forward (f(x), one more question) or antithetic (pairs).
        solver: mean, or ridge with the basis' priors.
        path: point (at x), integrated (from `references[0]` to x) or expected (from a random reference each time).
        references: [m, *shape] of the paths.
        clean: f(x), for forward differences.
        chosen: the last ridge fit to all scores; its prior and noise serve the halves.
    """

    x: Tensor
    basis: Basis
    sigma: float
    key: Key
    directions: str = "orthogonal"
    difference: str = "forward"
    solver: str = "mean"
    path: str = "point"
    references: Tensor | None = None
    clean: float = float("nan")
    scores: list[Tensor] = field(default_factory=list)
    chosen: Fit | None = None

    def __post_init__(self) -> None:
        check_choice(self.directions, DIRECTIONS, name="directions")
        check_choice(self.difference, DIFFERENCES, name="difference")
        check_choice(self.solver, ("mean", "ridge"), name="solver")
        check_choice(self.path, PATHS, name="path")
        check_range(self.sigma, name="sigma", low=0.0, open_low=True, why="without noise there is nothing to compare")
        if self.path != "point" and self.difference == "forward":
            raise UsageError("A path has no single clean score", "Take difference antithetic or mean")
        if self.path != "point" and self.references is None:
            raise UsageError("A path has no start", "Give references")
        if self.directions == "sobol" and self.basis.k > 64:
            raise UsageError(f"sobol directions have {self.basis.k} coordinates", "Take orthogonal beyond 64")
        self.kind = direction(DIRECTIONS[self.directions])
        self.site = self.key.at(site=f"{self.key.site}gradient")
        self.step = self.sigma * math.sqrt(self.basis.d / self.basis.k)
        self.needs_clean = self.difference == "forward"
        self.pairs = self.difference == "antithetic"
        # The first column of a Hadamard matrix is constant: without a clean score it cannot be told from the mean.
        self.skipped = int(self.directions == "orthogonal" and self.difference in ("mean", "plain"))
        self.drawn = (1, self.basis.k + self.skipped)
        self.width = 1 << (self.drawn[1] - 1).bit_length()

    # Questions -------------------------------------------------------------------------------------------------------

    def rows(self, first: int, count: int) -> Tensor:
        """Questions first..first+count-1: [count, *shape]."""
        asked = torch.arange(first, first + count)
        which = asked // 2 if self.pairs else asked
        low, high = int(which[0]), int(which[-1]) + 1
        noise = self.noise(low, high)[which - low]
        signs = 1.0 - 2.0 * (asked % 2).double() if self.pairs else torch.ones(count, dtype=torch.float64)
        moved = self.basis.lift(noise * (self.step * signs)[:, None].to(noise))
        return self.bases(which) + moved.to(self.x)

    def noise(self, low: int, high: int) -> Tensor:
        """Unit directions low..high-1: [n, k]."""
        like = torch.zeros(1, dtype=torch.float64)  # the weights' own, so that `correlate` replays the same numbers
        return self.kind.draw(self.site, slice(low, high), self.drawn, like)[:, 0, self.skipped :]

    def bases(self, which: Tensor) -> Tensor:
        """The point around which each direction looks: [n, *shape] or [1, *shape]."""
        if self.path == "point":
            return self.x[None]
        reference, share = self.starts(which)
        return reference + share.to(self.x).reshape(-1, *[1] * self.x.ndim) * (self.x - reference)

    def starts(self, which: Tensor) -> tuple[Tensor, Tensor]:
        """Reference [n, *shape] and share a [n] of each direction; shares fill (0, 1) evenly at any number."""
        assert self.references is not None
        offset = float(torch.rand((), generator=self.key.at(site="path").generator(), dtype=torch.float64))
        share = (offset + which.double() * GOLDEN) % 1.0
        if self.path == "integrated":
            return self.references[:1], share
        picks = [
            int(
                torch.randint(
                    0, len(self.references), (), generator=self.key.at(site="reference", copy=int(m)).generator()
                )
            )
            for m in which
        ]
        return self.references[picks], share

    # Scores ----------------------------------------------------------------------------------------------------------

    def observe(self, first: int, scores: Tensor) -> None:
        """Scores of the next questions."""
        self.scores.append(scores.double())

    @property
    def asked(self) -> int:
        """Scores that came in."""
        return sum(len(part) for part in self.scores)

    def signal(self, half: int | None) -> Tensor:
        """One number a direction [m], NaN where it failed or belongs to the other half."""
        scores = torch.cat(self.scores)
        if self.pairs:
            scores = scores[: len(scores) // 2 * 2].reshape(-1, 2)
            signal = (scores[:, 0] - scores[:, 1]) / 2
        else:
            signal = scores - (self.clean if self.difference == "forward" else 0.0)
        signal = torch.where(signal.isfinite(), signal, torch.nan)
        if half is not None:
            signal = torch.where(torch.arange(len(signal)) % 2 == half, signal, torch.nan)
        return signal

    def estimate(self, half: int | None = None) -> Estimate:
        """The map; see `Estimator`."""
        signal = self.signal(half)
        if self.solver == "ridge":
            return self.ridge(signal, half)
        weigh = LeaveOneOut() if self.difference == "mean" else Mean()
        weight = weigh(signal[:, None])[0]
        if self.difference == "mean" and self.directions == "orthogonal":
            weight = weight * self.without_replacement(signal)
        total, square = self.correlated(weight)
        ran = signal.isfinite()
        count = max(2, int(ran.sum()))
        variance = (square * count - total**2).clamp(min=0) / (count - 1)
        if self.directions == "orthogonal" and self.difference in ("forward", "antithetic"):
            # Without replacement: the error vanishes once all rows of the matrix were asked.
            variance = variance * max(0.0, 1 - count / self.width)
        # Halves of an orthogonal design cannot agree, because their rows exclude each other: the errors tell instead.
        energy = float(total.square().sum())
        sure = math.sqrt(max(0.0, 1 - float(variance.sum()) / energy)) if energy else 0.0
        sure = sure if self.directions == "orthogonal" else math.nan
        return replace(self.shown(total / self.step, variance.sqrt() / self.step), sure=sure)

    def without_replacement(self, signal: Tensor) -> float:
        """Leave-one-out's factor n / (n - 1) is for independent directions; rows of one matrix exclude each other.

        With n_b rows of width W in block b, the mean of sum (y - mean y) eps is g times
        n - 1 + sum n_b (n_b - 1) / (n (W - 1)).
        """
        ran = signal.isfinite()
        n = int(ran.sum())
        own = torch.bincount(torch.arange(len(signal))[ran] // self.width).double()
        repeated = float((own * (own - 1)).sum()) / (n * max(1, self.width - 1))
        return (n - 1) / (n - 1 + repeated) if n > 1 else 1.0

    def correlated(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Sum w eps and sum (w eps)^2 over the directions, in coordinates, or in pixels where paths weigh them: [k]."""
        if self.path == "expected":
            return self.path_sums(weight)
        total = self.kind.correlate(weight, self.site, self.drawn, 1.0)[0, self.skipped :]
        if self.directions in ("orthogonal", "rademacher"):
            return total, (weight**2).sum().expand_as(total)
        square = torch.zeros_like(total)
        step = max(1, (1 << 21) // self.basis.k)
        for low in range(0, len(weight), step):
            high = min(low + step, len(weight))
            square += ((self.noise(low, high) * weight[low:high]) ** 2).sum(0)
        return total, square

    def path_sums(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """For random references: sums of w (A eps)(x - x0), pixel by pixel."""
        total, square = torch.zeros(2, self.basis.d, dtype=torch.float64)
        for low in range(0, len(weight), 64):
            high = min(low + 64, len(weight))
            reference, _ = self.starts(torch.arange(low, high))
            part = (self.basis.lift(self.noise(low, high)) * (self.x - reference)).flatten(1)
            total += (part * weight[low:high]).sum(0)
            square += ((part * weight[low:high]) ** 2).sum(0)
        return total, square

    @cached_property
    def priors(self) -> Sequence[Tensor]:
        """Roots of the covariances that the ridge chooses from."""
        return self.basis.priors()

    def ridge(self, signal: Tensor, half: int | None) -> Estimate:
        """The posterior mean under the basis' priors."""
        ran = signal.isfinite()
        equations = Equations(self.basis.k)
        noise = self.noise(0, len(signal)) * self.step
        equations.add(noise[ran], signal[ran])
        centre, priors = self.difference in ("mean", "plain"), self.priors
        if half is None or self.chosen is None:
            found = fit(equations, priors, centre=centre)
            self.chosen = found if half is None else None
        else:
            found = refit(equations, priors, self.chosen, centre=centre)
        residual = float("nan")
        if half == 0:
            other = self.signal(1)
            held = Equations(self.basis.k)
            held.add(noise[other.isfinite()], other[other.isfinite()])
            residual = held.unexplained(found.mean, centre=centre)
        return replace(self.shown(found.mean, found.deviation, residual), sure=found.sure)

    def shown(self, coefficients: Tensor, error: Tensor, residual: float = float("nan")) -> Estimate:
        """Coordinates as a map: A c, times x - x0 on a path."""
        if self.path == "expected":
            return Estimate(coefficients.reshape(self.x.shape), error.reshape(self.x.shape), coefficients, residual)
        lifted = self.basis.lift(coefficients[None])[0]
        spread = squared_lift(self.basis, error)
        if self.path == "integrated":
            assert self.references is not None
            way = (self.x - self.references[0]).double()
            lifted, spread = lifted * way, spread * way.abs()
        return Estimate(lifted, spread, coefficients, residual)


def by_part(order: Sequence[tuple[Gradient, int]]) -> list[tuple[Gradient, list[int]]]:
    """The places of each gradient's questions in a list of (gradient, its question), which grow there one by one."""
    places: dict[int, tuple[Gradient, list[int]]] = {}
    for place, (part, _) in enumerate(order):
        places.setdefault(id(part), (part, []))[1].append(place)
    return list(places.values())


def dealt_rows(order: Sequence[tuple[Gradient, int]]) -> Tensor:
    """Questions [n, *shape] of several gradients in the order in which they were dealt out."""
    rows = order[0][0].x.new_empty((len(order), *order[0][0].x.shape))
    for part, places in by_part(order):
        rows[places] = part.rows(order[places[0]][1], len(places)).to(rows)
    return rows


def hand_out(order: Sequence[tuple[Gradient, int]], scores: Tensor) -> None:
    """Scores [n] of dealt questions to the gradients that asked them."""
    for part, places in by_part(order):
        part.observe(order[places[0]][1], scores[places])


def squared_lift(basis: Basis, error: Tensor) -> Tensor:
    """Standard errors of A c from independent errors [k] of c: sqrt(sum_j A_j^2 e_j^2)."""
    if basis.name == "pixel":
        return error.reshape(basis.shape)
    if basis.squares is not None:
        return basis.squares(error.square()).sqrt()
    total = torch.zeros(basis.shape, dtype=torch.float64)
    step = max(1, (1 << 22) // basis.d)
    eye = torch.eye(basis.k, dtype=torch.float64)
    for part, own in zip(eye.split(step), error.split(step), strict=True):
        total += (basis.lift(part).square() * own.reshape(-1, *[1] * len(basis.shape)) ** 2).sum(0)
    return total.sqrt()
