"""Lightning: the decoupled step as a callback."""

from __future__ import annotations

import importlib
from typing import Any

from onlyforward.core.errors import UsageError
from onlyforward.prune.connect import CoNNect


def base_class() -> Any:
    """Lightning's Callback, under either of its package names.

    Raises:
        UsageError: Lightning is not installed (it is no dependency of this project).
    """
    for name in ("lightning.pytorch", "pytorch_lightning"):
        try:
            return importlib.import_module(name).Callback
        except ModuleNotFoundError:
            continue
    raise UsageError("Lightning is not installed", "Run: pip install lightning")


def ConnectLightning(example_inputs: Any, *, strength: float = 0.01, start: float = 0.3, every: int = 10) -> Any:
    """A Lightning callback that takes the decoupled step.

    Args:
        example_inputs: one example of the module's forward.
        strength: a of the step.
        start: fraction of the steps before it acts.
        every: batches between two actions.

    Raises:
        UsageError: Lightning is not installed.
    """

    class Callback(base_class()):  # type: ignore[misc]
        measure: CoNNect | None = None

        def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
            step, total = trainer.global_step, trainer.estimated_stepping_batches
            if step < start * total or step % every:
                return
            if self.measure is None:
                self.measure = CoNNect(module, example_inputs, attention="qkv")
            self.measure.step_(strength)

    return Callback()
