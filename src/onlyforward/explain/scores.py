"""From answers to one score per row: probability, logit or log-probability of a target output."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from onlyforward.core.errors import UsageError

SCORES = ("probability", "logit", "log-probability")
Target = int | Tensor | Sequence[int] | Callable[[Tensor], Tensor] | None
"""Output index, one per x, or a function of the answers."""


def judge(answers: Tensor, target: Target, score: str) -> Tensor:
    """Scores [n] of answers [n] or [n, c].

    Raises:
        UsageError: a target out of range.
    """
    if callable(target):
        return torch.as_tensor(target(answers)).double()
    if answers.ndim == 1 or answers.shape[1] == 1:
        return answers.reshape(len(answers)).double()
    outputs = answers.shape[1]
    index = 0 if target is None else int(torch.as_tensor(target).flatten()[0])
    if not -outputs <= index < outputs:
        raise UsageError(f"The target {index} is out of range", f"The model has outputs 0 to {outputs - 1}")
    if score == "logit":
        return answers[:, index].double()
    values = probabilities(answers)
    return values[:, index] if score == "probability" else values[:, index].clamp_min(1e-300).log()


def probabilities(answers: Tensor) -> Tensor:
    """Rows that already sum to 1 as they are, others through softmax: [n, c]."""
    answers = answers.double()
    simplex = (answers >= 0).all(1) & ((answers.sum(1) - 1).abs() < 1e-3)
    return torch.where(simplex[:, None], answers, answers.softmax(1))
