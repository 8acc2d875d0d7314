"""From cotangents to `p.grad`: local rules, graphs of backpropagated parts, and the deposit at the end of a step."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from onlyforward.core.errors import Diverged, UsageError
from onlyforward.nn.plan import planned
from onlyforward.nn.sites import Call, Site

if TYPE_CHECKING:
    from onlyforward.nn.engine import LikelihoodRatio


def take(engine: LikelihoodRatio, site: Site, delta: Tensor, found: dict[nn.Parameter, Tensor], data: int) -> None:
    """Add a site's cotangent, through its graph or its local rule, to the gradients."""
    if site.call.graph is not None:
        graph_gradients(engine, site.call.graph, delta / data, found)
        return
    delta = delta / (data * site.share)
    for name, value in pulled(engine, site, delta).items():
        parameter = site.call.module.get_parameter(name)
        if parameter.requires_grad:
            add_gradient(found, parameter, value)
    site.hand_on(delta)


def hand_on(engine: LikelihoodRatio, calls: Iterable[Call], found: dict[nn.Parameter, Tensor]) -> None:
    """Backpropagate, once per call, what the sites of time loops have handed on."""
    for call in calls:
        if call.feed is not None and call.cotangent is not None:
            graph_gradients(engine, call.feed, call.cotangent, found)


def pulled(engine: LikelihoodRatio, site: Site, delta: Tensor) -> Mapping[str, Tensor]:
    """The site's local rule, or what the engine's `fail` says where it does not work.

    Raises:
        UsageError: the rule does not work and `fail` is "raise".
    """
    try:
        return site.pull(delta)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        kind = type(site.call.module).__name__
        told = f"The local rule of {site.path} ({kind}) does not work: {str(error).splitlines()[0]}"
        hint = f"Write one: @onlyforward.register_rule({kind}), or plan it as weights, bp or frozen"
        if engine.fail == "raise":
            raise UsageError(told, hint) from error
        if engine.fail == "warn":
            warnings.warn(f"{told}; it is not trained. {hint}", stacklevel=2)
        return {}


def graph_gradients(
    engine: LikelihoodRatio, root: Tensor, cotangent: Tensor | None, found: dict[nn.Parameter, Tensor]
) -> None:
    """Backpropagate into the parts of the plan that have a graph."""
    wanted = [
        p
        for name, p in engine.model.named_parameters()
        if p.requires_grad and planned(engine.plan, name.rpartition(".")[0]) != "frozen"
    ]
    pulled = torch.autograd.grad(root, wanted, cotangent, allow_unused=True, retain_graph=True)
    for parameter, value in zip(wanted, pulled):
        if value is not None:
            add_gradient(found, parameter, value)


def deposit(engine: LikelihoodRatio, found: Mapping[nn.Parameter, Tensor]) -> None:
    """Add finished gradients to `p.grad`, as autograd does."""
    if not all(map(finite, found.values())):
        raise Diverged(
            f"A gradient is not finite in step {engine.steps}", "Lower the learning rate or sigma", step=engine.steps
        )
    for parameter, value in found.items():
        parameter.grad = value if parameter.grad is None else parameter.grad + value


def finite(value: Tensor) -> bool:
    """Whether all numbers are finite: one sum, and a look at each number only where that overflows."""
    return math.isfinite(float(value.sum())) or bool(value.isfinite().all())


def add_gradient(found: dict[nn.Parameter, Tensor], parameter: nn.Parameter, value: Tensor) -> None:
    """Tied parameters and repeated calls accumulate."""
    found[parameter] = value if parameter not in found else found[parameter] + value


@contextmanager
def quiet() -> Iterator[None]:
    """No gradients, and no fast path of torch's attention modules, which passes their submodules by."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
