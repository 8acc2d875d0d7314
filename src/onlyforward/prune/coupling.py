"""Coupled channels, as Torch-Pruning's dependency graph finds them (DepGraph, arXiv 2301.12900)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from onlyforward.core.checks import require
from onlyforward.core.errors import UsageError
from onlyforward.prune.connect import as_tuple


@dataclass(frozen=True)
class Member:
    """One layer of a group.

    Attributes:
        module: the layer.
        outgoing: its output channels are meant (of norms and depthwise convolutions both sides are).
        channels: numbers of its channels.
        roots: number of the group's channel to which each of them belongs.
    """

    module: nn.Module
    outgoing: bool
    channels: Tensor
    roots: Tensor


@dataclass(frozen=True)
class Coupled:
    """Channels of several layers that can only be removed together.

    Attributes:
        root: the layer whose output channels number the group's.
        width: how many there are.
        members: the layers.
        exposed: no layer reads the channels: they are an output of the model.
        blocks: channel groups of equal size (grouped convolutions, group norms): their k-th channels go together.
        prune: Torch-Pruning's function of the root.
    """

    root: nn.Module
    width: int
    members: tuple[Member, ...]
    exposed: bool
    blocks: int
    prune: Any


def dependency_graph(model: nn.Module, example_inputs: Any, kwargs: Mapping[str, Any] | None = None) -> Any:
    """Torch-Pruning's graph of a model (its parameters must want gradients for the tracing, and then do as before).

    Raises:
        UsageError: the model cannot be traced.
    """
    tp = require("torch_pruning", "prune")
    wanted = [(p, p.requires_grad) for p in model.parameters()]
    args = as_tuple(example_inputs)

    def forward(module: nn.Module, _: Any) -> Any:
        return module(*args, **(kwargs or {}))

    try:
        for p, _ in wanted:
            p.requires_grad_(True)
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            return tp.DependencyGraph().build_dependency(model, example_inputs=args, forward_fn=forward)
    except (RuntimeError, AttributeError, AssertionError, KeyError, IndexError, TypeError, ValueError) as error:
        raise UsageError(
            f"Torch-Pruning cannot trace the model: {str(error)[:150]}", "Use --sparsity, which needs no graph"
        ) from error
    finally:
        for p, flag in wanted:
            p.requires_grad_(flag)


def coupled(graph: Any, ignored: list[nn.Module] | None = None) -> Iterator[Coupled]:
    """The groups of a graph whose root is a convolution or a linear layer."""
    kinds = [_ConvNd, nn.Linear]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for group in graph.get_all_groups(ignored_layers=ignored or [], root_module_types=kinds):
            yield translate(graph, group)


def translate(graph: Any, group: Any) -> Coupled:
    """One of Torch-Pruning's groups as a value."""
    members: list[Member] = []
    blocks = 1
    for k, (dependency, channels) in enumerate(group):
        module = dependency.target.module
        outgoing = graph.is_out_channel_pruning_fn(dependency.handler)
        pruner = graph.get_pruner_of_module(module) if isinstance(module, nn.Module) else None
        if pruner is not None and not depthwise(module):
            found = pruner.get_out_channel_groups(module) if outgoing else pruner.get_in_channel_groups(module)
            blocks = max(blocks, found)
        roots = group[k].root_idxs
        if isinstance(module, nn.Module) and not any(root is None for root in roots):
            members.append(Member(module, outgoing, torch.tensor(channels), torch.tensor(roots)))
    root = group[0][0].target.module
    exposed = not any(consumer(member) for member in members)
    return Coupled(root, graph.get_out_channels(root), tuple(members), exposed, blocks, group[0][0].handler)


def depthwise(module: nn.Module) -> bool:
    """Whether a convolution treats every channel alone."""
    return isinstance(module, _ConvNd) and module.groups == module.out_channels and module.groups > 1


def producer(member: Member) -> bool:
    """Whether a member's weights make the channels."""
    return member.outgoing and isinstance(member.module, (_ConvNd, nn.Linear)) and not depthwise(member.module)


def consumer(member: Member) -> bool:
    """Whether a member's weights read the channels."""
    return not member.outgoing and isinstance(member.module, (_ConvNd, nn.Linear))


def per_channel(member: Member, values: Tensor) -> Tensor:
    """Values of a member's weight, summed per channel that the member lists: [channels]."""
    module = member.module
    if values.ndim == 1:
        return values[member.channels]
    transposed = isinstance(module, _ConvNd) and module.transposed
    first = member.outgoing != transposed
    found = values.flatten(1).sum(1) if first else values.transpose(0, 1).flatten(1).sum(1)
    groups = getattr(module, "groups", 1) if isinstance(module, _ConvNd) else 1
    # The second dimension of a grouped kernel counts the channels of one group.
    if not first and groups > 1 and not depthwise(module):
        found = found.repeat(groups)
    return found[member.channels]


def group_scores(group: Coupled, scores: Mapping[str, Tensor], names: Mapping[nn.Module, str]) -> Tensor | None:
    """The score of each channel of a group: sum of |entry| over all members; None if no member has a score.

    Args:
        group: coupled channels.
        scores: parameter name -> score of every entry; signs do not cancel, for a channel whose entries pull against
            each other at one point still matters near it.
        names: module -> path.
    """
    total = torch.zeros(group.width, dtype=torch.float64)
    found = False
    for member in group.members:
        name = f"{names.get(member.module, '')}.weight"
        if name in scores and isinstance(member.module, (_ConvNd, nn.Linear, _BatchNorm, nn.LayerNorm)):
            part = per_channel(member, scores[name].double().abs())
            total.index_add_(0, member.roots, part)
            found = True
    return total if found else None
