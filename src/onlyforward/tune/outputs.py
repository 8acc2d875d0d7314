"""A map of a closed model's scores: calibration, or its classes made into yours; the gradient is exact, no extra query.

Multinomial logistic regression on standardised scores with an L2 penalty that held-out folds of the shots choose.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from onlyforward.tune.guard import Guard

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
"""Weights of |W|^2 that are tried, in units of the mean loss."""
FOLDS = 5
STEPS = 60


@dataclass(frozen=True)
class Readout:
    """Scores [n, c] -> scores [n, c'] of the caller's classes.

    Attributes:
        mean: [c], of the shots' scores.
        scale: [c].
        weight: [c', c].
        bias: [c'].
        loss: mean loss of the chosen penalty on held-out folds.
    """

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor
    loss: float

    def __call__(self, scores: Tensor) -> Tensor:
        """The caller's scores."""
        return ((scores.double() - self.mean) / self.scale) @ self.weight.T + self.bias

    def tensors(self) -> dict[str, Tensor]:
        """Named tensors for a file."""
        return {"mean": self.mean, "scale": self.scale, "weight": self.weight, "bias": self.bias}


@dataclass(frozen=True)
class CrossFitted:
    """A map of all shots, and for every shot one that never saw it: its loss there is honest however few shots are.

    Attributes:
        whole: fitted on all shots; this is what is delivered.
        parts: [FOLDS], each fitted without one fold.
        fold: [items] of every shot.
    """

    whole: Readout
    parts: tuple[Readout, ...]
    fold: Tensor

    def __call__(self, scores: Tensor, items: Tensor) -> Tensor:
        """Scores [n, c] of shots [n] under maps fitted without them: [n, c']."""
        found = scores.new_zeros(len(scores), len(self.whole.bias), dtype=torch.float64)
        for fold, part in enumerate(self.parts):
            own = self.fold[items] == fold
            found[own] = part(scores[own])
        return found


def cross_fit(scores: Tensor, labels: Tensor, *, classes: int) -> CrossFitted:
    """The map with the penalty whose loss on held-out folds is least.

    Args:
        scores: [n, c] of the shots; broken rows (NaN) teach nothing.
        labels: [n].
        classes: c'.
    """
    fold = torch.empty_like(labels)
    for label in labels.unique():
        own = labels == label
        fold[own] = torch.arange(int(own.sum())) % FOLDS
    good = scores.isfinite().all(1)

    def fitted(keep: Tensor, penalty: float) -> Readout:
        z = scores[keep & good].double()
        mean, scale = z.mean(0), z.std(0).clamp(min=1e-9)
        weight, bias = logistic((z - mean) / scale, labels[keep & good], classes, penalty)
        return Readout(mean, scale, weight, bias, math.nan)

    best: CrossFitted | None = None
    for penalty in PENALTIES:
        parts = tuple(fitted(fold != part, penalty) for part in range(FOLDS))
        made = CrossFitted(fitted(good, penalty), parts, fold)
        loss = float(F.cross_entropy(made(scores, torch.arange(len(labels)))[good], labels[good]))
        if best is None or loss < best.whole.loss:
            best = replace(made, whole=replace(made.whole, loss=loss))
    assert best is not None
    return best


def guarded_readout(scores: Tensor, labels: Tensor, *, classes: int) -> tuple[CrossFitted, Guard]:
    """The map of all shots, and a guard that says whether it beats the raw scores on shots that it did not see.

    Args:
        scores: clean scores of the shots [n, c].
        labels: [n].
        classes: c'; where c is another number there is no start to compare with, and the map is taken.
    """
    made = cross_fit(scores, labels, classes=classes)
    mapped = made(scores, torch.arange(len(labels)))
    guard = Guard()
    # By hits alone: a map can always lower the loss of good scores by making them surer.
    for step, found in enumerate((scores, mapped) if scores.shape[1] == classes else (mapped,)):
        hits = (torch.nan_to_num(found, nan=-torch.inf).argmax(1) == labels).double()
        guard.consider(1 - hits, hits, step=step, queries=len(scores))
    if scores.shape[1] != classes:
        guard.kept_start = False
    return made, guard


def logistic(z: Tensor, labels: Tensor, classes: int, penalty: float) -> tuple[Tensor, Tensor]:
    """Weights [c', c] and biases [c'] of penalised multinomial logistic regression, by L-BFGS on the exact gradient.

    With more scores than shots the weights lie in the span of the shots: the problem is solved there.
    """
    basis = torch.linalg.qr(z.T)[0] if z.shape[1] > len(z) else torch.eye(z.shape[1], dtype=torch.float64)
    x = z @ basis
    with torch.enable_grad():
        w = torch.zeros(classes, x.shape[1], dtype=torch.float64, requires_grad=True)
        b = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([w, b], max_iter=STEPS, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(x @ w.T + b, labels) + penalty * (w**2).sum() / len(x)
            torch.autograd.backward(loss)
            return loss

        optimizer.step(closure)
    return w.detach() @ basis.T, b.detach()
