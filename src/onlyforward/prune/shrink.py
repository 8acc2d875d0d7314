"""Exact shrinking: channels that do nothing are removed, and the constants they sent on are folded into biases."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_flatten

from onlyforward.core.errors import OnlyForwardError
from onlyforward.prune.counting import Cost, batch_of, cost, run_once
from onlyforward.prune.coupling import Coupled, Member, consumer, coupled, dependency_graph, per_channel, producer
from onlyforward.prune.shortcuts import Selector, replace_shortcuts

COUPLING_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm)
"""Norms that mix channels: a channel that is constant still counts in their statistics."""
UNTOUCHED = (*COUPLING_NORMS, nn.MultiheadAttention, nn.RNNBase, nn.Embedding)
ROUNDS = 50


@dataclass(frozen=True)
class Shrunk:
    """A smaller model with the same outputs.

    Attributes:
        model: the smaller model, in eval mode.
        before: cost of the original.
        after: cost of the smaller one.
        max_abs_difference: largest difference of outputs on random and on the user's inputs.
        selectors: shortcuts that became convolutions so that their channels could be removed.
        collapsed: a layer had no living channel and kept one that says nothing.
    """

    model: nn.Module
    before: Cost
    after: Cost
    max_abs_difference: float
    selectors: Mapping[str, Selector] = field(default_factory=dict)
    collapsed: bool = False

    @property
    def parameters_ratio(self) -> float:
        """Parameters before over after."""
        return self.before.parameters / max(1, self.after.parameters)

    @property
    def macs_ratio(self) -> float:
        """Multiply-accumulates before over after."""
        return self.before.macs / max(1, self.after.macs)


class ShrinkError(OnlyForwardError):
    """The smaller model does not give the same outputs; the original is untouched."""


def shrink(model: nn.Module, example_inputs: Any, *, atol: float | None = None) -> Shrunk:
    """Remove what is dead, to a fixpoint, and check that the outputs stay.

    A channel goes if every layer that makes it has zero weights there (it is then a constant, which is measured behind
    activation and batch norm and folded into the next bias), or if every layer that reads it has zero weights there.
    Residual sums, gates and concatenations couple channels: one goes only if it is dead in every branch. Behind zero
    padding only the constant 0 is folded. Channels that a layer or group norm mixes stay.

    Args:
        model: a module with zeros where masks removed weights; not changed.
        example_inputs: one example.
        atol: largest difference allowed; default 1e-5 max(1, max|y|) in float32 and 1e-12 max(1, max|y|) in float64.

    Raises:
        ShrinkError: the outputs differ by more.
        UsageError: the model rejects the example, or cannot be traced.
    """
    example = tuple(x[:1] if isinstance(x, Tensor) and x.ndim else x for x in batch_of(example_inputs, 2))
    before = cost(model, example_inputs)
    small, selectors = replace_shortcuts(model, example_inputs)
    small.eval()
    work = Work(small, example)
    for _ in range(ROUNDS):
        if not work.round():
            break
    unused = {name: s for name, s in selectors.items() if intact(small.get_submodule(name), s)}
    for name in unused:
        # An untouched shortcut stays what it was.
        parent, _, leaf = name.rpartition(".")
        setattr(small.get_submodule(parent), leaf, copy.deepcopy(model.get_submodule(name)))
    found = difference(model, small, example_inputs)
    scale = max(1.0, float(largest(model, example_inputs)))
    double = any(p.dtype == torch.float64 for p in model.parameters())
    allowed = atol if atol is not None else (1e-12 if double else 1e-5) * scale
    if not found <= allowed:
        raise ShrinkError(
            f"The smaller model's outputs differ by {found:.2g}, more than {allowed:.2g}",
            "The original is untouched; report the layers, or allow more with --atol",
        )
    kept = {name: s for name, s in selectors.items() if name not in unused}
    return Shrunk(small.eval(), before, cost(small, example_inputs), found, kept, work.collapsed)


def intact(module: nn.Module, selector: Selector) -> bool:
    """Whether a selector still is as it was built."""
    weight: Any = module.weight
    built = selector.build(weight.dtype).weight
    return getattr(module, "bias", None) is None and weight.shape == built.shape and torch.equal(weight, built)


@torch.no_grad()
def difference(a: nn.Module, b: nn.Module, example_inputs: Any) -> float:
    """The largest difference of two models' outputs on random inputs and on the example; NaN if shapes differ."""
    worst = 0.0
    for inputs in (batch_of(example_inputs, 8, seed=1), batch_of(example_inputs, 1, seed=2), example_inputs):
        ys, zs = ([leaf for leaf in tree_flatten(run_once(m, inputs))[0] if isinstance(leaf, Tensor)] for m in (a, b))
        if [y.shape for y in ys] != [z.shape for z in zs]:
            return math.nan
        worst = max([worst, *(float((y - z).abs().max()) for y, z in zip(ys, zs) if y.is_floating_point())])
    return worst


def largest(model: nn.Module, example_inputs: Any) -> float:
    """max|y| on random inputs."""
    leaves = tree_flatten(run_once(model, batch_of(example_inputs, 8, seed=1)))[0]
    return max((float(y.abs().max()) for y in leaves if isinstance(y, Tensor) and y.is_floating_point()), default=0.0)


class Work:
    """The rounds of a shrinking, in place.

    Args:
        model: what shrinks.
        example: one random example.
    """

    def __init__(self, model: nn.Module, example: tuple[Any, ...]) -> None:
        self.model, self.example = model, example
        self.collapsed = False

    def round(self) -> bool:
        """Remove what is dead now; False if nothing was."""
        graph = dependency_graph(self.model, self.example)
        groups = [
            g for g in coupled(graph) if not g.exposed and not any(isinstance(m.module, UNTOUCHED) for m in g.members)
        ]
        seen = self.watch(groups)
        removed = False
        for group in groups:
            gone = self.dead(group, seen)
            if group.blocks > 1:
                gone = gone.view(group.blocks, -1).all(0).repeat(group.blocks)
            if bool(gone.all()):
                # Every layer keeps a channel, even where none lives.
                self.collapsed = True
                gone[:: max(1, group.width // group.blocks)] = False
            if not bool(gone.any()):
                continue
            self.fold(group, gone, seen)
            channels = gone.nonzero().flatten().tolist()
            graph.get_pruning_group(group.root, group.prune, channels).prune()
            removed = True
        return removed

    def watch(self, groups: list[Coupled]) -> dict[nn.Module, Tensor]:
        """What every reading layer receives, [b, channels, places], on two random batches."""
        readers = {m.module for group in groups for m in group.members if consumer(m)}
        seen: dict[nn.Module, list[Tensor]] = {}
        handles = []

        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            x = args[0].detach()
            if isinstance(module, _ConvNd):
                x = x if x.ndim == module.weight.ndim else x[None]
                seen.setdefault(module, []).append(x.flatten(2) if x.ndim > 2 else x[..., None])
            else:
                seen.setdefault(module, []).append(x.reshape(-1, x.shape[-1], 1))

        for reader in readers:
            handles.append(reader.register_forward_pre_hook(hook))
        try:
            for seed in (3, 4):
                run_once(self.model, batch_of(self.example, 2, seed=seed))
        finally:
            for handle in handles:
                handle.remove()
        return {m: torch.cat([x.movedim(1, 0).flatten(1) for x in parts], 1) for m, parts in seen.items()}

    def dead(self, group: Coupled, seen: Mapping[nn.Module, Tensor]) -> Tensor:
        """Which channels of a group can go: [width]."""
        made = torch.zeros(group.width)
        read = torch.zeros(group.width)
        foldable = torch.ones(group.width, dtype=torch.bool)
        for member in group.members:
            if producer(member):
                made.index_add_(0, member.roots, self.used(member))
            elif consumer(member):
                read.index_add_(0, member.roots, self.used(member))
                foldable[member.roots] &= self.constant(member, seen)
        return ((made == 0) & foldable) | (read == 0)

    def used(self, member: Member) -> Tensor:
        """1 for channels of a member with a weight that is not zero."""
        weight: Any = member.module.weight
        return (per_channel(member, (weight.detach() != 0).float()) > 0).float()

    def constant(self, member: Member, seen: Mapping[nn.Module, Tensor]) -> Tensor:
        """Whether what a member reads is one constant that its bias can take over, per channel it lists."""
        values = seen.get(member.module)
        if values is None:
            return torch.zeros(len(member.channels), dtype=torch.bool)
        values = values[member.channels]
        same = values.amax(1) == values.amin(1)
        return same & (values[:, 0] == 0) if padded(member.module) else same

    @torch.no_grad()
    def fold(self, group: Coupled, gone: Tensor, seen: Mapping[nn.Module, Tensor]) -> None:
        """Add W[:, dead] c to the bias of every reading layer; a bias is made where there is none."""
        for member in group.members:
            if not consumer(member) or member.module not in seen:
                continue
            module: Any = member.module
            channels = member.channels[gone[member.roots]]
            constants = seen[module][channels, 0]
            shift = self.shift(module, channels, constants)
            if not bool((shift != 0).any()):
                continue
            if module.bias is None:
                module.bias = nn.Parameter(torch.zeros(shift.shape, dtype=module.weight.dtype))
            module.bias += shift

    @staticmethod
    def shift(module: Any, channels: Tensor, constants: Tensor) -> Tensor:
        """What constants on some channels add to each output of a layer: [outputs]."""
        weight = module.weight.detach()
        if not isinstance(module, _ConvNd):
            return weight[:, channels] @ constants
        taps = weight.flatten(2).sum(2) if weight.ndim > 2 else weight
        if module.transposed:
            # Overlapping kernels make a constant uneven unless strides tile them: padded() kept such channels.
            return torch.zeros(module.out_channels, dtype=weight.dtype)
        per = module.in_channels // module.groups
        shift = torch.zeros(module.out_channels, dtype=weight.dtype)
        outs = module.out_channels // module.groups
        for channel, constant in zip(channels.tolist(), constants):
            block = channel // per
            shift[block * outs : (block + 1) * outs] += (
                taps[block * outs : (block + 1) * outs, channel % per] * constant
            )
        return shift


def padded(module: nn.Module) -> bool:
    """Whether a convolution mixes zeros of a border into what it reads."""
    if not isinstance(module, _ConvNd):
        return False
    if module.transposed:
        return True
    border = module.padding if not isinstance(module.padding, str) else (0 if module.padding == "valid" else 1,)
    return module.padding_mode == "zeros" and any(p > 0 for p in border)
