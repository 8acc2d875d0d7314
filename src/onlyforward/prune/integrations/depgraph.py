"""Torch-Pruning: our scores in its pruners, and our regulariser in its training loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from onlyforward.core.checks import check_choice, require
from onlyforward.core.errors import UsageError
from onlyforward.prune.connect import CoNNect
from onlyforward.prune.coupling import group_scores, translate
from onlyforward.prune.structured import weight_scores

tp = require("torch_pruning", "prune")


class ConnectImportance(tp.importance.Importance):  # type: ignore[misc]
    """A group importance for any of Torch-Pruning's pruners.

    Scores are computed afresh whenever a parameter is a new object or holds new values: after a step of Torch-Pruning
    all pruned parameters are new, so that what was kept for the old ones would mislead.

    Args:
        model: the model that the pruner prunes.
        example_inputs: one example.
        score: "share" (path shares, no data), "l2", "taylor" or "connect" (Taylor of L - 0.01 log phi).
        loss: gives the loss on calibration data; for "taylor" and "connect".

    Raises:
        UsageError: an unknown score, or one that needs a loss without one.
    """

    def __init__(
        self, model: nn.Module, example_inputs: Any, *, score: str = "share", loss: Callable[[], Tensor] | None = None
    ) -> None:
        self.score = check_choice(score, ("share", "l2", "taylor", "connect"), name="score")
        if loss is None and score in ("taylor", "connect"):
            raise UsageError(f"The score {score} needs a loss", "Give loss=lambda: cross_entropy(model(x), y)")
        self.model, self.example, self.loss = model, example_inputs, loss
        self.seen: list[tuple[Tensor, int]] = []
        self.scores: dict[str, Tensor] = {}

    def __call__(self, group: Any) -> Tensor | None:
        """The score of each channel of a group, divided by its mean: [channels], or None if nothing in it has one."""
        current = [(p, p._version) for p in self.model.parameters()]
        fresh = len(current) == len(self.seen) and all(
            p is q and version == known for (p, version), (q, known) in zip(current, self.seen)
        )
        if not fresh:
            with torch.enable_grad():
                self.scores = weight_scores(
                    self.score, self.model, self.example, self.loss or (lambda: torch.zeros(()))
                )
            self.seen = current
        names = {module: name for name, module in self.model.named_modules()}
        found = group_scores(translate(group._DG, group), self.scores, names)
        return None if found is None else (found / found.mean().clamp_min(1e-300)).float()


class ConnectPruner(tp.pruner.BasePruner):  # type: ignore[misc]
    """Torch-Pruning's pruner whose sparse training adds lambda2 R to the gradients.

    Args:
        model: pruned in place.
        example_inputs: one example.
        importance: by default ConnectImportance(model, example_inputs).
        strength: lambda2.
        options: Torch-Pruning's own.
    """

    def __init__(
        self, model: nn.Module, example_inputs: Any, importance: Any = None, *, strength: float = 1e-3, **options: Any
    ) -> None:
        super().__init__(
            model, example_inputs, importance=importance or ConnectImportance(model, example_inputs), **options
        )
        self.example, self.strength = example_inputs, strength
        self.update_regularizer()

    def update_regularizer(self) -> None:
        """Call after each pruning step, before training goes on."""
        self.measure = CoNNect(self.model, self.example)

    def regularize(self, model: nn.Module, loss: Any = None) -> Any:
        """Add the gradient of strength * R to the parameters' gradients; call between backward() and step()."""
        (self.strength * self.measure()).backward()  # type: ignore[no-untyped-call]
        return loss
