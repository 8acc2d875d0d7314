"""Torch-Pruning's own pruners, as competitors for removing channels."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from onlyforward.core.checks import check_choice, require
from onlyforward.prune.counting import cost, macs_at, places
from onlyforward.prune.coupling import coupled, dependency_graph
from onlyforward.prune.shortcuts import replace_shortcuts
from onlyforward.prune.structured import Structured

STRUCTURED = ("tp-l2", "tp-l1", "tp-taylor", "tp-bn", "tp-lamp", "tp-random")
STEPS = 48
"""Torch-Pruning's rounds from nothing to everything; a third of them or so reaches half the operations."""


def importance(name: str) -> Any:
    """Torch-Pruning's importance behind a peer's name."""
    tp = require("torch_pruning", "prune").importance
    return {
        "tp-l2": lambda: tp.GroupMagnitudeImportance(p=2),
        "tp-l1": lambda: tp.GroupMagnitudeImportance(p=1),
        "tp-taylor": lambda: tp.GroupTaylorImportance(),
        "tp-bn": lambda: tp.BNScaleImportance(),
        "tp-lamp": lambda: tp.LAMPImportance(),
        "tp-random": lambda: tp.RandomImportance(),
    }[name]()


def prune_with(
    name: str,
    model: nn.Module,
    example_inputs: Any,
    ratio: float,
    *,
    macs: bool,
    data: tuple[Tensor, Tensor] | None,
    max_ratio: float = 0.9,
    scorer: Any = None,
) -> Structured:
    """Run Torch-Pruning's global pruner until the cost has fallen by `ratio`.

    Args:
        name: one of STRUCTURED.
        model: not changed.
        example_inputs: one example.
        ratio: cost before over after.
        macs: the cost is multiply-accumulates, else parameters.
        data: for Taylor scores.
        max_ratio: largest fraction of a group that may go.
        scorer: an importance in the place of the name's.
    """
    if scorer is None:
        check_choice(name, STRUCTURED, name="peer")
    tp = require("torch_pruning", "prune")
    before = cost(model, example_inputs)
    small, selectors = replace_shortcuts(model, example_inputs)
    small.eval()
    outlets = [group.root for group in coupled(dependency_graph(small, example_inputs)) if group.exposed]
    counts = places(small, example_inputs)

    def now() -> int:
        return macs_at(small, counts) if macs else sum(p.numel() for p in small.parameters())

    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        pruner = tp.pruner.BasePruner(
            small,
            example_inputs,
            importance=scorer or importance(name),
            global_pruning=True,
            pruning_ratio=1.0,
            max_pruning_ratio=max_ratio,
            iterative_steps=STEPS,
            ignored_layers=outlets,
        )
        start = before.macs if macs else before.parameters
        for _ in range(STEPS):
            if start / now() >= ratio:
                break
            if name == "tp-taylor" and data is not None:
                small.zero_grad()
                F.cross_entropy(small(data[0]), data[1]).backward()
            pruner.step()
    small.zero_grad(set_to_none=True)
    return Structured(small.eval(), name, before, cost(small, example_inputs), {}, selectors)
