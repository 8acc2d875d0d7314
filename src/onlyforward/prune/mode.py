"""Run any module on absolute weights: a torch function mode that knows which tensors are live, parameters, constants.

A *live* tensor descends from the input and is a non-negative flow; it carries a log scale of its own, so that neither
depth nor concentration leaves the range of floats: the flow is value * exp(log).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from onlyforward.core.errors import UsageError
from onlyforward.prune.leaves import mapped, tensors_of
from onlyforward.prune.normal import Normal
from onlyforward.prune.semiring import Sum

SAFE = (1e-4, 1e4)
"""A mean outside of it is moved into the log scale."""


class Unknown(UsageError):
    """An operation without a rule made negative flow."""


@dataclass
class Signal:
    """One live tensor.

    Attributes:
        value: non-negative flow, up to the scale.
        log: natural logarithm of the scale.
        pair: a product of two live signals, as attention scores are.
        token: word numbers: live, but no flow yet.
    """

    value: Tensor
    log: float = 0.0
    pair: bool = False
    token: bool = False


@dataclass
class Call:
    """One operation that the mode met: what a rule reads."""

    mode: Flow
    function: Callable[..., Any]
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def argument(self, place: int, name: str, default: Any = None) -> Any:
        """An argument by place or by name."""
        return self.args[place] if len(self.args) > place else self.kwargs.get(name, default)


Rule = Callable[[Call], Any]
SHAPES = frozenset({"dim", "size", "numel"})
"""Questions that every layer asks of its input: answered without reading the other operands."""

ModuleRule = Callable[["Flow", nn.Module, tuple[Any, ...], dict[str, Any]], Any]

DUNDER = {
    "__add__": "add",
    "__radd__": "add",
    "__iadd__": "add_",
    "__sub__": "sub",
    "__rsub__": "sub",
    "__isub__": "sub_",
    "__mul__": "mul",
    "__rmul__": "mul",
    "__imul__": "mul_",
    "__truediv__": "div",
    "__itruediv__": "div_",
    "__rtruediv__": "reciprocal",
    "__rdiv__": "reciprocal",
    "__matmul__": "matmul",
    "__rmatmul__": "rmatmul",
    "__neg__": "neg",
    "__pow__": "pow",
    "__getitem__": "getitem",
    "__setitem__": "setitem",
    "true_divide": "div",
    "divide": "div",
    "multiply": "mul",
    "subtract": "sub",
}


def canonical(function: Callable[..., Any]) -> str:
    """One name for a function, its method and its operator."""
    name = getattr(function, "__name__", str(function))
    if name == "__get__":
        owner = getattr(function, "__self__", None)
        return f"get:{getattr(owner, '__name__', '')}"
    return DUNDER.get(name, name)


class Flow(TorchFunctionMode):
    """The mode itself.

    Args:
        rules: name -> rule.
        parameters: the tensors that are parameters; their slices, products and tied uses are known by descent.
        semiring: Sum() or Max().
        normalize: "mean", "sum" or "none".
        attention: "value" or "qkv".
        batch_norm: "fold", "gamma" or "off".
        dtype: of the flow.
        signed: the parameters are a model's own; otherwise they are sizes, whose gradient at 0 is wanted too.
    """

    def __init__(
        self,
        rules: Mapping[str, Rule],
        parameters: Sequence[Tensor],
        *,
        semiring: Sum,
        normalize: str,
        attention: str,
        batch_norm: str,
        dtype: torch.dtype,
        signed: bool = True,
    ) -> None:
        super().__init__()
        self.rules = rules
        self.semiring = semiring
        self.normalize = normalize
        self.attention = attention
        self.batch_norm = batch_norm
        self.dtype = dtype
        self.signed = signed
        self.path: list[str] = []
        # Tensors are kept by their keys below, so that no number of a freed tensor is met again.
        self.signals: dict[int, Signal] = {}
        self.parameters: set[int] = {id(tensor) for tensor in parameters}
        self.held: list[Any] = list(parameters)

    # What a tensor is ----------

    def live(self, x: Any) -> bool:
        """Whether `x` descends from the input."""
        return isinstance(x, Tensor) and id(x) in self.signals

    def parameter(self, x: Any) -> bool:
        """Whether `x` descends from parameters alone."""
        return isinstance(x, Tensor) and id(x) in self.parameters

    def get(self, x: Tensor) -> Signal:
        """The signal behind a live tensor."""
        return self.signals[id(x)]

    def put(self, value: Tensor, log: float = 0.0, *, pair: bool = False, token: bool = False) -> Tensor:
        """Make a tensor live; a mean far from one goes into the log scale."""
        if not token and value.numel():
            with torch.no_grad():
                mean = float(value.mean())
            if mean > 0 and not SAFE[0] < mean < SAFE[1] and math.isfinite(mean):
                value, log = value / mean, log + math.log(mean)
        return self.bind(value, Signal(value, log, pair, token))

    def again(self, signal: Signal) -> Tensor:
        """The same flow under another tensor object."""
        return self.bind(signal.value.view_as(signal.value), signal)

    def bind(self, x: Tensor, signal: Signal) -> Tensor:
        """Let the tensor object `x` stand for a signal."""
        self.signals[id(x)] = signal
        self.held.append(x)
        return x

    def align(self, tensors: Sequence[Tensor]) -> tuple[list[Tensor], float]:
        """The values of several live tensors on one scale, the largest."""
        signals = [self.get(x) for x in tensors]
        if len({s.log for s in signals}) <= 1:
            return [s.value for s in signals], signals[0].log if signals else 0.0
        # A branch that is zero everywhere must not decide the scale.
        logs = [s.log for s in signals if bool(s.value.any())] or [0.0]
        top = max(logs)
        values = [s.value if s.log == top else s.value * math.exp(min(0.0, s.log - top)) for s in signals]
        return values, top

    def constant(self, x: Any) -> Any:
        """A constant operand in the dtype of the flow."""
        if isinstance(x, Tensor) and x.is_floating_point():
            return x.detach().to(self.dtype)
        return x

    def size(self, weight: Tensor) -> Tensor:
        """|W|; its derivative at 0 is 0 for a model's own weights (what is pruned stays pruned), 1 for given sizes."""
        weight = weight.to(self.dtype)
        if self.signed:
            return weight.abs()
        return torch.where(weight < 0, -weight, weight) if bool((weight < 0).any()) else weight

    def theta(self, weight: Tensor, fan: float) -> Tensor:
        """|W| under the normaliser: divided by mean |W| and fan, by its sum, or as it is."""
        if self.normalize == "none":
            return self.size(weight)
        fan = float(weight.numel()) if self.normalize == "sum" else fan
        found: Tensor = Normal.apply(weight.to(self.dtype), fan)  # type: ignore[no-untyped-call]
        return found

    def gain(self, gamma: Tensor) -> Tensor:
        """An elementwise factor: |gamma|, scaled to mean 1 unless nothing is normalised."""
        if self.normalize == "none":
            return self.size(gamma)
        found: Tensor = Normal.apply(gamma.to(self.dtype), 1.0)  # type: ignore[no-untyped-call]
        return found

    # The dispatch ----------

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Meet one operation."""
        kwargs = kwargs or {}
        name = canonical(function)
        if name.startswith("get:") and name[4:] not in {"T", "mT", "H", "mH", "data", "real"}:
            return function(*args, **kwargs)
        # Most operations have their live operand in front: the others need not be looked through.
        if not args or id(args[0]) not in self.signals:
            tensors = tensors_of((args, kwargs))
            if not any(id(x) in self.signals for x in tensors):
                return self.still(function, name, args, kwargs, tensors)
        if name in SHAPES and args and self.live(args[0]):
            return function(self.get(args[0]).value, *args[1:], **kwargs)
        in_place = name.endswith("_") and not name.startswith("_") and isinstance(args[0], Tensor)
        stem = name[:-1] if in_place else name
        call = Call(self, function, stem, args, kwargs)
        rule = self.rules.get(stem)
        found = self.unknown(call) if rule is None else rule(call)
        if stem == "setitem":
            return None
        if in_place and isinstance(found, Tensor):
            signal = self.signals.get(id(found), Signal(found))
            return self.bind(args[0], signal)
        return found

    def still(
        self,
        function: Callable[..., Any],
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        tensors: Sequence[Tensor],
    ) -> Any:
        """An operation without a live operand: positions become neutral, words of no input zero, the rest runs."""
        if name in {"cos", "sin"} and not any(id(x) in self.parameters for x in tensors):
            return torch.full_like(tensors[0], float(name == "cos"))
        found = function(*args, **kwargs)
        if any(id(x) in self.parameters for x in tensors):
            if name in {"embedding", "embedding_bag"}:
                return torch.zeros_like(found)
            for leaf in tensors_of(found):
                if leaf.is_floating_point():
                    self.parameters.add(id(leaf))
                    self.held.append(leaf)
        return found

    def values(self, call: Call) -> tuple[tuple[Any, ...], dict[str, Any], float, bool, bool]:
        """The operands of a call as plain values on one scale, with its log, pair and token flags."""
        found = [x for x in tensors_of((call.args, call.kwargs)) if id(x) in self.signals]
        signals = [self.get(x) for x in found]
        flows = [x for x, s in zip(found, signals) if not s.token]
        aligned, log = self.align(flows)
        table = {id(x): value for x, value in zip(flows, aligned)}
        table |= {id(x): s.value for x, s in zip(found, signals) if s.token}

        def read(x: Any) -> Any:
            if not isinstance(x, Tensor):
                return x
            if id(x) in table:
                return table[id(x)]
            # A parameter beside a signal, as a class token in front of the words, brings no flow of the input.
            return torch.zeros_like(x, dtype=self.dtype) if self.parameter(x) else self.constant(x)

        args, kwargs = mapped(read, (call.args, call.kwargs))
        return args, kwargs, log, any(s.pair for s in signals), all(s.token for s in signals)

    def wrap(self, found: Any, log: float, *, pair: bool = False, token: bool = False) -> Any:
        """Mark the float tensors of a result as live (integers too where words are passed on)."""

        def mark(x: Any) -> Any:
            if not isinstance(x, Tensor) or not (x.is_floating_point() or token):
                return x
            return self.put(x, log, pair=pair, token=token)

        return mapped(mark, found)

    def as_is(self, call: Call) -> Any:
        """Run the operation itself on the flows."""
        args, kwargs, log, pair, token = self.values(call)
        if call.name != call.function.__name__ and call.function.__name__.endswith("_"):
            args = (args[0].clone(), *args[1:])
        return self.wrap(call.function(*args, **kwargs), log, pair=pair, token=token)

    def unknown(self, call: Call) -> Any:
        """An operation without a rule: it passes if its result is non-negative.

        Raises:
            Unknown: the result has negative entries; the sentence shows how to teach a rule.
        """
        args, kwargs, log, pair, token = self.values(call)
        if call.name != call.function.__name__ and call.function.__name__.endswith("_"):
            args = (args[0].clone(), *args[1:])
        found = call.function(*args, **kwargs)
        if token:
            return found
        for leaf in tensors_of(found):
            if leaf.is_floating_point() and not bool((leaf >= 0).all()):
                where = ".".join(self.path[-1:]) or "the model itself"
                raise Unknown(
                    f"In module {where!r} the operation {call.name!r} has no connectivity rule and makes negative flow",
                    f"Give CoNNect(rules=register_rule({call.name!r}, rule)) with rule(call) -> tensor",
                )
        return self.wrap(found, log, pair=pair)
