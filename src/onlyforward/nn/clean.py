"""The clean run's losses, what of the gradient they give exactly, and a check of what they rest on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from onlyforward.core.errors import Diverged, UsageError
from onlyforward.nn.activations import Objective
from onlyforward.nn.gradients import finite, graph_gradients, take
from onlyforward.nn.sites import Site
from onlyforward.nn.walk import Tape

if TYPE_CHECKING:
    from onlyforward.nn.engine import LikelihoodRatio


def clean_losses(
    engine: LikelihoodRatio, tape: Tape, objective: Objective, found: dict[nn.Parameter, Tensor]
) -> tuple[Tensor, Tensor | None]:
    """Losses [b] or [b, m] of the clean run, and the length [b] of their slope at an exact head.

    The exact head and backpropagated parts deposit their gradients. A loss that has a method `slope(output, target)`
    gives its own derivative; any other is differentiated by autograd, alone.
    """
    output, data, slope = tape.output, tape.data, None
    head = tape.calls[-1] if engine.head is not None and engine.kind_of(engine.head) == "exact" else None
    if isinstance(output, Tensor) and output.requires_grad:
        with torch.enable_grad():
            losses = objective.clean(output, data)
            graph_gradients(engine, losses.sum() / data, None, found)
        losses = losses.detach()
    elif head is not None and hasattr(objective.loss_fn, "slope"):
        losses, slope = objective.clean(output, data), objective.loss_fn.slope(output, objective.target)
        engine.smooth_loss = True
        take(engine, Site(head.path, head, head.output), slope, found, data)
    elif head is not None:
        with torch.enable_grad():
            leaf = output.detach().requires_grad_()
            losses = objective.clean(leaf, data)
            engine.smooth_loss = losses.requires_grad
            slope = torch.autograd.grad(losses, leaf, torch.ones_like(losses))[0] if losses.requires_grad else None
        losses = losses.detach()
        if slope is not None:
            take(engine, Site(head.path, head, head.output), slope, found, data)
    else:
        losses = objective.clean(output, data)
    if not finite(losses):
        raise Diverged(f"The loss is not finite in step {engine.steps}", "Lower the learning rate", step=engine.steps)
    engine.runs += data
    engine.data = data
    return losses, None if slope is None or engine.allocation is None else slope.flatten(1).norm(dim=1)


def check_flow(engine: LikelihoodRatio, tape: Tape, inputs: tuple[Any, ...]) -> None:
    """Refuse local flow for a network that reads more of a recurrent module than its last output."""
    if engine.flow == "local" and not tape.masks:
        # One datum shows it: the whole batch would keep every time step's output, which this flow is there to avoid.
        whole = engine.model(*(x[:1] if isinstance(x, Tensor) else x for x in inputs))
        short = tape.output[:1]
        if whole.shape != short.shape or not torch.allclose(whole, short, rtol=1e-3, atol=1e-4):
            raise UsageError("The network reads more than the last recurrent output", "Use flow full")
