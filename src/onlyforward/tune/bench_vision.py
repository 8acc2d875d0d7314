"""Cases `settings`, `vision` and `imagenet` of `bench flops`: closed ONNX files tuned beside competitors."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from onlyforward.core.errors import MissingExtra
from onlyforward.data.sets import folder
from onlyforward.run.benchmark import seeds
from onlyforward.run.onnx import OnnxModel
from onlyforward.run.oracle import Oracle
from onlyforward.tune.adapters import make_adapter
from onlyforward.tune.loop import Settings
from onlyforward.tune.models import Closed, Prepared
from onlyforward.tune.peers import LABELS
from onlyforward.tune.pictures import Pictures, Shift, read_pictures
from onlyforward.tune.study import Run, interval, of_arm, run_arm
from onlyforward.tune.summary import tag, verdict
from onlyforward.tune.vision import RATES, Task, calibrate, tuned

if TYPE_CHECKING:
    from onlyforward.run.benchmark import BenchOptions
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result

BUDGET = 17_280
ARMS = ("neyman", "uniform", "mezo", "mezo-q", "spsa-gc", "cma", "es", "random", "importance")
SHIFTS = (("patch", "prompt"), ("noise", "affine"), ("contrast", "affine"), ("none", "affine"))
"""Further shifts and what is tuned under them."""
VALIDATED = range(100, 102)
FACTORS = (1 / 3, 1.0, 3.0)
COLUMNS = ["arm", "before", "accuracy", "+-", "worst split", "validation", "queries", "kept the start", "time [s]"]


def mnist(context: Context, shift: str, adapter: str) -> Task:
    """The MNIST file with 16 shots and 2,000 test images."""
    model = OnnxModel(folder("models") / "mnist_cntk.onnx")
    oracle = Oracle(Prepared(model, 1, (28, 28), "0..255"), batch=256, identity=model.identity)
    pictures = read_pictures("mnist", Shift(shift), test_limit=2000, context=context)
    return Task(Closed(oracle), pictures, make_adapter(adapter, (1, 28, 28)), 16)


def base(adapter: str, budget: int) -> Settings:
    """The command's own settings."""
    lr, sigma = RATES[adapter.partition("+")[0]]
    return Settings(budget=budget, lr=lr, sigma=sigma)


def runs_of(
    context: Context, task: Task, arms: Sequence[str], splits: Sequence[int], adapter: str, budget: int
) -> tuple[list[Run], list[str]]:
    """Every arm on every split; arms whose package is missing are listed."""
    from onlyforward.core.keys import Key

    found: list[Run] = []
    missing: list[str] = []
    before: dict[int, float] = {}
    with context.progress(len(arms) * len(splits), label="arms and splits") as tick:
        for arm in arms:
            for split in splits:
                try:
                    run = run_arm(
                        arm,
                        split,
                        task.trial(split),
                        tuned(base(adapter, budget), arm),
                        key=Key(run=split),
                        before=before.get(split),
                    )
                except MissingExtra:
                    missing.append(arm)
                    break
                before[split] = run.before
                found.append(run)
                context.say(f"{arm} split {split}: {run.before:.3f} -> {run.accuracy:.3f}")
                tick()
    return found, missing


def table(result: Result, title: str, runs: Sequence[Run], missing: Sequence[str], prefix: str, note: str = "") -> None:
    """Metrics `<prefix>_<arm>_accuracy` and one table with the verdict in words."""
    rows = []
    for arm in dict.fromkeys(run.arm for run in runs):
        own = of_arm(runs, arm)
        mean, half = interval([run.accuracy for run in own])
        result.metric(f"{prefix}_{tag(arm)}_accuracy", mean)
        result.metric(f"{prefix}_{tag(arm)}_accuracy_ci", half)
        rows.append(
            [
                LABELS.get(arm, arm),
                statistics.fmean(run.before for run in own),
                mean,
                half,
                min(run.accuracy for run in own),
                statistics.fmean(run.validation for run in own),
                statistics.fmean(run.queries for run in own),
                f"{sum(run.kept_start for run in own)} of {len(own)}",
                statistics.fmean(run.seconds for run in own),
            ]
        )
    rows += [[LABELS.get(arm, arm), "not installed", *[""] * 7] for arm in missing]
    result.table(title, COLUMNS, rows, f"{verdict(runs, 'neyman')} {note}".strip())


def settings(options: BenchOptions, context: Context, result: Result) -> None:
    """Learning rates by the validation shots of splits 100 to 104 alone; no test image is asked."""
    task = mnist(context, "rotation", "affine")
    rows = []
    splits = range(100, 101 if options.quick else 102)
    for arm in ARMS:
        losses = {}
        try:
            for factor in FACTORS:
                chosen = base("affine", BUDGET)
                spread = factor if arm in ("cma", "random") else 1.0
                chosen = replace(chosen, lr=chosen.lr * factor, sigma=chosen.sigma * spread)
                losses[factor] = statistics.fmean(validation_loss(task, arm, split, chosen) for split in splits)
                context.say(f"{arm} x {factor:.2f}: {losses[factor]:.4f}")
        except MissingExtra:
            rows.append([LABELS.get(arm, arm), *["not installed"] * len(FACTORS), ""])
            continue
        best = min(losses, key=lambda factor: losses[factor])
        result.metric(f"settings_{tag(arm)}_factor", best)
        rows.append([LABELS.get(arm, arm), *losses.values(), best])
    result.table(
        f"Mean validation loss, splits {splits.start} to {splits.stop - 1}, rotation by 40 degrees",
        ["arm", *[f"x {factor:.2f}" for factor in FACTORS], "chosen factor"],
        rows,
        "Factor of the learning rate (CMA-ES and random search: of the spread) of 0.03 and 0.05.",
    )


def validation_loss(task: Task, arm: str, split: int, chosen: Settings) -> float:
    """Least validation loss of one run, nothing tested."""
    from onlyforward.core.keys import Key

    trial = task.trial(split)
    run = run_arm(arm, split, replace(trial, evaluate=lambda theta: math.nan), chosen, key=Key(run=split))
    return min(record["loss"] for record in run.history)


def vision(options: BenchOptions, context: Context, result: Result) -> None:
    """The MNIST file under five shifts: competitors on rotation and patch, the guard everywhere."""
    splits = seeds(options)
    gains: dict[str, float] = {}
    task = mnist(context, "rotation", "affine")
    runs, missing = runs_of(context, task, ARMS, splits, "affine", BUDGET)
    runs += [calibrate(task, split) for split in splits]
    table(
        result,
        f"MNIST ONNX file, rotated by 40 degrees, affine adapter, {BUDGET} queries, {len(splits)} splits",
        runs,
        missing,
        "vision_rotation",
        "All arms share batch 32 and, but for MeZO with 2 queries, 8 queries per datum and step.",
    )
    main = of_arm(runs, "neyman")
    result.metric("vision_rotation_before_accuracy", statistics.fmean(run.before for run in main))
    result.metric("vision_rotation_worst_accuracy", min(run.accuracy for run in main))
    best = max(
        statistics.fmean(r.accuracy for r in of_arm(runs, arm)) for arm in dict.fromkeys(run.arm for run in runs)
    )
    result.metric("vision_rotation_behind_best", best - statistics.fmean(run.accuracy for run in main))
    gains["rotation"] = statistics.fmean(run.accuracy - run.before for run in main)
    result.forward_runs += sum(run.queries for run in runs)
    for shift, adapter in SHIFTS:
        task = mnist(context, shift, adapter)
        arms = ("neyman", "uniform", "mezo-q") if shift == "patch" else ("neyman",)
        runs, missing = runs_of(context, task, arms, splits, adapter, BUDGET)
        table(result, f"MNIST ONNX file, {shift}, adapter {adapter}", runs, missing, f"vision_{shift}")
        main = of_arm(runs, "neyman")
        result.metric(f"vision_{shift}_before_accuracy", statistics.fmean(run.before for run in main))
        gains[shift] = statistics.fmean(run.accuracy - run.before for run in main)
        result.forward_runs += sum(run.queries for run in runs)
    result.metric("vision_worst_gain", min(gains.values()))
    result.answer = (
        f"Rotated by 40 degrees the MNIST file falls to {result.metrics['vision_rotation_before_accuracy']:.3f}; "
        f"an affine adapter brings it to {result.metrics['vision_rotation_neyman_accuracy']:.3f} from forward queries "
        f"alone. The least mean gain over five shifts is {min(gains.values()):+.3f}."
    )


def imagenet(options: BenchOptions, context: Context, result: Result) -> None:
    """MobileNet's 1,001 ImageNet scores made into the classes of CIFAR-10, alone and behind an affine adapter."""
    model = OnnxModel(folder("models") / "mobilenet_v1_0.25_128_int8w.onnx")
    oracle = Oracle(Prepared(model, 3, (128, 128), "0..255"), batch=64, identity=model.identity)
    pictures: Pictures = read_pictures("cifar10", Shift("none"), test_limit=1000, context=context)
    shape = pictures.data.shape
    adapter = make_adapter("affine", (shape[0], shape[1], shape[2]))
    task = Task(Closed(oracle), pictures, adapter, 16, outputs=True)
    splits, budget = seeds(options), 6000
    runs, missing = runs_of(context, task, ("neyman",), splits, "affine", budget)
    alone = [calibrate(task, split) for split in splits]
    regression = [sklearn_accuracy(task, split) for split in splits]
    table(
        result,
        f"MobileNetV1-0.25 on CIFAR-10, 16 shots, affine + output, {budget} queries, {len(splits)} splits",
        [*runs, *alone],
        missing,
        "imagenet",
        f"scikit-learn's logistic regression on these scores: {statistics.fmean(regression):.3f}. Before: the output "
        "map of the shots, which the affine run starts from.",
    )
    result.metric("imagenet_sklearn_accuracy", statistics.fmean(regression))
    result.forward_runs += sum(run.queries for run in runs)


def sklearn_accuracy(task: Task, split: int) -> float:
    """The competitor of the output map: scikit-learn on standardised scores of all shots."""
    from onlyforward.core.checks import require

    linear = require("sklearn.linear_model", "data")
    pipeline = require("sklearn.pipeline", "data")
    scaling = require("sklearn.preprocessing", "data")
    problem = task.problem(split)
    items = torch.cat((problem.train, problem.validation))
    scores = problem.ask(problem.start, items)
    fitted = pipeline.make_pipeline(scaling.StandardScaler(), linear.LogisticRegression(C=0.01, max_iter=500))
    fitted.fit(scores.numpy(), problem.labels[items].numpy())
    return float(fitted.score(task.test_scores(problem.start).numpy(), task.pictures.data.y_test.numpy()))
