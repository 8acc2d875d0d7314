"""Function rules for reductions, pools, padding and messages, which move a signal between places."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from onlyforward.prune.mode import Call, Flow, Rule, Signal
from onlyforward.prune.semiring import Max, per_dimension


def reduce_with(kind: str) -> Rule:
    """Mean or sum over dimensions."""

    def rule(call: Call) -> Any:
        mode = call.mode
        signal = mode.get(call.args[0])
        if signal.token:
            return call.function(*call.args, **call.kwargs)
        dim = call.argument(1, "dim", call.kwargs.get("axis"))
        keepdim = bool(call.argument(2, "keepdim", False))
        dim = tuple(range(signal.value.ndim)) if dim is None else dim
        return mode.put(getattr(mode.semiring, kind)(signal.value, dim, keepdim), signal.log)

    return rule


def pool_with(dims: int) -> Rule:
    """Maximum and average pools: the mean over the same window."""

    def rule(call: Call) -> Any:
        mode = call.mode
        signal = mode.get(call.args[0])
        kernel, stride = call.argument(1, "kernel_size"), call.argument(2, "stride")
        kernel = per_dimension(kernel, dims)
        stride = kernel if stride is None or stride == [] else per_dimension(stride, dims)
        padding = per_dimension(call.argument(3, "padding", 0), dims)
        maximal = call.name.startswith("max")
        dilation = call.argument(4, "dilation", 1) if maximal else 1
        ceil = bool(call.argument(5 if maximal else 4, "ceil_mode", False))
        if set(per_dimension(dilation, dims)) != {1}:
            return mode.as_is(call)
        found = mode.put(mode.semiring.pool(signal.value, dims, kernel, stride, padding, ceil), signal.log)
        return (found, None) if call.name.endswith("with_indices") else found

    return rule


def adaptive_with(dims: int) -> Rule:
    """Adaptive pools: means over windows that tile the input."""

    def rule(call: Call) -> Any:
        signal = call.mode.get(call.args[0])
        size = call.argument(1, "output_size")
        return call.mode.put(call.mode.semiring.adaptive_pool(signal.value, dims, size), signal.log)

    return rule


def pad(call: Call) -> Any:
    """Padding with any constant is padding with zero."""
    mode = call.mode
    signal = mode.get(call.args[0])
    kind = call.argument(2, "mode", "constant")
    found = F.pad(signal.value, call.argument(1, "pad"), mode=kind)
    return mode.put(found, signal.log, token=signal.token)


def setitem(call: Call) -> Any:
    """x[places] = y."""
    mode = call.mode
    x, places, y = call.args
    signals = [z for z in (x, y) if mode.live(z)]
    aligned, log = mode.align(signals)
    values = {id(z): v for z, v in zip(signals, aligned)}
    base = values.get(id(x), torch.zeros_like(x, dtype=mode.dtype)).clone()
    base[places] = values.get(id(y), torch.zeros((), dtype=mode.dtype))
    mode.bind(x, Signal(base, log))
    return None


def scatter_add(call: Call) -> Any:
    """Messages of a graph summed at their nodes."""
    mode = call.mode
    base, dim, index, source = call.args[:4]
    return gather_at(mode, base, dim, index, source)


def index_add(call: Call) -> Any:
    """scatter_add along one dimension of rows."""
    mode = call.mode
    base, dim, index, source = call.args[:4]
    shape = [1] * source.ndim
    shape[dim] = -1
    return gather_at(mode, base, dim, index.view(shape).expand(source.shape), source)


def scatter_reduce(call: Call) -> Any:
    """Sums and maxima at the nodes; a mean divides by the count."""
    mode = call.mode
    base, dim, index, source = call.args[:4]
    kind = call.argument(4, "reduce", "sum")
    if kind in {"sum", "mean"}:
        found = gather_at(mode, base, dim, index, source)
        if kind == "mean" and not isinstance(mode.semiring, Max):
            signal = mode.get(found)
            count = torch.zeros_like(signal.value).scatter_add(dim, index, torch.ones_like(mode.get(source).value))
            return mode.put(signal.value / count.clamp_min(1), signal.log)
        return found
    signal = mode.get(source)
    zero = torch.zeros(base.shape, dtype=mode.dtype)
    return mode.put(zero.scatter_reduce(dim, index, signal.value, "amax"), signal.log)


def gather_at(mode: Flow, base: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    """Scatter in the semiring onto a base that may itself be live."""
    live = [x for x in (base, source) if mode.live(x)]
    aligned, log = mode.align(live)
    values = {id(x): v for x, v in zip(live, aligned)}
    start = values.get(id(base), torch.zeros(base.shape, dtype=mode.dtype))
    flow = values.get(id(source), torch.zeros(source.shape, dtype=mode.dtype))
    return mode.put(mode.semiring.scatter(start, dim, index, flow), log)


def copy(call: Call) -> Any:
    """x.copy_(y) with y live."""
    mode = call.mode
    x, y = call.args[:2]
    if not mode.live(y):
        return mode.put(torch.zeros_like(mode.get(x).value))
    signal = mode.get(y)
    return mode.put(signal.value.expand(x.shape).clone(), signal.log)
