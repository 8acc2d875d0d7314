"""Answers of a local black box kept in the run's checkpoints: a run that goes on asks only what it had not asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from onlyforward.run.context import Context


class Replay:
    """All calls of a run in order; the first ones come from the checkpoint.

    Calls must be the same in every run of the same options, which holds where questions are named by keys.
    """

    def __init__(self, context: Context) -> None:
        self.context, self.position = context, 0
        self.answers: list[Tensor] = []
        found = context.restore()
        if found is not None:
            self.answers = [found.tensors[f"answer_{i:06d}"] for i in range(int(found.data["answers"]))]

    def of(self, ask: Callable[[Tensor], Any]) -> Callable[[Tensor], Tensor]:
        """The black box whose answers are kept."""

        def replayed(rows: Tensor) -> Tensor:
            if self.position < len(self.answers):
                answer = self.answers[self.position]
                self.position += 1
                return answer
            answer = torch.as_tensor(ask(rows)).detach()
            self.answers.append(answer)
            self.position += 1
            self.context.save(self.position, self.state)
            return answer

        return replayed

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What a checkpoint holds."""
        return {f"answer_{i:06d}": a for i, a in enumerate(self.answers)}, {"answers": len(self.answers)}
