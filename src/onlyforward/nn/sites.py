"""Sites: the tensors that noise is added to, how a module goes on from there, and what delta means for its weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from onlyforward.core.errors import UsageError
from onlyforward.nn.layout import Layout, with_first
from onlyforward.nn.rules import NORMS, normalised, rule_for


@dataclass
class Call:
    """One call of a unit in the clean run.

    Attributes:
        path: of the module, with "#k" for its k-th repetition.
        module: the unit.
        inputs: positional arguments.
        named: keyword arguments.
        output: clean output, detached.
        part: index of the part of the walk it lies in.
        order: number of the call within the part.
        graph: output with an autograd graph, where backpropagation goes on upstream.
        feed: input sequence with an autograd graph, where it goes on upstream of a time loop.
        cotangent: of `feed`, as far as the call's sites have handed it on.
        state: what a time loop keeps for its sites.
    """

    path: str
    module: nn.Module
    inputs: tuple[Any, ...]
    named: Mapping[str, Any]
    output: Any
    part: int
    order: int
    graph: Tensor | None = None
    feed: Tensor | None = None
    cotangent: Tensor | None = None
    state: Any = None


@dataclass
class Site:
    """Noise at a module's output, one draw per datum: the plain likelihood ratio.

    Attributes:
        path: names the site; equal in every step.
        call: where in the clean run.
        clean: what noise is added to: [b, *site].
        shared: whether all data of a copy share their noise; `clean` is then [1, P].
        share: of the steps in which the site is visited.
    """

    path: str
    call: Call
    clean: Tensor
    shared: bool = False
    share: float = field(default=1.0, kw_only=True)

    def outcome(self, rows: Tensor, layout: Layout) -> Any:
        """The module's output in the given layout, when `clean` is replaced by rows [n, b, *site]."""
        joined = layout.join(rows)
        if isinstance(self.call.output, Tensor):
            return joined
        return with_first(layout.expand(self.call.output), joined)

    def pull(self, delta: Tensor) -> dict[str, Tensor]:
        """Gradients of the module's parameters for a cotangent delta [b, *site], summed over the data."""
        return pulled(self.call.module, self.call.inputs, self.call.named, delta)

    def hand_on(self, delta: Tensor) -> None:
        """Add to the cotangent of the call's `feed`; a plain site's graph is the call's own."""


def pulled(module: nn.Module, inputs: tuple[Any, ...], named: Mapping[str, Any], delta: Tensor) -> dict[str, Tensor]:
    """The local rule of a module at its inputs."""
    if named:
        given = functional_with(module, named)
        found = rule_for(given)(given, inputs, delta)
        return {name.removeprefix("module."): value for name, value in found.items()}
    return rule_for(module)(module, inputs, delta)


class functional_with(nn.Module):
    """A module with some keyword arguments fixed, so that rules see positional ones only."""

    def __init__(self, module: nn.Module, named: Mapping[str, Any]) -> None:
        super().__init__()
        self.module, self.named = module, dict(named)

    def forward(self, *inputs: Any) -> Any:
        """The module's own output."""
        return self.module(*inputs, **self.named)


@dataclass
class ChannelSite(Site):
    """Noise on a norm layer's scale and shift, one draw per datum: `clean` is zeros [b, 2, C], D = 2C."""

    hat: Tensor = field(default_factory=lambda: torch.empty(0))

    def outcome(self, rows: Tensor, layout: Layout) -> Any:
        """Y + z_scale * xhat + z_shift."""
        module: Any = self.call.module
        noise = layout.join(rows)
        hat, out = layout.expand(self.hat), layout.expand(self.call.output)
        scale, shift = (self.placed(noise.select(noise.dim() - 2, k), module, hat.dim()) for k in (0, 1))
        return torch.addcmul(out, hat, scale).add_(shift)

    def placed(self, vector: Tensor, module: Any, dims: int) -> Tensor:
        """A vector [rows, C] in the shape that multiplies xhat."""
        lead = vector.shape[:-1]
        if isinstance(module, nn.LayerNorm):
            middle = dims - len(lead) - len(module.normalized_shape)
            return vector.reshape(*lead, *[1] * middle, *module.normalized_shape)
        return vector.reshape(*lead, vector.shape[-1], *[1] * (dims - len(lead) - 1))

    def pull(self, delta: Tensor) -> dict[str, Tensor]:
        """Dg = sum_b delta_scale, dc = sum_b delta_shift."""
        module: Any = self.call.module
        found = {"weight": delta[:, 0].sum(0).reshape(module.weight.shape)}
        if module.bias is not None:
            found["bias"] = delta[:, 1].sum(0).reshape(module.bias.shape)
        return found


def channel_site(path: str, call: Call) -> ChannelSite:
    """The channel site of a norm layer.

    Raises:
        UsageError: the module has no scale and shift.
    """
    module: Any = call.module
    if not isinstance(module, NORMS) or module.weight is None:
        raise UsageError(f"{path} is a {type(module).__name__}, which has no scale and shift", "Plan it as lr or bp")
    clean = call.output.new_zeros((len(call.output), 2, module.weight.numel()))
    return ChannelSite(path, call, clean, hat=normalised(module, call.inputs[0]))


@dataclass
class WeightSite(Site):
    """Noise on a module's weights that the whole batch shares: `clean` is the flat parameters [1, P], kappa = 1."""

    names: tuple[str, ...] = ()

    def params(self, row: Tensor) -> dict[str, Tensor]:
        """Flat [1, P] or [P] -> named tensors."""
        shapes = [self.call.module.get_parameter(name).shape for name in self.names]
        pieces = row.reshape(-1).split([math.prod(shape) for shape in shapes])
        return {name: piece.reshape(shape) for name, piece, shape in zip(self.names, pieces, shapes)}

    def once(self, row: Tensor) -> Tensor:
        """The module's output for one copy of its parameters."""
        return functional_call(self.call.module, self.params(row), self.call.inputs, dict(self.call.named))

    def outcome(self, rows: Tensor, layout: Layout) -> Any:
        """All copies in one vectorised call: [n, b, ...] in the layout."""
        return self.once(rows) if layout.kind == "alone" else layout.join(vmap(self.once)(rows))

    def pull(self, delta: Tensor) -> dict[str, Tensor]:
        """The cotangent is the gradient."""
        return self.params(delta)


def weight_site(path: str, call: Call, names: tuple[str, ...]) -> WeightSite:
    """The shared-noise site of a module's parameters."""
    flat = torch.cat([call.module.get_parameter(name).detach().reshape(-1) for name in names])
    return WeightSite(path, call, flat[None], shared=True, names=names)


def trained_names(module: nn.Module) -> tuple[str, ...]:
    """Names of a unit's parameters that require a gradient."""
    return tuple(name for name, p in module.named_parameters() if p.requires_grad)


def learns(module: nn.Module) -> bool:
    """Whether any parameter of a unit requires a gradient."""
    own = module._parameters.values()
    return any(p is not None and p.requires_grad for p in own) or any(p.requires_grad for p in module.parameters())


def is_unit(module: nn.Module) -> bool:
    """Whether a module is perturbed as one: it owns parameters and holds at most one other module that does."""
    if type(module) in RECURRENT or not any(True for _ in module.parameters(recurse=False)):
        return type(module) in RECURRENT
    return sum(any(True for _ in child.parameters()) for child in module.children()) <= 1


RECURRENT = (nn.LSTM, nn.GRU, nn.RNN)
