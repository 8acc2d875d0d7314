"""A map of a closed model's scores: calibration, or its classes made into yours; the gradient is exact, no extra query.

Multinomial logistic regression on standardised scores with an L2 penalty that the validation shots choose.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from onlyforward.tune.guard import Guard

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
"""Weights of |W|^2 that are tried, in units of the mean loss."""
STEPS = 60


@dataclass(frozen=True)
class Readout:
    """Scores [n, c] -> scores [n, c'] of the caller's classes.

    Attributes:
        mean: [c], of the shots' scores.
        scale: [c].
        weight: [c', c].
        bias: [c'].
        validation: mean validation loss of the chosen penalty.
    """

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor
    validation: float

    def __call__(self, scores: Tensor) -> Tensor:
        """The caller's scores."""
        return ((scores.double() - self.mean) / self.scale) @ self.weight.T + self.bias

    def tensors(self) -> dict[str, Tensor]:
        """Named tensors for a file."""
        return {"mean": self.mean, "scale": self.scale, "weight": self.weight, "bias": self.bias}


def fit_readout(scores: Tensor, labels: Tensor, kept: Tensor, kept_labels: Tensor, *, classes: int) -> Readout:
    """Fit on the training shots, choose the penalty on the validation shots.

    Args:
        scores: [m, c] of the training shots.
        labels: [m].
        kept: [v, c] of the validation shots.
        kept_labels: [v].
        classes: c'.
    """
    z = scores.double()
    mean, scale = z.mean(0), z.std(0).clamp(min=1e-9)
    best: Readout | None = None
    for penalty in PENALTIES:
        weight, bias = logistic((z - mean) / scale, labels, classes, penalty)
        made = Readout(mean, scale, weight, bias, 0.0)
        loss = float(F.cross_entropy(made(kept), kept_labels))
        if best is None or loss < best.validation:
            best = Readout(mean, scale, weight, bias, loss)
    assert best is not None
    return best


def guarded_readout(scores: Tensor, labels: Tensor, train: int, *, classes: int) -> tuple[Readout, Guard]:
    """The map fitted on the first `train` rows, and a guard that says whether it beats the raw scores on the others.

    Args:
        scores: clean scores of the shots [m + v, c], training ones first.
        labels: [m + v].
        train: m.
        classes: c'; where c is another number there is no start to compare with, and the map is taken.
    """
    kept, own = scores[train:], labels[train:]
    readout = fit_readout(scores[:train], labels[:train], kept, own, classes=classes)
    guard = Guard()
    # By hits alone: a map can always lower the loss of good scores by making them surer.
    for step, found in enumerate((kept, readout(kept)) if scores.shape[1] == classes else (readout(kept),)):
        hits = (found.argmax(1) == own).double()
        guard.consider(1 - hits, hits, step=step, queries=len(scores))
    if scores.shape[1] != classes:
        guard.kept_start = False
    return readout, guard


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
