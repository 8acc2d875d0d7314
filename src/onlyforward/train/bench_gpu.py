"""Case `gpu` of `onlyforward bench ulr`: residual and VGG networks on CIFAR-10, where there is a CUDA device."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from onlyforward.core.keys import Key
from onlyforward.data import nets
from onlyforward.data.sets import load
from onlyforward.nn.engine import LikelihoodRatio
from onlyforward.train.loop import Schedule, accuracy, cross_entropy, train
from onlyforward.train.peers import Backprop

if TYPE_CHECKING:
    from torch import nn

    from onlyforward.data.sets import Dataset
    from onlyforward.run.benchmark import BenchOptions
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result

NETWORKS = ("resnet5", "resnet8", "vgg8")


def gpu(options: BenchOptions, context: Context, result: Result) -> None:
    """64 copies beside backpropagation; without a CUDA device every network is listed as skipped, never as passed."""
    columns = ["network", "arm", "accuracy", "step [ms]", "peak [MB]", "least cosine of a layer"]
    title = "CIFAR-10 on a GPU in bfloat16, 64 copies"
    if not torch.cuda.is_available():
        rows: list[list[Any]] = [[name, "skipped: no CUDA device", None, None, None, None] for name in NETWORKS]
        result.metric("gpu_skipped", len(rows))
        result.table(title, columns, rows, "Nothing was measured.")
        return
    data = half(load("cifar10", limit=5000 if options.quick else None).to("cuda"))
    rows = []
    for name in NETWORKS:
        for arm in ("lr64", "bp"):
            found = measured(name, arm, data, epochs=1 if options.quick else nets.preset(name, "cifar10").epochs)
            for quantity, value in found.items():
                result.metric(f"gpu_{name}_{arm}_{quantity}", value, timing=quantity in ("step_ms", "peak_mb"))
            rows.append([name, arm, found["accuracy"], found["step_ms"], found["peak_mb"], found["cosine"]])
    result.table(title, columns, rows, "The cosine is that of the first 64 images before training.")


def half(data: Dataset) -> Dataset:
    """Images in bfloat16: networks on them are built so, too."""
    return replace(data, x_train=data.x_train.bfloat16(), x_test=data.x_test.bfloat16())


def engine(arm: str, model: nn.Module) -> Any:
    """The method of an arm."""
    return Backprop(model) if arm == "bp" else LikelihoodRatio(model, copies=64)


def measured(name: str, arm: str, data: Dataset, *, epochs: int) -> dict[str, float]:
    """Accuracy, milliseconds of a step, megabytes at the peak and the least cosine of a layer with backpropagation."""
    model = nets.build(name, data).to(data.x_train)
    cosines = layer_cosines(arm, model, data)
    cuda = data.x_train.is_cuda
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    chosen = nets.preset(name, "cifar10")
    schedule = Schedule(epochs, chosen.batch, chosen.lr)
    course = train(model, engine(arm, model), data, cross_entropy, schedule, key=Key(site="bench/gpu"))
    return {
        "accuracy": accuracy(model, data),
        "step_ms": course.step_ms,
        "peak_mb": torch.cuda.max_memory_allocated() / 1e6 if cuda else 0.0,
        "cosine": min(cosines.values()),
    }


def layer_cosines(arm: str, model: nn.Module, data: Dataset) -> dict[str, float]:
    """Cosine of each weight's gradient with backpropagation's, on the first 64 images."""
    found = []
    for method in (Backprop(model), engine(arm, model)):
        model.zero_grad()
        method.backward(cross_entropy, data.x_train[:64], data.y_train[:64])
        found.append(
            {n: p.grad.float().flatten() for n, p in model.named_parameters() if p.grad is not None and p.dim() > 1}
        )
    model.zero_grad()
    return {n: float(F.cosine_similarity(found[0][n], found[1][n], dim=0)) for n in found[1]}
