"""How each operation carries flow: the function rules, as a value that a user can extend."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from onlyforward.core.errors import UsageError
from onlyforward.prune.mode import Call, Flow, ModuleRule, Rule, Signal
from onlyforward.prune.modules import attend, attention, graph_modules, gru, lstm, rnn
from onlyforward.prune.modules import root as geometric
from onlyforward.prune.semiring import Max, per_dimension


@dataclass(frozen=True)
class Rules:
    """Function and module rules.

    Attributes:
        functions: name of an operation -> rule(call) -> tensor.
        modules: class of a module -> rule(flow, module, args, kwargs), which replaces its forward.
    """

    functions: Mapping[str, Rule] = field(default_factory=dict)
    modules: Mapping[type, ModuleRule] = field(default_factory=dict)

    def register_rule(self, target: str | type | Callable[..., Any], rule: Any) -> Rules:
        """These rules and one more, for an operation (its name or function) or a class of modules."""
        if isinstance(target, type) and issubclass(target, nn.Module):
            return Rules(self.functions, {**self.modules, target: rule})
        name = target if isinstance(target, str) else getattr(target, "__name__", str(target))
        return Rules({**self.functions, name: rule}, self.modules)


def register_rule(target: str | type | Callable[..., Any], rule: Any, rules: Rules | None = None) -> Rules:
    """The default rules (or `rules`) with one more: hand the result to CoNNect(rules=...)."""
    return (rules or default_rules()).register_rule(target, rule)


# Weights ------------


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


# Norms and elementwise ----------


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
        return mode.put(signal.value, signal.log)
    gain = torch.ones((), dtype=mode.dtype) if gamma is None else mode.size(gamma)
    if mode.batch_norm == "fold" and variance is not None:
        gain = gain / (variance.detach().to(mode.dtype) + eps).sqrt()
    if gain.ndim == 0:
        return mode.put(signal.value, signal.log)
    return mode.put(signal.value * per_channel(mode.gain(gain), signal.value), signal.log)


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
        return mode.put(geometric(x, y), log, pair=mode.get(a).pair or mode.get(b).pair)
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
        return mode.put(signal.value * 1, signal.log, pair=signal.pair)
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
    return mode.put(signal.value * 1, signal.log, pair=signal.pair)


def identity(call: Call) -> Any:
    """Activations and casts send the flow through."""
    x = call.args[0] if call.args else call.kwargs.get("input")
    mode = call.mode
    if not mode.live(x):
        return mode.as_is(call)
    signal = mode.get(x)
    if signal.token:
        return mode.as_is(call) if call.name in CASTS else call.function(*call.args, **call.kwargs)
    return mode.bind(x, signal) if call.name in CASTS else mode.put(signal.value * 1, signal.log, pair=signal.pair)


def softmax(call: Call) -> Any:
    """Identity; of attention scores under "value": an equal share for every token."""
    mode = call.mode
    signal = mode.get(call.args[0])
    if signal.pair and mode.attention == "value":
        dim = call.argument(1, "dim", -1)
        value = torch.ones_like(signal.value)
        return value / value.shape[-1 if dim is None else dim]
    return mode.put(signal.value * 1, signal.log, pair=signal.pair)


def gated(call: Call) -> Any:
    """glu: the two halves as gates of each other."""
    mode = call.mode
    signal = mode.get(call.args[0])
    a, b = signal.value.chunk(2, dim=call.argument(1, "dim", -1))
    return mode.put(geometric(a, b), signal.log)


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
        return mode.put(signal.value * 1, signal.log, pair=True)
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
        return mode.put(signal.value * 1, signal.log, pair=True)
    chosen = condition if mode.live(a) else ~condition
    return mode.put(torch.where(chosen, signal.value, torch.zeros_like(signal.value)), signal.log)


# Reductions, pools, places ----------


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


def constant_result(call: Call) -> Any:
    """Shapes, new constants and comparisons: nothing live comes out."""
    args, kwargs, _, _, _ = call.mode.values(call)
    return call.function(*args, **kwargs)


def as_is(call: Call) -> Any:
    """Views, places and maxima: the operation itself on the flow."""
    return call.mode.as_is(call)


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

ACTIVATIONS = """
relu relu6 gelu silu tanh sigmoid log_softmax elu leaky_relu prelu hardswish hardsigmoid hardtanh mish softplus
softsign logsigmoid celu selu rrelu hardshrink tanhshrink softshrink threshold dropout dropout1d dropout2d
dropout3d alpha_dropout feature_dropout feature_alpha_dropout clamp clip clamp_min clamp_max neg negative positive
abs absolute exp expm1 log log1p square sqrt erf nan_to_num normalize round floor ceil softmin sin cos tan atan
sinh asinh logit lerp clone
"""

PASSED = """
view reshape flatten unflatten permute transpose swapaxes swapdims movedim moveaxis t expand expand_as squeeze
unsqueeze getitem cat concat concatenate stack hstack vstack chunk split tensor_split unbind index_select gather
select narrow roll flip repeat repeat_interleave tile take take_along_dim unfold view_as reshape_as masked_select
maximum minimum max min amax amin cumsum pixel_shuffle pixel_unshuffle channel_shuffle as_strided diagonal tril
triu interpolate upsample broadcast_to atleast_1d atleast_2d atleast_3d ravel adjoint fold topk sort
"""

CONSTANT = """
size dim numel shape new_zeros new_ones new_full new_empty new_tensor zeros_like ones_like full_like empty_like
rand_like randn_like eq ne lt le gt ge __eq__ __ne__ __lt__ __le__ __gt__ __ge__ isnan isinf isfinite argmax argmin
argsort is_floating_point is_complex stride storage_offset ndimension element_size __len__ is_contiguous get_device
item tolist numpy any all nonzero __bool__ __float__ __int__ allclose equal is_nonzero bool int long numel nelement
__repr__ __format__ bitwise_not logical_not __contains__ is_inference is_pinned __hash__ _is_view has_names unique
bincount count_nonzero signbit sign
"""


def default_rules() -> Rules:
    """Every rule that ships, as a fresh value."""
    functions: dict[str, Rule] = {
        "linear": linear,
        "addmm": addmm,
        "addmv": addmm,
        "baddbmm": addmm,
        "addbmm": addmm,
        "rmatmul": rmatmul,
        "einsum": einsum,
        "bilinear": bilinear,
        "embedding": embedding,
        "embedding_bag": embedding_bag,
        "batch_norm": batch_norm,
        "layer_norm": norm_with(2, False),
        "rms_norm": norm_with(2, False),
        "group_norm": norm_with(2, True),
        "instance_norm": norm_with(3, True),
        "local_response_norm": identity,
        "mul": multiply,
        "div": divide,
        "add": add,
        "sub": add,
        "rsub": add,
        "subtract": add,
        "reciprocal": ones,
        "rsqrt": ones,
        "var": ones,
        "std": ones,
        "norm": ones,
        "vector_norm": ones,
        "linalg_vector_norm": ones,
        "logsumexp": ones,
        "pow": power,
        "softmax": softmax,
        "glu": gated,
        "masked_fill": fill,
        "where": where,
        "mean": reduce_with("mean"),
        "sum": reduce_with("sum"),
        "pad": pad,
        "setitem": setitem,
        "scatter_add": scatter_add,
        "index_add": index_add,
        "scatter_reduce": scatter_reduce,
        "copy": copy,
        "scaled_dot_product_attention": attention,
        "multi_head_attention_forward": attend,
        "lstm": lstm,
        "gru": gru,
        "rnn_tanh": rnn,
        "rnn_relu": rnn,
    }
    functions |= dict.fromkeys(("matmul", "mm", "bmm", "mv", "spmm"), matmul)
    for dims in (1, 2, 3):
        functions |= {f"conv{dims}d": conv, f"conv_transpose{dims}d": conv_transpose}
        functions |= {f"{kind}_pool{dims}d": pool_with(dims) for kind in ("avg", "max")}
        functions[f"max_pool{dims}d_with_indices"] = pool_with(dims)
        functions |= {f"adaptive_{kind}_pool{dims}d": adaptive_with(dims) for kind in ("avg", "max")}
    functions |= {name: identity for name in (*ACTIVATIONS.split(), *CASTS)}
    functions |= {name: as_is for name in PASSED.split()}
    functions |= {name: constant_result for name in CONSTANT.split()}
    functions |= {f"get:{name}": as_is for name in ("T", "mT", "H", "mH", "data", "real")}
    return Rules(functions, graph_modules())
