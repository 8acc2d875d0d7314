"""Option-A shortcuts as convolutions, which graph tracers understand."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from onlyforward.prune.counting import run_once


@dataclass(frozen=True)
class Selector:
    """A 1x1 convolution that takes every `stride`-th pixel and puts channel k at k + offset.

    Attributes:
        inputs: channels read.
        outputs: channels written.
        stride: of the pixels.
        offset: channels of zeros in front.
    """

    inputs: int
    outputs: int
    stride: int
    offset: int

    def build(self, dtype: torch.dtype = torch.float32) -> nn.Conv2d:
        """The convolution: weight 1 at [k + offset, k], no bias."""
        made = nn.Conv2d(self.inputs, self.outputs, 1, stride=self.stride, bias=False, dtype=dtype)
        with torch.no_grad():
            made.weight.zero_()
            k = torch.arange(self.inputs)
            made.weight[k + self.offset, k] = 1.0
        return made


def replace_shortcuts(model: nn.Module, example_inputs: Any) -> tuple[nn.Module, dict[str, Selector]]:
    """A copy whose parameter-free slice-and-pad shortcuts are selector convolutions, and where they stand.

    Torch-Pruning 1.6 mistraces such shortcuts (stride-2 slice, zero channels on both sides, as in the CIFAR ResNets),
    and its pruned models crash. A module qualifies by what it does, not by its class: it has no parameters and no
    children, widens a [b, c, h, w] map, and gives bit for bit what the selector gives.
    """
    model = copy.deepcopy(model)
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    handles = []

    def watch(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if args and isinstance(args[0], Tensor) and isinstance(output, Tensor) and args[0].ndim == output.ndim == 4:
                seen[name] = (args[0].detach(), output.detach())

        return hook

    for name, module in model.named_modules():
        if name and not any(True for _ in module.parameters()) and not any(True for _ in module.children()):
            handles.append(module.register_forward_hook(watch(name)))
    try:
        run_once(model, example_inputs)
    finally:
        for handle in handles:
            handle.remove()
    found = {}
    for name, (x, y) in seen.items():
        selector = matching(model.get_submodule(name), x, y)
        if selector is not None:
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, selector.build(x.dtype))
            found[name] = selector
    return model, found


def matching(module: nn.Module, x: Tensor, y: Tensor) -> Selector | None:
    """The selector that equals a module, if there is one."""
    inputs, outputs = x.shape[1], y.shape[1]
    if outputs <= inputs or y.shape[2] == 0:
        return None
    stride = -(-x.shape[2] // y.shape[2])
    selector = Selector(inputs, outputs, stride, (outputs - inputs) // 2)
    probe = torch.rand(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    with torch.no_grad():
        want, have = module(probe), selector.build(x.dtype)(probe)
    return selector if want.shape == have.shape and torch.equal(want, have) else None
