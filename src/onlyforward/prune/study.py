"""`prune run` and the demonstration: methods side by side over seeds and sparsities."""

from __future__ import annotations

import copy
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from onlyforward.core.checks import check_choice, check_range
from onlyforward.core.errors import UsageError
from onlyforward.data.sets import load
from onlyforward.prune import experiment
from onlyforward.prune.counting import batch_of, speedup
from onlyforward.prune.experiment import Cell, Plan, mean_sd, sparsity_tag
from onlyforward.prune.manifest import export_onnx
from onlyforward.prune.masks import check_pattern
from onlyforward.prune.methods import OURS, PEERS, Method
from onlyforward.prune.shrink import shrink
from onlyforward.prune.training import Task
from onlyforward.prune.zoo import MODELS, Recipe

if TYPE_CHECKING:
    from onlyforward.prune.command import DemoOptions, Run
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result

FOLDERS = {"fashion_mnist": "fashion", "cifar10_jpeg": "cifar10"}
"""Names of data folders that stand for the sets in them."""


def plan_of(options: Run) -> Plan:
    """The options checked and put together."""
    check_choice(options.model, MODELS, name="model")
    if not options.sparsity:
        raise UsageError("--sparsity holds no fraction", "Give for instance --sparsity 0.95 0.99")
    for sparsity in options.sparsity:
        if not 0 <= sparsity < 1:
            raise UsageError(f"The sparsity is {sparsity}", "Give a fraction of at least 0 and below 1")
    if options.connect_step > 0.05 and not options.force:
        raise UsageError(
            f"--connect-step {options.connect_step} destroys training", "Take at most 0.05, or add --force"
        )
    data = load(FOLDERS.get(options.data, options.data), limit=options.train_limit, test_limit=options.test_limit)
    preset = MODELS[options.model][1]
    recipe = Recipe(
        epochs=preset.epochs if options.epochs is None else options.epochs,
        finetune=preset.finetune if options.finetune_epochs is None else options.finetune_epochs,
        batch=preset.batch if options.batch is None else options.batch,
        lr=preset.lr if options.lr is None else options.lr,
        decay=preset.decay,
        l2=preset.l2,
        peak=preset.peak if options.finetune_lr is None else options.finetune_lr,
    )
    sparsities = options.sparsity
    if options.n_m is not None:
        sparsities = (check_pattern(*options.n_m),)
    return Plan(
        Task(data),
        options.model,
        recipe,
        sparsities,
        width=options.width,
        depth=options.depth,
        rounds=options.rounds,
        at_init=options.prune_at == "init",
        scope=options.scope,
        n_m=options.n_m,
    )


def ours(options: Run, plan: Plan) -> Method:
    """Our method with the options' strengths, by default the recipe's."""
    return replace(
        OURS,
        l1=options.l1,
        l2=plan.recipe.l2 if options.l2 is None else options.l2,
        prox=options.l1_prox,
        step=options.connect_step,
        connect=options.connect_lambda,
        start=options.start,
        every=options.every,
    )


def peer(name: str, plan: Plan) -> Method:
    """A competitor; L2 with safe masks trains at our strength of L2, so that the decoupled step is all that differs."""
    found = PEERS[check_choice(name, PEERS, name="peer")]
    return replace(found, l2=plan.recipe.l2) if found.name == "l2-guarded" and plan.recipe.l2 else found


def compare(options: Run, context: Context) -> Result:
    """Train, prune and fine-tune with every method, and put the results side by side."""
    torch.set_flush_denormal(True)
    plan = plan_of(options)
    methods = [ours(options, plan)]
    methods += [peer(name, plan) for name in options.peers]
    if options.connect_lambda and not (methods[0].l1 or methods[0].l2 or methods[0].prox):
        context.warn("R alone is blind to the loss and hurts under Adam at every strength: add --l2 or --l1")
    if options.connect_lambda:
        context.warn("the gradient form loses to the decoupled step: see the row connect-adam")
    fixed = None if options.kappa == "auto" else check_range(number(options.kappa), name="--kappa", low=0.0, high=1.0)
    done = context.restore()
    state: dict[str, Any] = {"cells": {}, "settings": {}} if done is None else dict(done.data)
    seeds = range(options.seed, options.seed + options.seeds)
    total = len(methods) * len(seeds) * (1 + len(plan.sparsities))
    tables: list[list[Any]] = []
    final = None
    with context.progress(total, label="prune") as tick:
        step = 0
        for method in methods:
            if method.name not in state["settings"]:
                state["settings"][method.name] = choose(plan, method, fixed)
            values, table = state["settings"][method.name]
            chosen = [replace(method, **{method.tuned: value}) if method.tuned else method for value in values]
            for setting, scored in table:
                taken = [sparsity for sparsity, value in zip(plan.sparsities, values) if value == setting]
                tables.append([method.name, method.tuned, setting, *scored, ", ".join(f"{t:g}" for t in taken)])
            for seed in seeds:
                step += 1
                name = f"{method.name}/{seed}"
                if name in state["cells"]:
                    continue
                cell, model = experiment.run_cell(plan, chosen, seed, tick)
                if final is None:
                    final = model
                state["cells"][name] = asdict(cell)
                context.save(step, lambda: ({}, state))
    cells = {m.name: [Cell(**state["cells"][f"{m.name}/{seed}"]) for seed in seeds] for m in methods}
    result = context.result(question=f"How small can {options.model} on {options.data} get, and at what accuracy?")
    tabulate(result, plan, cells)
    if tables:
        columns = ["method", "setting", "value", *(f"at {sparsity:g}" for sparsity in plan.sparsities), "chosen at"]
        note = (
            "Accuracy on held-out training data, three seeds, after the whole fine-tuning. Every method with a "
            "setting got four."
        )
        result.table("Settings", columns, tables, note)
    if fixed is None:
        for sparsity, value in zip(plan.sparsities, state["settings"][methods[0].name][0]):
            result.metric(f"kappa_{sparsity_tag(sparsity)}", value)
    result.metric("kappa", state["settings"][methods[0].name][0][-1])
    if final is not None and (options.shrink or options.onnx):
        smaller(result, options, context, final, plan)
    if final is not None:
        result.artefacts |= {name: p.detach() for name, p in final.named_parameters()}
    return result


def smaller(result: Result, options: Run, context: Context, final: nn.Module, plan: Plan) -> None:
    """Shrink our network at the largest sparsity, first seed, time it and export it."""
    example = plan.task.example
    small = shrink(final, example)
    result.metric("shrink_parameters_ratio", small.parameters_ratio)
    result.metric("shrink_macs_ratio", small.macs_ratio)
    result.metric("shrink_max_abs_difference", small.max_abs_difference)
    ratio = speedup(final, small.model, batch_of(example, 64))
    result.metric("shrink_speedup", ratio, timing=True)
    double = shrink(copy.deepcopy(final).double(), example.double())
    result.metric("shrink_max_abs_difference_float64", double.max_abs_difference)
    rows = [
        ["parameters", small.before.parameters, small.after.parameters, small.parameters_ratio],
        ["multiply-accumulates", small.before.macs, small.after.macs, small.macs_ratio],
    ]
    result.table("Really smaller", ["what", "dense", "shrunk", "ratio"], rows, "At the largest sparsity, first seed.")
    if options.onnx:
        with tempfile.TemporaryDirectory() as temporary:
            path = context.artefact("model.onnx") or Path(temporary) / "model.onnx"
            result.metric("onnx_max_abs_difference", export_onnx(small.model, example, path))


def number(text: str) -> float:
    """A number from a word.

    Raises:
        UsageError: it is none.
    """
    try:
        return float(text)
    except ValueError as error:
        raise UsageError(f"--kappa is {text!r}", "Give auto or a number between 0 and 1") from error


def choose(plan: Plan, method: Method, fixed: float | None) -> tuple[list[float], list[tuple[float, list[float]]]]:
    """The value of a method's setting at each sparsity, given or tuned, and the table of the choice."""
    count = len(plan.sparsities)
    if not method.tuned:
        return [0.0] * count, []
    if fixed is not None:
        return [fixed if method.tuned == "kappa" else getattr(method, method.tuned)] * count, []
    table = experiment.tune(plan, method)
    return [max(table, key=lambda row: row[1][k])[0] for k in range(count)], table


def tabulate(result: Result, plan: Plan, cells: dict[str, list[Cell]]) -> None:
    """Metrics and the headline table."""
    first = next(iter(cells))
    rows: list[list[Any]] = []
    for name, found in cells.items():
        prefix = "" if name == first else f"{name.replace('-', '_')}_"
        dense, dense_sd = mean_sd([cell.dense for cell in found])
        result.metric(f"{prefix}dense_accuracy", dense)
        result.metric(f"{prefix}dense_accuracy_sd", dense_sd)
        result.metric(f"{prefix}collapse_count", sum(sum(cell.collapsed) for cell in found))
        seconds = mean_sd([cell.seconds for cell in found])[0]
        result.metric(f"{prefix}train_seconds", seconds, timing=True)
        for k, sparsity in enumerate(plan.sparsities):
            tag = sparsity_tag(sparsity)
            accuracy, spread = mean_sd([cell.accuracy[k] for cell in found])
            result.metric(f"{prefix}accuracy_{tag}", accuracy)
            result.metric(f"{prefix}accuracy_{tag}_sd", spread)
            means = {
                key: mean_sd([getattr(cell, key)[k] for cell in found])[0]
                for key in ("raw", "live", "kept", "effective")
            }
            result.metric(f"{prefix}accuracy_raw_{tag}", means["raw"])
            result.metric(f"{prefix}live_{tag}", means["live"])
            result.metric(f"{prefix}kept_{tag}", means["kept"])
            result.metric(f"{prefix}effective_sparsity_{tag}", means["effective"])
            cut = sum(cell.collapsed[k] for cell in found)
            own = [cell.accuracy[k] for cell in cells[first]]
            verdict = "" if name == first else against(own, [cell.accuracy[k] for cell in found])
            rows.append([name, sparsity, accuracy, spread, means["raw"], means["live"], cut, dense, seconds, verdict])
    columns = [
        "method",
        "sparsity",
        "accuracy",
        "sd",
        "before fine-tuning",
        "live",
        "collapsed",
        "dense",
        "training [s]",
    ]
    note = "live: kept weights on a path from input to output. collapsed: seeds in which an output lost every path."
    result.table("Accuracy after pruning", [*columns, "connect is"], rows, note)
    tag = sparsity_tag(plan.sparsities[-1])
    result.answer = (
        f"At {100 * plan.sparsities[-1]:g} % sparsity the accuracy is {result.metrics[f'accuracy_{tag}']:.3f} "
        f"(dense {result.metrics['dense_accuracy']:.3f}) and {100 * (result.metrics[f'live_{tag}'] or 0):.1f} % of the "
        f"kept weights lie on a path; no output was cut off in "
        f"{len(cells[first]) * len(plan.sparsities) - int(result.metrics['collapse_count'] or 0)} of "
        f"{len(cells[first]) * len(plan.sparsities)} cells."
    )


def against(own: list[float], other: list[float]) -> str:
    """Ahead, behind or level: a difference under two standard errors is level."""
    (a, sa), (b, sb) = mean_sd(own), mean_sd(other)
    n = len(own)
    error = ((sa**2 + sb**2) / n) ** 0.5 if n > 1 else 0.01
    if abs(a - b) < 2 * error:
        return "level"
    return "ahead" if a > b else "behind"


def demo(options: DemoOptions, context: Context) -> Result:
    """The headline of `onlyforward demo`."""
    result = compare(options, context)
    result.metric("prune_accuracy", result.metrics["accuracy_95"] or 0.0)
    result.metric("prune_connected", result.metrics["collapse_count"] == 0)
    result.metric("prune_magnitude_accuracy", result.metrics["magnitude_accuracy_95"] or 0.0)
    return result
