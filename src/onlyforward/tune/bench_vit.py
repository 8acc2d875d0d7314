"""Case `vit` of `onlyforward bench flops`: the transformer on rotated, noisy and plain JPEG images, five splits."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from onlyforward.run.benchmark import seeds
from onlyforward.tune.finetune import Recipe, Scope
from onlyforward.tune.pictures import Shift, read_pictures
from onlyforward.tune.study import interval, of_arm
from onlyforward.tune.summary import tag, verdict
from onlyforward.tune.vit import AMOUNTS, Bench

if TYPE_CHECKING:
    from onlyforward.run.benchmark import BenchOptions
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result

ARMS = ("head", "neyman", "uniform", "gaussian", "mezo", "mezo-q", "bp")
LABELS = {
    "head": "head alone, exact gradient",
    "neyman": "norms by per-datum noise, Neyman (ours), exact head",
    "uniform": "norms by per-datum noise, uniform counts, exact head",
    "gaussian": "norms by per-datum noise, learned Gaussian allocator, exact head",
    "mezo": "norms by MeZO, one pair, exact head",
    "mezo-q": "norms by MeZO, as many runs as ours, exact head",
    "bp": "norms and head by backpropagation",
}
SCOPE = Scope("late", 1)


def vit(options: BenchOptions, context: Context, result: Result) -> None:
    """16 shots a class, the last block, 2,000 test images."""
    splits = seeds(options)
    with context.progress(len(AMOUNTS) * len(ARMS) * len(splits), label="vit") as tick:
        for name, amount in AMOUNTS.items():
            shift = Shift("none") if name == "jpeg" else Shift(name, amount)
            bench = Bench(read_pictures("cifar10", shift, test_limit=2000, context=context), SCOPE)
            result.metric(f"vit_{name}_before_accuracy", bench.before)
            runs = []
            for arm in ARMS:
                for split in splits:
                    runs.append(bench.run(arm, split, Recipe()))
                    tick()
                context.say(f"{name} {arm}: {statistics.fmean(r.accuracy for r in of_arm(runs, arm)):.4f}")
            rows = []
            for arm in ARMS:
                own = of_arm(runs, arm)
                mean, half = interval([run.accuracy for run in own])
                result.metric(f"vit_{name}_{tag(arm)}_accuracy", mean)
                result.metric(f"vit_{name}_{tag(arm)}_accuracy_ci", half)
                kept = f"{sum(run.kept_start for run in own)} of {len(own)}"
                rows.append([LABELS[arm], bench.before, mean, half, statistics.fmean(r.queries for r in own), kept])
            result.table(
                f"ViT on CIFAR-10, {name} {amount:g}, late:{SCOPE.size}, 16 shots, {len(splits)} splits",
                ["arm", "before", "accuracy", "+-", "forward runs of the suffix", "kept the start"],
                rows,
                f"{verdict(runs, 'neyman')} The exact head earns most of the gain; plain JPEG leaves little to gain.",
            )
            result.forward_runs += sum(run.queries for run in runs)
