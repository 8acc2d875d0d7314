"""Noise on the pre-activations of a network while it runs: for BP with noise, and for evaluation with noise kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

    from onlyforward.core.keys import Key

WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def weighted_modules(model: nn.Module) -> dict[str, nn.Module]:
    """The linear and convolution modules of a network by path, in the order of definition."""
    return {path: module for path, module in model.named_modules() if isinstance(module, WEIGHTED)}


@contextmanager
def noise_kept(model: nn.Module, sigma: float, key: Key, *, skip_last: bool = True) -> Iterator[None]:
    """Within the block every weighted module's output carries Gaussian noise of standard deviation `sigma`.

    Each call of a module draws its own noise (a module called T times draws T times), from the module's path and the
    number of the call. The last weighted module, the logits, stays clean: likelihood-ratio training takes its exact
    gradient there, too.

    Args:
        model: its forward is not otherwise changed; gradients pass through the addition.
        sigma: standard deviation in the units of the pre-activation.
        key: names the draws; the same key gives the same noise.
        skip_last: leave the last weighted module clean.
    """
    calls: dict[str, int] = {}

    def add(path: str, out: Tensor) -> Tensor:
        calls[path] = calls.get(path, -1) + 1
        generator = key.at(site=f"{key.site}/{path}/{calls[path]}").generator(out.device)
        return out + sigma * torch.randn(out.shape, generator=generator, device=out.device, dtype=out.dtype)

    modules = weighted_modules(model)
    chosen = list(modules)[: -1 if skip_last else None]

    def hook(path: str) -> Any:
        return lambda module, inputs, out: add(path, out)

    handles = [modules[path].register_forward_hook(hook(path)) for path in chosen]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
