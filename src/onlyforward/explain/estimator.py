"""What every estimator of a map can do: name its questions one by one, take the scores in, give the map at any time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """A map as far as the scores go.

    Attributes:
        map: signed, shape of x, or [h, w] where channels share it.
        error: standard error, same shape.
        coefficients: [k], in the estimator's own coordinates.
        residual: share of held-back scores' energy that the map leaves unexplained; NaN where that is not defined.
        sure: cosine that the errors or the posterior promise, where halves cannot tell; NaN elsewhere.
    """

    map: Tensor
    error: Tensor
    coefficients: Tensor
    residual: float = float("nan")
    sure: float = float("nan")


class Estimator(Protocol):
    """Question k depends on the key and on k alone, whatever the batch.

    Attributes:
        needs_clean: whether `clean` must be set to f(x) before the first question.
        clean: f(x).
    """

    needs_clean: bool
    clean: float

    def rows(self, first: int, count: int) -> Tensor:
        """Questions first..first+count-1: [count, *shape]."""
        ...

    def observe(self, first: int, scores: Tensor) -> None:
        """Scores [n] of the questions from `first` on, in order; NaN where a question failed."""
        ...

    def estimate(self, half: int | None = None) -> Estimate:
        """The map from all scores, or from one of two disjoint halves (0 or 1)."""
        ...
