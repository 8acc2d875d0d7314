"""Cost families, all reduced to one representation: piecewise quadratics `knots [n, m]`, `coef [n, m, 3]`.

f(C) = value + slope x + curvature x^2 with x = C - knot, for the last knot strictly before C: left-continuous, so that
at a jump the lower value holds. Kernels, surrogate and bound read nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from onlyforward.core.errors import UsageError

FAR_INT = 2**62
FAR_FLOAT = 1e300


class Cost(Protocol):
    """A family: gives the pieces of the jobs."""

    def pieces(self, p: np.ndarray, weight: np.ndarray, due: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`knots [n, m]`, `coef [n, m, 3]`, in the dtype of p."""
        ...


class BadJob(UsageError):
    """A job that cannot be scheduled: row, column, problem, remedy."""

    def __init__(self, row: int, column: str, problem: str, remedy: str) -> None:
        self.row, self.column, self.problem, self.remedy = row, column, problem, remedy
        super().__init__(f"Job {row + 1}, column {column}: {problem}", remedy)


def assemble(p: np.ndarray, pieces: Sequence[tuple[Any, Any, Any, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Pieces (knot, value, slope, curvature), each a scalar or [n]; pieces that begin before time 0 are moved to it."""
    n, m = len(p), len(pieces)
    knots = np.zeros((n, m), p.dtype)
    coef = np.zeros((n, m, 3), p.dtype)
    for k, (knot, *abc) in enumerate(pieces):
        knots[:, k] = knot
        for q, number in enumerate(abc):
            coef[:, k, q] = number
    early = -np.minimum(knots, 0)
    coef[..., 0] += early * (coef[..., 1] + early * coef[..., 2])
    coef[..., 1] += 2 * early * coef[..., 2]
    knots = np.maximum(knots, 0)
    return settle(knots, coef)


def settle(knots: np.ndarray, coef: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of several pieces that begin at the same knot the last one holds; the unused ones move to the far end."""
    far = FAR_INT if knots.dtype == np.int64 else FAR_FLOAT
    dead = np.zeros(knots.shape, bool)
    dead[:, :-1] = knots[:, :-1] == knots[:, 1:]
    if not dead.any():
        return knots, coef
    rank = np.argsort(dead, axis=1, kind="stable")
    knots = np.take_along_axis(np.where(dead, far, knots), rank, 1)
    coef = np.take_along_axis(np.where(dead[..., None], 0, coef), rank[..., None], 1)
    return knots, coef


class WeightedCompletion:
    """w C."""

    def pieces(self, p: np.ndarray, weight: np.ndarray, due: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One piece."""
        return assemble(p, [(0, 0, weight, 0)])


class WeightedTardiness:
    """w max(C - d, 0)."""

    def pieces(self, p: np.ndarray, weight: np.ndarray, due: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Zero until the due date, then a line."""
        return assemble(p, [(np.minimum(due, 0), 0, 0, 0), (due, 0, weight, 0)])


class TotalTardiness:
    """max(C - d, 0), weights ignored."""

    def pieces(self, p: np.ndarray, weight: np.ndarray, due: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As weighted tardiness with weights 1."""
        return WeightedTardiness().pieces(p, np.ones_like(weight), due)


class WeightedTardyJobs:
    """w 1[C > d]."""

    def pieces(self, p: np.ndarray, weight: np.ndarray, due: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One jump."""
        return assemble(p, [(np.minimum(due, 0), 0, 0, 0), (due, weight, 0, 0)])


class LateWork:
    """w min(max(C - d, 0), p)."""

    def pieces(self, p: np.ndarray, weight: np.ndarray, due: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Zero, a line over p time units, a constant."""
        low = np.minimum(due, 0)
        return assemble(p, [(low, 0, 0, 0), (due, 0, weight, 0), (due + p, weight * p, 0, 0)])


class QuadraticTardiness:
    """w max(C - d, 0)^2."""

    def pieces(self, p: np.ndarray, weight: np.ndarray, due: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Zero, then a parabola."""
        return assemble(p, [(np.minimum(due, 0), 0, 0, 0), (due, 0, 0, weight)])


FAMILIES: dict[str, Callable[[], Cost]] = {
    "weighted-completion": WeightedCompletion,
    "weighted-tardiness": WeightedTardiness,
    "total-tardiness": TotalTardiness,
    "weighted-tardy-jobs": WeightedTardyJobs,
    "late-work": LateWork,
    "quadratic-tardiness": QuadraticTardiness,
}
"""Command-line name -> family computed from the columns."""

WITHOUT_DUE = ("weighted-completion",)


@dataclass(frozen=True, eq=False)
class Piecewise:
    """Any non-decreasing piecewise quadratic, jumps allowed.

    Attributes:
        knots: [n, m], increasing per job; the first piece holds from time 0.
        coef: [n, m, 3], value, slope and curvature at the knot.
    """

    knots: np.ndarray
    coef: np.ndarray

    def pieces(self, p: np.ndarray, weight: np.ndarray, due: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The pieces as given; a first knot after time 0 gets a piece of value 0 before it."""
        dtype = p.dtype
        knots, coef = np.asarray(self.knots).astype(dtype), np.asarray(self.coef).astype(dtype)
        if (knots[:, 0] > 0).any():
            knots = np.concatenate([np.zeros((len(p), 1), dtype), knots], 1)
            coef = np.concatenate([np.zeros((len(p), 1, 3), dtype), coef], 1)
        return settle(knots, coef)


@dataclass(frozen=True, eq=False)
class Table:
    """A step function: job j costs `c[j, k]` when it ends in (ends[k-1], ends[k]], and the last value afterwards.

    Attributes:
        c: [n, W], not falling along W.
        ends: [W], increasing window ends.
    """

    c: np.ndarray
    ends: np.ndarray

    def pieces(self, p: np.ndarray, weight: np.ndarray, due: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One constant piece a window."""
        c, ends = np.asarray(self.c), np.asarray(self.ends)
        knots = np.tile(np.concatenate([[0], ends[:-1]]).astype(p.dtype), (len(p), 1))
        coef = np.zeros((*knots.shape, 3), p.dtype)
        coef[..., 0] = c
        return settle(knots, coef)


def sample(fn: Callable[[int, float], float], n: int, horizon: float, resolution: int = 256) -> Table:
    """A callable cost as a table: `fn(job, completion)` at the ends of `resolution` equal windows over the horizon."""
    ends = np.unique(np.ceil(np.linspace(0, horizon, resolution + 1)[1:]).astype(np.int64))
    c = np.array([[fn(j, float(end)) for end in ends] for j in range(n)])
    return Table(c.astype(np.int64) if np.array_equal(c, np.rint(c)) else c, ends)


def check_monotone(knots: np.ndarray, coef: np.ndarray, names: Sequence[str]) -> None:
    """A cost may jump up but never fall: checked on every piece and at every knot.

    Raises:
        BadJob: names the job and the knot at which it falls.
    """
    far = FAR_INT if knots.dtype == np.int64 else FAR_FLOAT
    order = knots[:, 1:] < knots[:, :-1]
    used = knots < far
    value, slope, curvature = (coef[..., q].astype(float) for q in range(3))
    length = np.where(used[:, 1:], knots[:, 1:] - knots[:, :-1], 0).astype(float)
    end = value[:, :-1] + length * (slope[:, :-1] + length * curvature[:, :-1])
    wrong = (slope < 0) & used
    wrong[:, :-1] |= order | ((slope[:, :-1] + 2 * length * curvature[:, :-1] < -1e-9) & used[:, 1:])
    # A fall at a knot is the knot's own, not that of the piece before it.
    wrong[:, 1:] |= used[:, 1:] & (value[:, 1:] < end - 1e-9 * np.abs(end))
    last = used.sum(1) - 1
    rows = np.arange(len(knots))
    wrong[rows, last] |= curvature[rows, last] < 0
    if wrong.any():
        row, k = (int(x) for x in np.argwhere(wrong)[0])
        raise BadJob(
            row, "cost", f"the cost of {names[row]} falls at knot {k + 1}", "Give a cost that does not fall with time"
        )


def evaluate(knots: np.ndarray, coef: np.ndarray, rows: np.ndarray, completion: np.ndarray) -> np.ndarray:
    """F of jobs `rows` at completion times, elementwise over broadcast arrays."""
    rows, completion = np.broadcast_arrays(rows, completion)
    found = knots[rows]
    piece = np.maximum((found < completion[..., None]).sum(-1) - 1, 0)
    x = completion - np.take_along_axis(found, piece[..., None], -1)[..., 0]
    abc = coef[rows, piece]
    return abc[..., 0] + x * (abc[..., 1] + x * abc[..., 2])
