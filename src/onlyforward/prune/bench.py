"""`onlyforward bench connect`: the claims of pruning by connectivity, part by part."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from onlyforward.data.sets import folder
from onlyforward.prune.command import Model, Run
from onlyforward.run.benchmark import chosen
from onlyforward.run.context import Context
from onlyforward.run.result import Result

if TYPE_CHECKING:
    from onlyforward.prune.command import BenchConnect

Part = Callable[["BenchConnect", Context, Result], None]

FIELD = ("magnitude", "l1", "l2", "l2-guarded", "snip", "grasp", "synflow")
"""The peers of a comparison; more stand where they are instructive, fewer where a run is long."""


def inner(options: Any, context: Context) -> Context:
    """A context without a folder, for a command inside the benchmark."""
    quiet = Context(options, application="prune", command="prune run")
    quiet.signals = context.signals
    return quiet


def adopt(result: Result, found: Result, prefix: str, title: str, command: str) -> None:
    """A command's metrics under a prefix, and its tables under a title that names the command."""
    for name, value in found.metrics.items():
        if name != "digest48" and value is not None:
            result.metric(f"{prefix}{name}", value, timing=name in found.timing)
    for k, table in enumerate(found.tables):
        note = f"{command}. {table.note}" if k == 0 else table.note
        result.table(f"{title}: {table.title}", table.columns, table.rows, note)


def comparison(prefix: str, title: str, run: Run, command: str, *, quick: Mapping[str, Any] | None = None) -> Part:
    """A part that is one `prune run`."""

    def part(options: BenchConnect, context: Context, result: Result) -> None:
        from onlyforward.prune.study import compare

        # The short form reads every method at its default setting.
        made = replace(run, **(quick or {"seeds": 1, "kappa": "0.5"})) if options.quick else run
        shown = f"short form of {command}" if options.quick else command
        adopt(result, compare(made, inner(made, context)), prefix, title, shown)

    return part


def laws(options: BenchConnect, context: Context, result: Result) -> None:
    """The measure against brute force, and unmodified models of other libraries."""
    from onlyforward.prune.bench_laws import run_laws

    run_laws(result, quick=options.quick, say=context.say)


def cost(options: BenchConnect, context: Context, result: Result) -> None:
    """What the measure costs."""
    from onlyforward.prune.bench_cost import run_cost

    run_cost(result, quick=options.quick, say=context.say)


RESNET = "resnet20_cifar10.th"


def resnet(options: BenchConnect, context: Context, result: Result) -> None:
    """Channels of a public ResNet-20 removed to half the operations, beside Torch-Pruning."""
    from onlyforward.prune.deploy import prune_model

    with tempfile.TemporaryDirectory() as temporary:
        made = Model(
            file=folder("models") / RESNET,
            arch="onlyforward.data.nets:cifar_resnet20",
            data="cifar10_jpeg",
            structured=True,
            macs_ratio=2.0,
            finetune_images=1000 if options.quick else 5000,
            test_limit=500 if options.quick else 2000,
            peers=("tp-l2", "tp-taylor"),
            save=Path(temporary) / "small",
            onnx=Path(temporary) / "small.onnx",
        )
        command = (
            f"onlyforward prune model {RESNET} --arch onlyforward.data.nets:cifar_resnet20 --data cifar10_jpeg "
            "--structured --macs-ratio 2 --finetune-images 5000 --peers tp-l2 tp-taylor --save small --onnx small.onnx"
        )
        adopt(result, prune_model(made, inner(made, context)), "resnet_", "ResNet-20", command)


PARTS: Mapping[str, Part] = {
    "laws": laws,
    "cost": cost,
    "digits": comparison(
        "digits_",
        "Digits MLP",
        Run(peers=(*FIELD, "connect-adam")),
        "onlyforward prune run --peers magnitude l1 l2 l2-guarded snip grasp synflow connect-adam",
    ),
    "vgg6": comparison(
        "vgg6_",
        "Digits vgg6",
        Run(model="vgg6", seeds=3, peers=FIELD),
        "onlyforward prune run --model vgg6 --seeds 3 --peers magnitude l1 l2 l2-guarded snip grasp synflow",
    ),
    "cora": comparison(
        "cora_",
        "Cora GCN",
        Run(data="cora", model="gcn", sparsity=(0.95, 0.98, 0.99, 0.995), peers=FIELD),
        "onlyforward prune run --data cora --model gcn --sparsity 0.95 0.98 0.99 0.995 "
        "--peers magnitude l1 l2 l2-guarded snip grasp synflow",
    ),
    "fashion": comparison(
        "fashion_",
        "Fashion-MNIST vgg11",
        Run(
            data="fashion_mnist",
            model="vgg11",
            train_limit=20000,
            seeds=1,
            epochs=1,
            finetune_epochs=1,
            sparsity=(0.99,),
            # Of 0.25, 0.5, 0.75, 1 the best on a held-out fifth of the training data, seed 100.
            kappa="0.25",
            peers=("magnitude", "l2", "synflow"),
        ),
        "onlyforward prune run --data fashion_mnist --model vgg11 --train-limit 20000 --seeds 1 --epochs 1 "
        "--finetune-epochs 1 --sparsity 0.99 --kappa 0.25 --peers magnitude l2 synflow",
        quick={"train_limit": 2000, "test_limit": 1000},
    ),
    "init": comparison(
        "init_",
        "Digits MLP pruned before training",
        Run(prune_at="init", seeds=3, peers=("magnitude", "snip", "grasp", "synflow", "random")),
        "onlyforward prune run --prune-at init --seeds 3 --peers magnitude snip grasp synflow random",
    ),
    "shrink": comparison(
        "",
        "A wide MLP, really smaller",
        Run(width=1000, sparsity=(0.99,), seeds=1, epochs=5, kappa="0.5", shrink=True, onnx=True),
        "onlyforward prune run --width 1000 --sparsity 0.99 --seeds 1 --epochs 5 --kappa 0.5 --shrink --onnx",
    ),
    "resnet": resnet,
}
"""Name -> part, in the order in which they run."""


def run(options: BenchConnect, context: Context) -> Result:
    """The parts asked for, one after the other."""
    torch.set_flush_denormal(True)
    result = context.result(question="What does pruning by connectivity give, and what does it cost?")
    names = chosen(options.part, PARTS)
    for name in names:
        context.say(f"part {name}")
        PARTS[name](options, context, result)
    result.answer = f"Parts run: {', '.join(names)}."
    return result
