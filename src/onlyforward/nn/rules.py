"""Local vector-Jacobian products: from the cotangent at a module's output to the gradients of its parameters.

Everything that likelihood ratios have to find is the cotangent delta; what follows is local and ordinary. Known layers
have closed forms that need no automatic differentiation; any other module takes `torch.func.vjp` of itself alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Rule = Callable[[Any, tuple[Any, ...], Tensor], dict[str, Tensor]]
"""(module, inputs, delta of the shape of its output) -> {parameter name: gradient summed over the rows}."""

RULES: dict[type, Rule] = {}


def register_rule(*kinds: type) -> Callable[[Rule], Rule]:
    """Decorator: use this function as the local rule of modules of these types.

    The function maps (module, inputs, delta) to {parameter name: gradient}; inputs are the positional arguments of the
    module's call, delta [rows, ...] has the shape of its output, and gradients are sums over all rows.
    """

    def enter(rule: Rule) -> Rule:
        for kind in kinds:
            RULES[kind] = rule
        return rule

    return enter


def rule_for(module: nn.Module) -> Rule:
    """The rule of a module's exact type, or the default, which is right for any module."""
    return RULES.get(type(module), local_vjp)


def local_vjp(module: nn.Module, inputs: tuple[Any, ...], delta: Tensor) -> dict[str, Tensor]:
    """`torch.func.vjp` of the module alone, with respect to its trained parameters."""
    trained = {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}

    def run(params: dict[str, Tensor]) -> Tensor:
        out = torch.func.functional_call(module, params, inputs)
        return out if isinstance(out, Tensor) else out[0]

    with torch.enable_grad():
        pulled: dict[str, Tensor] = torch.func.vjp(run, trained)[1](delta)[0]
    return {name: value.detach() for name, value in pulled.items()}


@register_rule(nn.Linear, nn.modules.linear.NonDynamicallyQuantizableLinear)
def linear(module: nn.Linear, inputs: tuple[Any, ...], delta: Tensor) -> dict[str, Tensor]:
    """DW = sum_r delta_r x_r^T, db = sum_r delta_r: one matrix product over rows and positions."""
    rows, x = delta, inputs[0]
    if delta.dim() != 2:
        rows, x = delta.reshape(-1, module.out_features), x.reshape(-1, module.in_features)
    found = {"weight": rows.T @ x}
    if module.bias is not None:
        found["bias"] = rows.sum(0)
    return found


@register_rule(nn.Conv1d, nn.Conv2d, nn.Conv3d)
def convolution(module: Any, inputs: tuple[Any, ...], delta: Tensor) -> dict[str, Tensor]:
    """The weight gradient of a convolution: any stride, padding mode, dilation and groups."""
    x, padding = inputs[0], module.padding
    if module.padding_mode != "zeros" or isinstance(padding, str):
        mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
        x = F.pad(x, module._reversed_padding_repeated_twice, mode=mode)
        padding = (0,) * len(module.stride)
    if x.dim() == delta.dim() and x.dim() == module.weight.dim():
        weight = torch.ops.aten.convolution_backward(
            delta,
            x,
            module.weight,
            None,
            module.stride,
            padding,
            module.dilation,
            False,
            [0] * len(module.stride),
            module.groups,
            [False, True, False],
        )[1]
    else:
        return local_vjp(module, inputs, delta)
    found = {"weight": weight}
    if module.bias is not None:
        found["bias"] = delta.sum((0, *range(2, delta.dim())))
    return found


def normalised(module: Any, x: Tensor) -> Tensor:
    """What a norm layer multiplies by its weight: x shifted and scaled, same shape."""
    if isinstance(module, nn.LayerNorm):
        return F.layer_norm(x, module.normalized_shape, eps=module.eps)
    if isinstance(module, nn.GroupNorm):
        return F.group_norm(x, module.num_groups, eps=module.eps)
    return F.batch_norm(x, module.running_mean, module.running_var, training=False, eps=module.eps)


NORMS = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@register_rule(*NORMS)
def norm(module: Any, inputs: tuple[Any, ...], delta: Tensor) -> dict[str, Tensor]:
    """For y = g * xhat + c: dg = sum delta * xhat, dc = sum delta; BatchNorm with its running statistics."""
    shape = module.weight.shape
    if isinstance(module, nn.LayerNorm):
        over: Sequence[int] = range(delta.dim() - len(shape))
    else:
        over = (0, *range(2, delta.dim()))
    found = {"weight": (delta * normalised(module, inputs[0])).sum(tuple(over)).reshape(shape)}
    if module.bias is not None:
        found["bias"] = delta.sum(tuple(over)).reshape(shape)
    return found


@register_rule(nn.Embedding)
def embedding(module: nn.Embedding, inputs: tuple[Any, ...], delta: Tensor) -> dict[str, Tensor]:
    """Rows of delta added to the rows of the words they belong to; the padding word stays."""
    words, rows = inputs[0].reshape(-1), delta.reshape(-1, module.embedding_dim)
    found = torch.zeros_like(module.weight, requires_grad=False).index_add_(0, words, rows)
    if module.padding_idx is not None:
        found[module.padding_idx] = 0
    return {"weight": found}
