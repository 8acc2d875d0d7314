"""Function rules for norms, gates, sums and activations, which keep the shape of a signal."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor

from onlyforward.prune.mode import Call, Flow, Rule, Signal
from onlyforward.prune.modules import root
from onlyforward.prune.normal import Gain

CASTS = {
    "to",
    "float",
    "double",
    "half",
    "bfloat16",
    "type",
    "type_as",
    "contiguous",
    "detach",
    "requires_grad_",
    "cpu",
}


def per_channel(gain: Tensor, like: Tensor) -> Tensor:
    """[c] as [c, 1, ...] against [b, c, ...]."""
    return gain.view(-1, *(1,) * (like.ndim - 2))


def batch_norm(call: Call) -> Any:
    """|gamma| / sqrt(var + eps), scaled to mean 1; or |gamma| alone; or nothing."""
    mode, x = call.mode, call.args[0]
    variance, gamma = call.argument(2, "running_var"), call.argument(3, "weight")
    eps = call.argument(7, "eps", 1e-5)
    signal = mode.get(x)
    if mode.batch_norm == "off":
        return mode.again(signal)
    fold = mode.batch_norm == "fold" and variance is not None
    inverse = (variance.to(mode.dtype) + eps).rsqrt() if fold else None
    if gamma is None and inverse is None:
        return mode.again(signal)
    if gamma is None or inverse is None or mode.normalize == "none":
        factor = inverse if gamma is None else gamma if inverse is None else gamma * inverse
        return mode.put(signal.value * per_channel(mode.gain(factor), signal.value), signal.log)
    scaled: Tensor = Gain.apply(signal.value, gamma.to(mode.dtype), inverse)  # type: ignore[no-untyped-call]
    return mode.bind(scaled, Signal(scaled, signal.log, signal.pair))


def norm_with(place: int, channels_first: bool) -> Rule:
    """A norm whose factor is an argument: |gamma| scaled to mean 1, no statistics."""

    def rule(call: Call) -> Any:
        mode = call.mode
        gamma = call.argument(place, "weight")
        signal = mode.get(call.args[0])
        if gamma is None:
            return mode.put(signal.value, signal.log)
        gain = mode.gain(gamma)
        return mode.put(signal.value * (per_channel(gain, signal.value) if channels_first else gain), signal.log)

    return rule


def half(x: Tensor) -> Tensor:
    """sqrt(x), with gradient 0 where x = 0."""
    return torch.where(x > 0, torch.where(x > 0, x, torch.ones_like(x)).sqrt(), torch.zeros_like(x))


def multiply(call: Call) -> Any:
    """Gates: sqrt(a b); a parameter: |p| of mean 1; a constant: |c|, but a number alone is no connectivity."""
    mode = call.mode
    a, b = call.args[0], call.argument(1, "other")
    if mode.live(a) and mode.live(b):
        if mode.get(a).token or mode.get(b).token:
            return mode.as_is(call)
        (x, y), log = mode.align([a, b])
        return mode.put(root(x, y), log, pair=mode.get(a).pair or mode.get(b).pair)
    x, other = (a, b) if mode.live(a) else (b, a)
    signal = mode.get(x)
    if signal.token:
        return mode.as_is(call)
    return scale(mode, signal, other)


def scale(mode: Flow, signal: Signal, other: Any) -> Any:
    """A signal times a parameter or a constant."""
    if not isinstance(other, Tensor) or other.numel() == 1:
        shape = other.shape if isinstance(other, Tensor) else ()
        value = signal.value.expand(torch.broadcast_shapes(signal.value.shape, shape))
        zero = not mode.parameter(other) and bool(torch.as_tensor(other) == 0)
        return mode.put(torch.zeros_like(value) if zero else value * 1, signal.log, pair=signal.pair)
    if mode.parameter(other):
        return mode.put(signal.value * mode.gain(other), signal.log, pair=signal.pair)
    factor = mode.constant(other)
    factor = factor.abs() if factor.dtype != torch.bool else factor
    # Mean and standard deviation of an image's channels rescale the input; they connect nothing.
    channels = signal.value.ndim >= 3 and factor.ndim >= 3 and prod(factor.shape[-2:]) == 1
    if channels and bool((factor > 0).all()):
        factor = factor / factor.mean()
    return mode.put(signal.value * factor, signal.log, pair=signal.pair)


def divide(call: Call) -> Any:
    """By a live tensor: a norm, left out; by a constant: times 1 / |c|."""
    mode = call.mode
    a, b = call.args[0], call.argument(1, "other")
    if not mode.live(a):
        return ones(call)
    signal = mode.get(a)
    if signal.token:
        return mode.as_is(call)
    if mode.live(b):
        value = signal.value.expand(torch.broadcast_shapes(signal.value.shape, b.shape))
        return mode.put(value * 1, signal.log, pair=signal.pair)
    if mode.parameter(b):
        return mode.again(signal)
    return scale(mode, signal, 1.0 / mode.constant(b) if isinstance(b, Tensor) else 1.0)


def ones(call: Call) -> Any:
    """A statistic of the signal, such as 1 / sqrt(variance): it connects nothing."""
    x = next(leaf for leaf in (*call.args, *call.kwargs.values()) if call.mode.live(leaf))
    return torch.ones_like(call.mode.get(x).value)


def meet(mode: Flow, a: Tensor, b: Tensor) -> Tensor:
    """Two live branches that are added."""
    (x, y), log = mode.align([a, b])
    return mode.put(mode.semiring.add(x, y), log, pair=mode.get(a).pair or mode.get(b).pair)


def add(call: Call) -> Any:
    """Residual branches meet; parameters (biases, positions) and constants (masks, means) add nothing."""
    mode = call.mode
    a, b = call.args[0], call.argument(1, "other")
    live = [x for x in (a, b) if mode.live(x)]
    if any(mode.get(x).token for x in live):
        return mode.as_is(call)
    if len(live) == 2:
        return meet(mode, a, b)
    signal = mode.get(live[0])
    other = b if mode.live(a) else a
    if isinstance(other, Tensor):
        shape = torch.broadcast_shapes(signal.value.shape, other.shape)
        return mode.put(signal.value.expand(shape) * 1, signal.log, pair=signal.pair)
    return mode.again(signal)


def identity(call: Call) -> Any:
    """Activations and casts send the flow through."""
    x = call.args[0] if call.args else call.kwargs.get("input")
    mode = call.mode
    if not mode.live(x):
        return mode.as_is(call)
    signal = mode.get(x)
    if signal.token:
        return mode.as_is(call) if call.name in CASTS else call.function(*call.args, **call.kwargs)
    return mode.bind(x, signal) if call.name in CASTS else mode.again(signal)


def softmax(call: Call) -> Any:
    """Identity; of attention scores under "value": an equal share for every token."""
    mode = call.mode
    signal = mode.get(call.args[0])
    if signal.pair and mode.attention == "value":
        dim = call.argument(1, "dim", -1)
        value = torch.ones_like(signal.value)
        return value / value.shape[-1 if dim is None else dim]
    return mode.again(signal)


def gated(call: Call) -> Any:
    """glu: the two halves as gates of each other."""
    mode = call.mode
    signal = mode.get(call.args[0])
    a, b = signal.value.chunk(2, dim=call.argument(1, "dim", -1))
    return mode.put(root(a, b), signal.log)


def power(call: Call) -> Any:
    """x**p: a positive power is an activation, a negative one a statistic."""
    exponent = call.argument(1, "exponent", 2)
    if isinstance(exponent, (int, float)) and exponent < 0:
        return ones(call)
    return identity(call)


def fill(call: Call) -> Any:
    """masked_fill: of attention scores nothing, else zero."""
    mode = call.mode
    x = call.args[0]
    if not mode.live(x):
        return mode.as_is(call)
    signal = mode.get(x)
    if signal.token:
        return call.function(*call.args, **call.kwargs)
    if signal.pair:
        return mode.again(signal)
    mask = call.argument(1, "mask")
    return mode.put(signal.value.masked_fill(mask, 0.0), signal.log)


def where(call: Call) -> Any:
    """The live branch where it is chosen, zero elsewhere."""
    mode = call.mode
    condition, a, b = call.args
    if mode.live(a) and mode.live(b):
        return mode.as_is(call)
    x = a if mode.live(a) else b
    if not mode.live(x):
        return mode.as_is(call)
    signal = mode.get(x)
    if signal.token:
        return call.function(condition, a, b)
    if signal.pair:
        return mode.again(signal)
    chosen = condition if mode.live(a) else ~condition
    return mode.put(torch.where(chosen, signal.value, torch.zeros_like(signal.value)), signal.log)
