"""One cell of a comparison: train, prune at several sparsities, fine-tune, read the test data once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from onlyforward.core.keys import Key
from onlyforward.prune import scores
from onlyforward.prune.inspection import inspect
from onlyforward.prune.masks import Masks, apply_masks, plain_masks, safe_masks
from onlyforward.prune.methods import Method
from onlyforward.prune.training import Task, fit
from onlyforward.prune.zoo import Recipe, build

TUNING_SEEDS = (100, 101, 102)
"""Seeds of the runs on which settings are chosen; no reported seed is near them."""


@dataclass(frozen=True)
class Plan:
    """What all cells of a comparison share.

    Attributes:
        task: data.
        model: name in the zoo.
        recipe: training.
        sparsities: fractions removed.
        width: of the mlp.
        depth: of the mlp.
        rounds: prunings on the way to the sparsity.
        at_init: prune before training.
        scope: of safe masks.
        n_m: pattern in the place of sparsities.
    """

    task: Task
    model: str
    recipe: Recipe
    sparsities: tuple[float, ...]
    width: int = 100
    depth: int = 5
    rounds: int = 1
    at_init: bool = False
    scope: str = "global"
    n_m: tuple[int, int] | None = None


@dataclass
class Cell:
    """What one method gave at one seed; lists run over the sparsities.

    Attributes:
        dense: accuracy before pruning.
        accuracy: after fine-tuning.
        raw: before it.
        live: kept weights on a path over kept weights.
        kept: kept weights over all.
        effective: 1 - living weights over all.
        collapsed: no path, or an output without one.
        seconds: of training.
    """

    dense: float
    accuracy: list[float] = field(default_factory=list)
    raw: list[float] = field(default_factory=list)
    live: list[float] = field(default_factory=list)
    kept: list[float] = field(default_factory=list)
    effective: list[float] = field(default_factory=list)
    collapsed: list[bool] = field(default_factory=list)
    seconds: float = 0.0


def weights_of(plan: Plan, model: nn.Module) -> list[str]:
    """Names of what is pruned."""
    return list(scores.prunable(model, plan.task.example))


def train_dense(plan: Plan, method: Method, key: Key, tick: Callable[..., None] | None = None) -> tuple[Any, float]:
    """A trained network and its training seconds; with `at_init` the network as it begins."""
    model = build(plan.model, plan.task.data, key, width=plan.width, depth=plan.depth)
    if plan.at_init:
        return model.eval(), 0.0
    names = weights_of(plan, model)
    seconds = fit(model, plan.task, plan.recipe, method, key, epochs=plan.recipe.epochs, weights=names, tick=tick)
    return model.eval(), seconds


def masks_for(
    plan: Plan, method: Method, model: nn.Module, sparsity: float, key: Key, start: Mapping[str, Tensor] | None
) -> Masks:
    """The masks of a method at one sparsity."""
    example = plan.task.example
    if method.guarded:
        options: dict[str, Any] = {"kappa": method.kappa, "scope": plan.scope, "n_m": plan.n_m, "start": start}
        return safe_masks(model, example, sparsity, **options)
    weights = scores.prunable(model, example)
    rows = plan.task.train_rows()[:512]

    def loss(module: nn.Module) -> Tensor:
        return plan.task.loss(module, rows)

    scored = {
        "magnitude": lambda: scores.magnitude(weights),
        "lamp": lambda: scores.lamp(weights),
        "random": lambda: scores.random(weights, key.at(site="prune/random").generator()),
        "snip": lambda: scores.snip(model, weights, loss),
        "grasp": lambda: scores.grasp(model, weights, loss),
        "synflow": lambda: scores.synflow(model, example, 1 - sparsity),
    }[method.score]()
    if start is not None:
        scored = {name: score.masked_fill(~start[name], float("-inf")) for name, score in scored.items()}
    return plain_masks(scored, sparsity)


def prune_once(
    plan: Plan, method: Method, dense: nn.Module, sparsity: float, key: Key, finetune: int
) -> tuple[nn.Module, Masks, float]:
    """A pruned and fine-tuned copy, its masks, and the accuracy before fine-tuning."""
    model = copy.deepcopy(dense)
    # What is pruned before training is trained, not repaired.
    recipe = replace(plan.recipe, peak=0.0) if plan.at_init else plan.recipe
    masks: Masks | None = None
    raw = 0.0
    for turn in range(1, plan.rounds + 1):
        target = 1 - (1 - sparsity) ** (turn / plan.rounds)
        masks = masks_for(plan, method, model, target, key, masks)
        apply_masks(model, masks)
        raw = plan.task.accuracy(model)
        names = list(masks)
        fit(model, plan.task, recipe, method, key.at(step=turn), epochs=finetune, weights=names, masks=masks)
    return model, masks or {}, raw


def run_cell(
    plan: Plan, methods: Sequence[Method], seed: int, tick: Callable[..., None] | None = None
) -> tuple[Cell, nn.Module]:
    """Train, prune and fine-tune at one seed; also gives the network at the largest sparsity.

    Args:
        plan: the comparison.
        methods: one method with the setting of each sparsity; networks are trained once for settings that share it.
        seed: of weights, order and dropout.
        tick: called after every piece of work.
    """
    key = Key(run=seed)
    trained: dict[Method, tuple[Any, float]] = {}
    cell: Cell | None = None
    smallest, largest = None, -1.0
    finetune = plan.recipe.epochs if plan.at_init else plan.recipe.finetune
    for sparsity, method in zip(plan.sparsities, methods, strict=True):
        alike = replace(method, kappa=0.0) if method.same_training else method
        if alike not in trained:
            trained[alike] = train_dense(plan, method, key)
        dense, seconds = trained[alike]
        if cell is None:
            cell = Cell(dense=plan.task.accuracy(dense), seconds=seconds)
            if tick is not None:
                tick()
        model, masks, raw = prune_once(plan, method, dense, sparsity, key, finetune)
        report = inspect(model, plan.task.example, masks)
        cell.raw.append(raw)
        cell.accuracy.append(plan.task.accuracy(model))
        kept = sum(int(mask.sum()) for mask in masks.values())
        total = sum(mask.numel() for mask in masks.values())
        cell.live.append(report.live / max(1, kept))
        cell.kept.append(kept / total)
        cell.effective.append(1 - report.live / total)
        cell.collapsed.append(report.collapsed)
        if sparsity > largest:
            smallest, largest = model, sparsity
        if tick is not None:
            tick()
    assert cell is not None
    assert smallest is not None
    return cell, smallest


def tune(plan: Plan, method: Method) -> list[tuple[float, list[float]]]:
    """Accuracy of each of a method's settings at each sparsity, on held-out training data.

    Every figure is the mean over three seeds after the whole fine-tuning, which ranks settings otherwise than its first
    epochs do; a sparsity takes the setting that is best there.
    """
    held = replace(plan, task=plan.task.held_out())
    found = {setting: torch.zeros(len(plan.sparsities)) for setting in method.settings()}
    for key in (Key(run=seed) for seed in TUNING_SEEDS):
        dense: nn.Module | None = None
        for setting, total in found.items():
            if dense is None or not method.same_training:
                dense, _ = train_dense(held, setting, key)
            for k, sparsity in enumerate(plan.sparsities):
                model, _, _ = prune_once(held, setting, dense, sparsity, key, plan.recipe.finetune)
                total[k] += held.task.accuracy(model) / len(TUNING_SEEDS)
    return [(getattr(setting, method.tuned), total.tolist()) for setting, total in found.items()]


def sparsity_tag(sparsity: float) -> str:
    """0.98 -> "98", 0.995 -> "99_5"."""
    return f"{100 * sparsity:.6g}".replace(".", "_")


def mean_sd(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation (0 for a single value)."""
    x = torch.tensor(list(values), dtype=torch.float64)
    return float(x.mean()), float(x.std()) if len(x) > 1 else 0.0
