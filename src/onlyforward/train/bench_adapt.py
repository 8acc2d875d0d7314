"""Cases `adapt` and `adapt-vit` of `onlyforward bench ulr`: pretrained networks on shifted images, beside peers."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING

from onlyforward.core.keys import Key
from onlyforward.data.corruptions import apply
from onlyforward.data.sets import load
from onlyforward.run.benchmark import seeds
from onlyforward.train.adapt import SETTINGS, Setting, accuracy, adapted, features, loaded, reset_statistics
from onlyforward.train.robust import spread

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onlyforward.data.sets import Dataset
    from onlyforward.run.benchmark import BenchOptions
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result

ARMS: Mapping[str, tuple[str, str]] = {
    "head": ("lr", "head"),
    "lr": ("lr", "early"),
    "late": ("lr", "late"),
    "bp": ("bp", "norms+head"),
}
"""Arm -> method and scope; "head" is the exact gradient of the head alone."""


def adapt(options: BenchOptions, context: Context, result: Result) -> None:
    """ResNet-20 trained on clean CIFAR-10, adapted to the JPEG images: 5,000 for training, 3,000 for the test."""
    data = load("cifar10", limit=5000, test_limit=3000)
    compared(options, context, result, "adapt", "resnet20", data)


def adapt_vit(options: BenchOptions, context: Context, result: Result) -> None:
    """The small ViT under Gaussian pixel noise of standard deviation 0.1: 2,000 images for training and the test."""
    data = load("cifar10", limit=2000, test_limit=2000)
    clean = accuracy(loaded("vit-d128-l6"), data.x_test, data.y_test)
    result.metric("adapt_vit_clean_accuracy", clean)
    shifted = replace(
        data,
        x_train=apply(data.x_train, "gaussian", 0.1, key=Key(site="shift/train")),
        x_test=apply(data.x_test, "gaussian", 0.1, key=Key(site="shift/test")),
    )
    found = compared(options, context, result, "adapt_vit", "vit-d128-l6", shifted)
    before = found["before"][0]
    recovered = [(lr - before) / (bp - before) for lr, bp in zip(found["lr"], found["bp"]) if bp > before]
    result.metric("adapt_vit_gap_recovered", spread(recovered)[0])


def compared(
    options: BenchOptions, context: Context, result: Result, case: str, name: str, data: Dataset
) -> dict[str, list[float]]:
    """Every arm on the same images, from the same weights; arm -> accuracy per seed."""
    setting = SETTINGS.get(name, Setting())
    original = loaded(name)
    before = accuracy(original, data.x_test, data.y_test)
    stored = features(original, data.x_train)
    found: dict[str, list[float]] = {"before": [before]}
    costs: dict[str, float] = {"before": 0.0, "bnstats": 1.0}
    if name.startswith("resnet"):
        found["bnstats"] = [accuracy(reset_statistics(original, data.x_train), data.x_test, data.y_test)]
    with context.progress(len(ARMS) * len(seeds(options)), label=case) as tick:
        for arm, (method, scope) in ARMS.items():
            for seed in seeds(options):
                model = copy.deepcopy(original)
                _, costs[arm] = adapted(
                    model, data, method=method, scope=scope, setting=setting, batch=128, seed=seed, stored=stored
                )
                found.setdefault(arm, []).append(accuracy(model, data.x_test, data.y_test))
                context.say(f"{case} {arm} seed {seed}: {found[arm][-1]:.4f}")
                tick()
    rows = []
    for arm, values in found.items():
        mean, deviation = spread(values)
        result.metric(f"{case}_{arm}_accuracy", mean)
        result.metric(f"{case}_{arm}_accuracy_std", deviation)
        rows.append([LABELS[arm], mean, deviation, len(values), costs[arm]])
    result.table(
        f"{name} on {len(data.y_train)} images of {data.name}",
        ["arm", "accuracy", "std", "seeds", "forward passes per image and step"],
        rows,
        "Every arm that trains begins with three epochs of the exact head on stored features. The learning rates are "
        "those of the likelihood-ratio arm.",
    )
    return found


LABELS = {
    "before": "as loaded",
    "bnstats": "BatchNorm statistics of the new images alone",
    "head": "head alone, exact gradient (forward only)",
    "lr": "likelihood ratio: early norms by channel noise, exact head",
    "late": "likelihood ratio: norms of the last stage, exact head",
    "bp": "backpropagation: all norms and head",
}
