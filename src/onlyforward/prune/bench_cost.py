"""What the measure costs: ratios of medians in one process on one thread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from onlyforward.core.keys import Key
from onlyforward.data.residual import cifar_resnet
from onlyforward.data.sets import load
from onlyforward.prune.connect import CoNNect, gradients, probe, sizes
from onlyforward.prune.masks import safe_masks
from onlyforward.prune.methods import OURS
from onlyforward.prune.training import Task, fit
from onlyforward.prune.zoo import MODELS, build

if TYPE_CHECKING:
    from onlyforward.run.result import Result


def seconds(work: Callable[[], Any], repeats: int) -> float:
    """Median seconds of `work`, after one run that does not count."""
    work()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def training_step(model: nn.Module, batch: int) -> Callable[[], None]:
    """One step of SGD on random pictures."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(batch, 3, 32, 32, generator=generator)
    y = torch.randint(10, (batch,), generator=generator)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def saved_bytes(work: Callable[[], Tensor]) -> int:
    """Bytes of the distinct tensors that a forward run keeps for its backward run."""
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        work()
    return sum(kept.values())


def run_cost(result: Result, *, quick: bool, say: Callable[[str], None]) -> None:
    """The measure beside training steps of ResNet-56, whole trainings of the digits MLP, and safe masks."""
    repeats = 3 if quick else 5
    rows: list[list[Any]] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = cifar_resnet(56)
    example = torch.rand(1, 3, 32, 32)
    connect = CoNNect(model, example)
    say("ResNet-56")
    measure = seconds(lambda: connect().backward(), repeats)  # type: ignore[no-untyped-call]
    model.train()
    single = seconds(training_step(model, 1), repeats)
    full = seconds(training_step(model, 128), repeats)
    parameters = sum(p.numel() * p.element_size() for p in model.parameters())
    forward = saved_bytes(lambda: F.cross_entropy(model.eval()(example), torch.tensor([0])))
    memory = saved_bytes(connect) / (3 * parameters + forward)
    rows.append(["R, forward and backward / step of batch 128, ResNet-56", measure / full, 0.05, 1000 * measure])
    rows.append(["the same / step of batch 1", measure / single, 1.5, 1000 * single])
    rows.append(["memory kept by R / (3 x parameters + a batch-1 forward)", memory, 1.0, None])
    result.metric("connect_overhead", measure / full, timing=True)
    result.metric("connect_batch1_ratio", measure / single, timing=True)
    result.metric("connect_memory_ratio", memory)
    say("digits MLP")
    data = load("digits")
    times: dict[str, list[float]] = {"with": [], "without": []}
    for turn in range(repeats):
        for name, method in (("with", OURS), ("without", replace(OURS, step=0.0))):
            net = build("mlp", data, Key())
            names = [n for n, p in net.named_parameters() if p.ndim > 1]
            times[name].append(fit(net, Task(data), MODELS["mlp"][1], method, Key(), epochs=15, weights=names))
        say(f"  {turn + 1} of {repeats}")
    ratio = statistics.median(times["with"]) / statistics.median(times["without"])
    rows.append(
        ["training with the decoupled step every 10 / without", ratio, 1.5, 1000 * statistics.median(times["with"])]
    )
    result.metric("step_training_ratio", ratio, timing=True)
    say("safe masks")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        small = cifar_resnet(20)
    how, weights = probe(small, example), sizes(small)
    one = seconds(lambda: gradients(how, weights), repeats)
    masks = seconds(lambda: safe_masks(small, example, 0.95), 1)
    rows.append(["safe masks of ResNet-20, 50 steps / one R evaluation", masks / one, 60.0, 1000 * masks])
    result.metric("safe_masks_evaluations", masks / one, timing=True)
    note = "Medians on one thread, the dearer work in the denominator measured in the same process."
    result.table("Cost", ["what", "ratio [s/s]", "floor", "time [ms]"], rows, note)
