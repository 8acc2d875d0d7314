"""The case `bottleneck`: a code of 16 hard bits in the middle of a network that is otherwise trained by gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from onlyforward.data.sets import load
from onlyforward.train.study import arm, compare

if TYPE_CHECKING:
    from torch import Tensor

    from onlyforward.run.benchmark import BenchOptions
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result


class StraightThrough(nn.Module):
    """sign(x) with the derivative 1 (arXiv 1308.3432), or the one of clip(x, -1, 1)."""

    def __init__(self, *, clipped: bool) -> None:
        super().__init__()
        self.clipped = clipped

    def forward(self, x: Tensor) -> Tensor:
        """+-1, forward as the hard sign."""
        soft = x.clamp(-1, 1) if self.clipped else x
        return soft + (torch.where(x >= 0, 1.0, -1.0) - soft).detach()


def straight_through(*, clipped: bool) -> Any:
    """A change of the network: its hard sign gets a made-up derivative."""

    def change(model: Any) -> None:
        model.sign = StraightThrough(clipped=clipped)

    return change


def bottleneck(options: BenchOptions, context: Context, result: Result) -> None:
    """The likelihood ratio at the code beside straight-through estimators."""
    arms = {
        "lr64": arm("lr", note="no made-up derivative at the code; backpropagation before and behind it"),
        "clipped_ste": arm("bp", change=straight_through(clipped=True), note="derivative of the clipped identity"),
        "ste": arm("bp", change=straight_through(clipped=False), note="derivative 1"),
        "frozen": arm("bp", note="backpropagation stops at the hard sign: body and code stay as they were"),
    }
    compare(options, context, result, "bottleneck", "bottleneck", load("digits"), arms)
