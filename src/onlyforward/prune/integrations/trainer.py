"""transformers: the decoupled step as a callback of its Trainer, and R in its loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from onlyforward.core.checks import require
from onlyforward.prune.connect import CoNNect

transformers = require("transformers", "hf")


class ConnectCallback(transformers.TrainerCallback):  # type: ignore[misc]
    """The decoupled step after every `every` optimiser steps, once `start` of the training is over.

    Args:
        example_inputs: positional example of the forward, or ().
        example_kwargs: keyword example, as {"input_ids": ids}.
        strength: a of the step.
        start: fraction of training before it acts.
        every: optimiser steps between two actions.
    """

    def __init__(
        self,
        example_inputs: Any = (),
        *,
        example_kwargs: Mapping[str, Any] | None = None,
        strength: float = 0.01,
        start: float = 0.3,
        every: int = 10,
    ) -> None:
        self.example, self.kwargs = example_inputs, example_kwargs
        self.strength, self.start, self.every = strength, start, every
        self.measure: CoNNect | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Called by the Trainer after an optimiser step."""
        if state.global_step < self.start * state.max_steps or state.global_step % self.every:
            return
        if self.measure is None:
            self.measure = CoNNect(given["model"], self.example, example_kwargs=self.kwargs, attention="qkv")
        self.measure.step_(self.strength)


class ConnectLoss:
    """A mix-in in front of transformers.Trainer: its loss plus `connect_strength` * R.

    `class Mine(ConnectLoss, Trainer): connect_kwargs = {"input_ids": ids}`.

    Attributes:
        connect_inputs: positional example of the forward.
        connect_kwargs: keyword example.
        connect_strength: lambda2; take weight decay beside it, R alone is blind to the loss.
    """

    connect_inputs: Any = ()
    connect_kwargs: Mapping[str, Any] | None = None
    connect_strength: float = 1e-3

    def compute_loss(self, model: nn.Module, inputs: Any, *args: Any, **given: Any) -> Any:
        """The Trainer's loss with the measure added."""
        found = super().compute_loss(model, inputs, *args, **given)  # type: ignore[misc]
        r = CoNNect(model, self.connect_inputs, example_kwargs=self.connect_kwargs)()
        if isinstance(found, tuple):
            return (found[0] + self.connect_strength * r, *found[1:])
        return found + self.connect_strength * r
