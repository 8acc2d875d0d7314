"""What a model costs: multiplications, parameters and measured time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from onlyforward.core.errors import UsageError
from onlyforward.prune.connect import as_tuple


@dataclass(frozen=True)
class Cost:
    """The size of a model.

    Attributes:
        parameters: all of them.
        macs: multiply-accumulates of linear layers and convolutions for one example.
    """

    parameters: int
    macs: int


def run_once(model: nn.Module, example_inputs: Any, kwargs: Mapping[str, Any] | None = None) -> Any:
    """One forward run in eval mode without gradients; the training flags are as before afterwards.

    Raises:
        UsageError: the model rejects the example.
    """
    flags = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            return model(*as_tuple(example_inputs), **(kwargs or {}))
    except (RuntimeError, IndexError, TypeError, ValueError, AssertionError) as error:
        shapes = [list(x.shape) for x in as_tuple(example_inputs) if isinstance(x, Tensor)]
        reason = str(error).splitlines()[0][:150] if str(error) else type(error).__name__
        raise UsageError(
            f"The model rejects an example of shape {', '.join(map(str, shapes))}: {reason}",
            "Give --example B,C,H,W as the model takes it",
        ) from error
    finally:
        for module, training in flags:
            module.training = training


def places(model: nn.Module, example_inputs: Any, kwargs: Mapping[str, Any] | None = None) -> dict[str, int]:
    """How often each weight of a layer is multiplied for one example: module path -> count.

    The counts depend on the sizes of maps alone, so they hold after channels are removed.
    """
    found: dict[str, int] = {}
    handles = []

    def count(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            if isinstance(module, _ConvNd):
                of = args[0] if module.transposed else output
                maps = of.shape[2:] if of.ndim == module.weight.ndim else of.shape[1:]
                found[name] = found.get(name, 0) + maps.numel()
            else:
                found[name] = found.get(name, 0) + output.shape[:-1].numel() // max(1, output.shape[0])

        return hook

    for name, module in model.named_modules():
        if isinstance(module, (_ConvNd, nn.Linear)):
            handles.append(module.register_forward_hook(count(name)))
    try:
        run_once(model, example_inputs, kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return found


def macs_at(model: nn.Module, counts: Mapping[str, int]) -> int:
    """Multiply-accumulates by the counts of `places` and the weights as they are now."""
    return sum(model.get_submodule(name).weight.numel() * n for name, n in counts.items())  # type: ignore[operator, union-attr]


def cost(model: nn.Module, example_inputs: Any, kwargs: Mapping[str, Any] | None = None) -> Cost:
    """Parameters and multiply-accumulates, counted on the real model."""
    parameters = sum(p.numel() for p in model.parameters())
    return Cost(parameters, macs_at(model, places(model, example_inputs, kwargs)))


def batch_of(example_inputs: Any, size: int, seed: int = 0) -> tuple[Any, ...]:
    """Random inputs of the example's shapes with another batch size; integer tensors are repeated."""
    generator = torch.Generator().manual_seed(seed)
    made: list[Any] = []
    for x in as_tuple(example_inputs):
        if isinstance(x, Tensor) and x.is_floating_point():
            made.append(torch.rand((size, *x.shape[1:]), generator=generator, dtype=x.dtype))
        elif isinstance(x, Tensor) and x.ndim:
            made.append(x[:1].expand(size, *x.shape[1:]).contiguous())
        else:
            made.append(x)
    return tuple(made)


def speedup(dense: nn.Module, small: nn.Module, inputs: tuple[Any, ...], *, repeats: int = 15) -> float:
    """Median latency of `dense` over that of `small`, the runs taken in turn."""
    times: tuple[list[float], list[float]] = ([], [])
    with torch.no_grad():
        for turn in range(repeats + 2):
            for model, kept in zip((dense, small), times):
                begin = time.perf_counter()
                model(*inputs)
                if turn >= 2:
                    kept.append(time.perf_counter() - begin)
    return statistics.median(times[0]) / statistics.median(times[1])
