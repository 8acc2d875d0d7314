"""Recording one unit's call in the clean run, and the sites that the call offers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from onlyforward.core.keys import Key
from onlyforward.nn.flow import local_sites, record_last
from onlyforward.nn.layout import first
from onlyforward.nn.recurrent import record_steps, step_sites
from onlyforward.nn.sites import RECURRENT, Call, Site, channel_site, learns, trained_names, weight_site


def record(call: Call, kind: str, forward: Callable[..., Any]) -> Any:
    """Run the unit, note its clean output, and return what the network goes on with.

    Where backpropagation goes on upstream, a perturbed unit keeps its graph and hands on a detached output: the
    likelihood ratio's delta is then the cotangent of that graph. A time loop has no graph of its own: each step's delta
    becomes the cotangent of the step's input.
    """
    tracked = any(isinstance(x, Tensor) and x.requires_grad for x in call.inputs)
    if kind == "exact":
        call.inputs = tuple(x.detach() if isinstance(x, Tensor) else x for x in call.inputs)
    if kind in ("bp", "exact"):
        with torch.enable_grad():
            out = forward(*call.inputs, **call.named)
        call.output = detached(out)
        return out
    if kind == "frozen":
        out = forward(*call.inputs, **call.named) if tracked else without_graph(forward, call)
        call.output = detached(out)
        return out
    if kind == "lr" and feeds(call):
        call.feed, call.inputs = call.inputs[0], detached(call.inputs)
        with torch.no_grad():
            out = record_steps(call)
    elif tracked:
        out = forward(*call.inputs, **call.named)
        call.graph = first(out)
        call.inputs = detached(call.inputs)
    elif kind == "local":
        with torch.no_grad():
            out = record_last(call)
    elif type(call.module) in RECURRENT and kind == "lr":
        with torch.no_grad():
            out = record_steps(call)
    else:
        out = without_graph(forward, call)
    call.output = detached(out)
    return call.output


def feeds(call: Call) -> bool:
    """Whether a recurrent call has a graph behind its sequence, and none behind its first state."""
    return (
        type(call.module) in RECURRENT and has_graph(call.inputs[0]) and not has_graph((*call.inputs[1:], call.named))
    )


def has_graph(value: Any) -> bool:
    """Whether a tensor in it requires a gradient."""
    if isinstance(value, Mapping):
        return has_graph(tuple(value.values()))
    if isinstance(value, (tuple, list)):
        return any(map(has_graph, value))
    return isinstance(value, Tensor) and value.requires_grad


def without_graph(forward: Callable[..., Any], call: Call) -> Any:
    """The unit's output without a graph."""
    if not torch.is_grad_enabled():
        return forward(*call.inputs, **call.named)
    with torch.no_grad():
        return forward(*call.inputs, **call.named)


def detached(value: Any) -> Any:
    """Tensors without their graphs."""
    if isinstance(value, (tuple, list)):
        return type(value)(detached(item) for item in value)
    return value.detach() if isinstance(value, Tensor) and value.requires_grad else value


def sites_of(call: Call, kind: str) -> Iterable[Site]:
    """Where noise can enter a recorded call under its planned kind."""
    if kind in ("bp", "exact", "frozen") or (call.graph is None and not learns(call.module)):
        return []
    if kind == "channel":
        return [channel_site(call.path, call)]
    if kind == "weights":
        return [weight_site(call.path, call, trained_names(call.module))]
    if kind == "local":
        return local_sites(call)
    if call.state is not None:
        return step_sites(call)
    return [Site(call.path, call, first(call.output))]


def visited(call: Call, sites: Iterable[Site], share: float, run: int, step: int) -> Iterable[Site]:
    """A random share of the time steps of a recurrent call, at least one; other calls keep their only site."""
    if call.state is None:
        return sites
    steps = list(sites)
    count = max(1, round(share * len(steps)))
    key = Key(run=run, step=step, site=f"visits/{call.path}")
    chosen = torch.randperm(len(steps), generator=key.generator())[:count].sort().values.tolist()
    for index in chosen:
        steps[index].share = count / len(steps)
    return [steps[index] for index in chosen]


def loose_site(part: Any, index: int) -> Site | None:
    """The shared-noise site of the parameters of a part that belong to no unit, or None where none is trained."""
    names = tuple(name for name in part.loose if part.module.get_parameter(name).requires_grad)
    call = Call(f"{part.path}*", part.module, (), {}, None, index, -1)
    return weight_site(call.path, call, names) if names else None
