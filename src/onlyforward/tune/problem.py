"""A closed model as a function of a few coordinates: every row that is asked is counted, broken rows are dropped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from onlyforward.core.checks import check_integer_labels
from onlyforward.core.errors import OnlyForwardError, UsageError
from onlyforward.tune.scores import CrossEntropy, Objective, fit_temperature

BROKEN = 0.1
"""Largest share of rows that may come back as NaN."""


@dataclass
class Count:
    """Rows asked so far, and those that came back broken."""

    asked: int = 0
    broken: int = 0

    def add(self, answers: Tensor) -> None:
        """Count answers [n, c].

        Raises:
            OnlyForwardError: more than a tenth of all rows are NaN.
        """
        self.asked += len(answers)
        self.broken += int((~answers.isfinite()).any(1).sum())
        if self.broken > BROKEN * self.asked:
            raise OnlyForwardError(
                f"{self.broken} of {self.asked} answers hold NaN or infinite scores",
                "Mend the model, or check --range and --size",
            )


class Problem(Protocol):
    """What the loop and its peers tune.

    Attributes:
        start: [k], the coordinates that change nothing.
        train: [m], item numbers of the training shots.
        validation: [v], item numbers of the validation shots.
        count: rows asked.
    """

    start: Tensor
    train: Tensor
    validation: Tensor
    count: Count

    def ask(self, coordinates: Tensor, items: Tensor) -> Tensor:
        """Answers [n, c] to coordinates [n, k] (or [k] for all) on items [n]: one query a row."""
        ...

    def prepare(self) -> None:
        """Ask what must be known before the first step, within the budget."""
        ...

    def objective(self, clean: Tensor, items: Tensor) -> Objective:
        """The objective of a batch whose clean answers [b, c] are known."""
        ...

    def measure(self, answers: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Losses [n] and hits [n] (0 or 1) of answers [n, c] to items [n], for the guard."""
        ...


@dataclass
class Classifier:
    """A closed classifier behind an adapter.

    Attributes:
        oracle: rows [n, ...] -> scores [n, c].
        rows: (coordinates [n, k], items [n]) -> rows [n, ...].
        labels: [items].
        start: [k].
        train: item numbers.
        validation: item numbers.
        judge: the loss; fitted by `prepare` where it is not given.
        readout: (scores [n, c], items [n]) -> scores [n, c'] of the caller's own classes, or None.
    """

    oracle: Callable[[Tensor], Tensor]
    rows: Callable[[Tensor, Tensor], Tensor]
    labels: Tensor
    start: Tensor
    train: Tensor
    validation: Tensor
    judge: CrossEntropy | None = None
    readout: Callable[[Tensor, Tensor], Tensor] | None = None
    count: Count = field(default_factory=Count)

    def ask(self, coordinates: Tensor, items: Tensor) -> Tensor:
        """Scores [n, c] of the adapted items."""
        theta = coordinates.expand(len(items), -1) if coordinates.dim() == 1 else coordinates
        answers = self.oracle(self.rows(theta, items))
        if answers.dim() != 2:
            raise UsageError("The model answers one number a row", "Only classifiers with a score a class can be tuned")
        self.count.add(answers)
        return self.readout(answers, items) if self.readout is not None else answers

    def prepare(self) -> None:
        """Fit the temperature on the clean scores of all shots."""
        if self.judge is None:
            items = torch.cat((self.train, self.validation))
            clean = self.ask(self.start, items)
            if int(self.labels.max()) >= clean.shape[1]:
                raise UsageError(
                    f"The labels run to {int(self.labels.max())} and the model has {clean.shape[1]} outputs",
                    "Give --adapter output to map its scores to your classes",
                )
            check_integer_labels(self.labels, classes=clean.shape[1])
            good = clean.isfinite().all(1)
            self.judge = fit_temperature(clean[good], self.labels[items][good])

    def objective(self, clean: Tensor, items: Tensor) -> Objective:
        """Capped cross-entropy."""
        return self.loss.objective(clean, self.labels[items])

    def measure(self, answers: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Losses and hits; a broken row counts as the cap and a miss."""
        labels = self.labels[items]
        losses = torch.nan_to_num(self.loss.losses(answers, labels), nan=self.loss.cap)
        hits = (torch.nan_to_num(answers, nan=-torch.inf).argmax(1) == labels) & answers.isfinite().all(1)
        return losses, hits.double()

    @property
    def loss(self) -> CrossEntropy:
        """The fitted loss."""
        return self.judge or CrossEntropy()
