"""Lend a module to the measure: other weights, eval mode and no hooks for one run, and everything back afterwards."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from onlyforward.prune.leaves import tensors_of
from onlyforward.prune.mode import Flow, ModuleRule

KEPT_HOOKS = ("BasePruningMethod", "WeightNorm", "SpectralNorm")
"""Classes of hooks that compute a weight and therefore must run."""


def computes_weight(hook: Any) -> bool:
    """Whether a hook is a pruning or reparametrisation of torch, without which the weight would be stale."""
    return any(kind.__name__ in KEPT_HOOKS for kind in type(hook).__mro__)


@contextmanager
def borrowed(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    flow: Flow,
    module_rules: Mapping[type, ModuleRule],
    *,
    follow: bool = False,
) -> Iterator[None]:
    """The model with other weights, in eval mode, hooks silenced and module rules in place; all undone at the end.

    It does what torch.func.functional_call does with weights and copies of the buffers, tied ones included, but walks
    the modules once and not several times: on a deep network of small layers the walks are felt.

    Args:
        model: not changed once this is left.
        weights: name -> tensor; a parameter without one keeps its own.
        flow: the mode that will run.
        module_rules: class -> rule.
        follow: tell the flow the path of the module that runs. It takes hooks on every module, which are slow.
    """
    modules = list(model.named_modules())
    lent = substitutes(modules, weights)
    stores = [(store, dict(store)) for _, m in modules for store in (m._parameters, m._buffers) if store]
    before = [(m, m.training, m._forward_hooks, m._forward_pre_hooks) for _, m in modules]
    replaced: list[nn.Module] = []
    rules = {
        kind: next((module_rules[base] for base in kind.__mro__ if base in module_rules), None)
        for kind in {type(module) for _, module in modules}
    }
    try:
        for store, content in stores:
            store.update((leaf, lent.get(id(tensor), tensor)) for leaf, tensor in content.items())
        for name, module in modules:
            module.__dict__["training"] = False
            if follow or module._forward_pre_hooks or module._forward_hooks:
                silence(module, flow, name if follow else None)
            rule = rules[type(module)]
            if rule is not None and "forward" not in module.__dict__:
                module.__dict__["forward"] = bound(rule, flow, module)
                replaced.append(module)
        yield
    finally:
        for module in replaced:
            del module.__dict__["forward"]
        for store, content in stores:
            store.clear()
            store.update(content)
        for module, training, hooks, pre_hooks in before:
            module.__dict__["training"] = training
            module.__dict__["_forward_hooks"] = hooks
            module.__dict__["_forward_pre_hooks"] = pre_hooks


def substitutes(modules: Sequence[tuple[str, nn.Module]], weights: Mapping[str, Tensor]) -> dict[int, Any]:
    """Number of a parameter -> its substitute, found by its first name; number of a buffer -> a copy."""
    found: dict[int, Any] = {}
    for path, module in modules:
        prefix = f"{path}." if path else ""
        for leaf, p in module._parameters.items():
            if p is not None and id(p) not in found:
                found[id(p)] = weights.get(prefix + leaf, p)
        for b in module._buffers.values():
            if b is not None and id(b) not in found:
                found[id(b)] = b.clone()
    return found


def silence(module: nn.Module, flow: Flow, name: str | None) -> None:
    """Leave a module the hooks that compute a weight; given its name, add two that tell the flow where it is."""
    before = OrderedDict((k, h) for k, h in module._forward_pre_hooks.items() if computes_weight(h))
    after: OrderedDict[int, Callable[..., None]] = OrderedDict()
    if name is not None:

        def enter(*_: Any) -> None:
            flow.path.append(name)

        def leave(*_: Any) -> None:
            flow.path.pop()

        before[-1], after[-1] = enter, leave
    module.__dict__["_forward_pre_hooks"] = before
    module.__dict__["_forward_hooks"] = after


def bound(rule: ModuleRule, flow: Flow, module: nn.Module) -> Callable[..., Any]:
    """A forward that calls the rule, inside the mode, if one of its arguments is live."""
    original = module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        if not any(map(flow.live, tensors_of((args, kwargs)))):
            return original(*args, **kwargs)
        return rule(flow, module, args, kwargs)

    return forward
