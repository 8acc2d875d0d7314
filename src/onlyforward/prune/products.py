"""Function rules for what has a weight: products, convolutions, embeddings."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor

from onlyforward.core.errors import UsageError
from onlyforward.prune.elementwise import half, meet
from onlyforward.prune.mode import Call, Flow
from onlyforward.prune.semiring import Max, per_dimension


def linear(call: Call) -> Any:
    """X W' without bias."""
    mode, x, weight = call.mode, call.args[0], call.argument(1, "weight")
    if not mode.parameter(weight):
        return product(call, x, weight, transpose=True)
    signal = mode.get(x)
    return mode.put(mode.semiring.linear(signal.value, mode.theta(weight, weight.shape[-1])), signal.log)


def product(call: Call, a: Tensor, b: Tensor, *, transpose: bool = False) -> Any:
    """A @ b of any two operands; `transpose` for b given as [out, in]."""
    mode = call.mode
    if mode.live(a) and mode.live(b):
        (x, y), log = mode.align([a, b])
        return contract(mode, x, y.mT if transpose else y, log)
    if mode.parameter(a) or mode.parameter(b):
        weight, x = (b, a) if mode.live(a) else (a, b)
        fan = weight.shape[-1] if transpose or weight is a else weight.shape[-2 if weight.ndim > 1 else 0]
        factor = mode.theta(weight, fan)
    else:
        factor, x = (b, a) if mode.live(a) else (a, b)
        if factor.is_sparse or factor.layout in {torch.sparse_csr, torch.sparse_csc}:
            factor = factor.to_dense()
        factor = mode.constant(factor).abs()
    signal = mode.get(x)
    factor = factor.mT if transpose and factor.ndim > 1 else factor
    left, right = (signal.value, factor) if mode.live(a) else (factor, signal.value)
    return mode.put(mode.semiring.matmul(left, right), signal.log, pair=signal.pair)


def contract(mode: Flow, a: Tensor, b: Tensor, log: float) -> Tensor:
    """Two live matrices: the mean over what is contracted of sqrt(a b), as for scores of queries and keys."""
    a, b = half(a), half(b)
    found = mode.semiring.matmul(a, b)
    if not isinstance(mode.semiring, Max):
        found = found / a.shape[-1]
    return mode.put(found, log, pair=True)


def matmul(call: Call) -> Any:
    """torch.matmul and its kin."""
    return product(call, call.args[0], call.argument(1, "other", call.kwargs.get("mat2")))


def rmatmul(call: Call) -> Any:
    """Other @ self."""
    return product(call, call.args[1], call.args[0])


def addmm(call: Call) -> Any:
    """Bias + a @ b, and its batched form; the first operand counts if it is live."""
    first, a, b = call.args[:3]
    mode = call.mode
    found = product(call, a, b) if mode.live(a) or mode.live(b) else None
    if not mode.live(first):
        return found
    return first if found is None else meet(mode, first, found)


def einsum(call: Call) -> Any:
    """One parameter: its contracted letters are the fan; two live operands: the geometric mean; constants as is."""
    mode = call.mode
    equation, *operands = call.args
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        operands = list(operands[0])
    left, _, right = equation.replace(" ", "").partition("->")
    words = left.split(",")
    if len(operands) != 2 or (isinstance(mode.semiring, Max) and "..." in equation):
        return call.mode.as_is(call)
    live = [x for x in operands if mode.live(x)]
    aligned, log = mode.align(live)
    parts: list[Tensor] = []
    for word, x in zip(words, operands):
        if mode.live(x):
            value = aligned[[id(y) for y in live].index(id(x))]
            parts.append(half(value) if len(live) == 2 else value)
        elif mode.parameter(x):
            fan = prod([n for letter, n in zip(word, x.shape) if letter not in right])
            parts.append(mode.theta(x, max(1, fan)))
        else:
            parts.append(mode.constant(x).abs())
    if isinstance(mode.semiring, Max):
        found = best_einsum(words, right, parts)
    else:
        found = torch.einsum(equation, *parts)
        if len(live) == 2:
            sizes = {letter: n for word, x in zip(words, parts) for letter, n in zip(word, x.shape)}
            found = found / max(1, prod([n for letter, n in sizes.items() if letter not in right]))
    return mode.put(found, log, pair=len(live) == 2)


def best_einsum(words: list[str], right: str, parts: list[Tensor]) -> Tensor:
    """The product of two tensors with maxima in the place of sums."""
    contracted = sorted({letter for word in words for letter in word} - set(right))
    letters = list(right) + contracted
    wide = []
    for word, x in zip(words, parts):
        order = [word.index(letter) for letter in letters if letter in word]
        x = x.permute(order)
        wide.append(x[tuple(slice(None) if letter in word else None for letter in letters)])
    found = wide[0] * wide[1]
    return found.amax(tuple(range(len(right), len(letters)))) if contracted else found


def conv(call: Call) -> Any:
    """A convolution with W', bias dropped."""
    mode, weight = call.mode, call.argument(1, "weight")
    if not mode.parameter(weight):
        raise UsageError("A convolution has a kernel that depends on the input", "Give a rule for its module")
    signal = mode.get(call.args[0])
    stride, padding = call.argument(3, "stride", 1), call.argument(4, "padding", 0)
    dilation, groups = call.argument(5, "dilation", 1), call.argument(6, "groups", 1)
    theta = mode.theta(weight, prod(weight.shape[1:]))
    return mode.put(mode.semiring.conv(signal.value, theta, stride, padding, dilation, groups), signal.log)


def conv_transpose(call: Call) -> Any:
    """A transposed convolution with W'; each output sees prod(kernel) / prod(stride) taps."""
    mode, weight = call.mode, call.argument(1, "weight")
    signal = mode.get(call.args[0])
    stride, padding = call.argument(3, "stride", 1), call.argument(4, "padding", 0)
    extra, groups = call.argument(5, "output_padding", 0), call.argument(6, "groups", 1)
    dilation = call.argument(7, "dilation", 1)
    kernel = weight.shape[2:]
    fan = weight.shape[0] / groups * prod(kernel) / prod(per_dimension(stride, len(kernel)))
    theta = mode.theta(weight, fan)
    found = mode.semiring.conv_transpose(signal.value, theta, stride, padding, extra, groups, dilation)
    return mode.put(found, signal.log)


def bilinear(call: Call) -> Any:
    """x1 W x2: sqrt of both flows, then the mean-preserving product."""
    mode = call.mode
    a, b, weight = call.args[:3]
    live = [x for x in (a, b) if mode.live(x)]
    aligned, log = mode.align(live)
    sides = [half(v) if len(live) == 2 else v for v in aligned]
    if len(live) == 1:
        other = mode.constant(b if mode.live(a) else a).abs()
        sides = [sides[0], other] if mode.live(a) else [other, sides[0]]
    outer = (sides[0][..., :, None] * sides[1][..., None, :]).flatten(-2)
    return mode.put(mode.semiring.linear(outer, mode.theta(weight, prod(weight.shape[1:])).flatten(1)), log)


def embedding(call: Call) -> Any:
    """Column mass of |E|: every word of the vocabulary sends one."""
    mode = call.mode
    words, weight = call.args[0], call.argument(1, "weight")
    if mode.live(weight) and not mode.live(words):
        return mode.as_is(call)
    theta = mode.theta(weight, weight.shape[0])
    mass = mode.semiring.sum(theta, 0, False)
    return mode.put(mass.expand(*words.shape, weight.shape[1]).clone())


def embedding_bag(call: Call) -> Any:
    """The column mass once per bag."""
    mode = call.mode
    words, weight, offsets = call.args[0], call.argument(1, "weight"), call.argument(2, "offsets")
    bags = words.shape[0] if offsets is None else offsets.shape[0]
    mass = mode.semiring.sum(mode.theta(weight, weight.shape[0]), 0, False)
    return mode.put(mass.expand(bags, -1).clone())
