"""Keep the best: the validation shots decide what is returned, and the start is among the candidates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from onlyforward.tune.problem import Problem


@dataclass
class Guard:
    """The best coordinates by validation so far.

    Higher accuracy is better, and among equals the lower mean loss. The start is replaced only by a state whose paired
    losses or paired hits are better by `margin` standard errors and whose accuracy is not lower: a handful of shots can
    flatter by chance.

    Attributes:
        margin: standard errors by which the start must be beaten.
        start: losses [v] of the start.
        start_hits: hits [v] of the start.
        best: coordinates [k].
        loss: mean validation loss of the best.
        accuracy: validation accuracy of the best.
        idle: measurements since the best was found.
        kept_start: whether nothing beat the start.
        history: one record a measurement.
    """

    margin: float = 1.0
    start: Tensor = field(default_factory=lambda: torch.zeros(0))
    start_hits: Tensor = field(default_factory=lambda: torch.zeros(0))
    best: Tensor = field(default_factory=lambda: torch.zeros(0))
    loss: float = float("inf")
    accuracy: float = 0.0
    idle: int = 0
    kept_start: bool = True
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def start_accuracy(self) -> float:
        """Validation accuracy of the start."""
        return float(self.start_hits.mean())

    def measure(self, problem: Problem, coordinates: Tensor, *, step: int) -> None:
        """Ask the validation shots at these coordinates [k] and keep them if they are better."""
        answers = problem.ask(coordinates, problem.validation)
        losses, hits = problem.measure(answers, problem.validation)
        if self.consider(losses, hits, step=step, queries=problem.count.asked):
            self.best = coordinates.clone()

    def consider(self, losses: Tensor, hits: Tensor, *, step: int, queries: int) -> bool:
        """Take in losses [v] and hits [v] of a state; whether it is the best so far (the first one is the start)."""
        loss, accuracy = float(losses.mean()), float(hits.mean())
        self.history.append({"step": step, "queries": queries, "loss": loss, "accuracy": accuracy})
        if not len(self.start):
            self.start, self.start_hits, self.loss, self.accuracy = losses, hits, loss, accuracy
            return True
        self.idle += 1
        beats = self.beyond_chance(self.start - losses) or self.beyond_chance(hits - self.start_hits)
        if accuracy < self.start_accuracy or not beats or (accuracy, -loss) <= (self.accuracy, -self.loss):
            return False
        self.loss, self.accuracy, self.idle, self.kept_start = loss, accuracy, 0, False
        return True

    def beyond_chance(self, gain: Tensor) -> bool:
        """Whether the mean of paired gains [v] lies more than `margin` standard errors above zero."""
        error = float(gain.std()) / len(gain) ** 0.5 if len(gain) > 1 else 0.0
        return float(gain.mean()) > self.margin * error

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and data for a checkpoint."""
        tensors = {"guard_start": self.start, "guard_hits": self.start_hits, "guard_best": self.best}
        return tensors, {name: getattr(self, name) for name in ("loss", "accuracy", "idle", "kept_start", "history")}

    def load_state(self, tensors: Mapping[str, Tensor], data: Mapping[str, Any]) -> None:
        """Continue where `state()` was taken."""
        self.start, self.start_hits = tensors["guard_start"], tensors["guard_hits"]
        self.best = tensors["guard_best"]
        for name, value in data.items():
            setattr(self, name, value)
