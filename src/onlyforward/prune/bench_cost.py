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


def seconds(work: Callable[[], Any]) -> float:
    """Seconds of processor time: on one thread those of the clock, less what others on the machine take."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def ratio(work: Callable[[], Any], unit: Callable[[], Any], repeats: int, *, units: int = 1) -> tuple[float, float]:
    """Median of time(work) / time(unit) over pairs taken in turn, and the median seconds of `work`.

    A pair is made of neighbours in time, so that a machine that grows slower slows both. A run of each comes first and
    does not count; `units` runs of the unit stand before and after every work.
    """
    work()
    unit()
    pairs = []
    for _ in range(repeats):
        before = [seconds(unit) for _ in range(units)]
        spent = seconds(work)
        after = [seconds(unit) for _ in range(units)]
        pairs.append((spent / statistics.mean(before + after), spent))
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


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
    model.train()

    def measure() -> None:
        connect().backward()  # type: ignore[no-untyped-call]

    overhead, spent = ratio(measure, training_step(model, 128), repeats)
    single, _ = ratio(measure, training_step(model, 1), 5 * repeats)
    parameters = sum(p.numel() * p.element_size() for p in model.parameters())
    forward = saved_bytes(lambda: F.cross_entropy(model.eval()(example), torch.tensor([0])))
    memory = saved_bytes(connect) / (3 * parameters + forward)
    rows.append(["R, forward and backward / step of batch 128, ResNet-56", overhead, 0.05, 1000 * spent])
    rows.append(["the same / step of batch 1", single, 1.5, 1000 * spent])
    rows.append(["memory kept by R / (3 x parameters + a batch-1 forward)", memory, 1.0, None])
    result.metric("connect_overhead", overhead, timing=True)
    result.metric("connect_batch1_ratio", single, timing=True)
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
    with_step = statistics.median(a / b for a, b in zip(times["with"], times["without"], strict=True))
    rows.append(
        ["training with the decoupled step every 10 / without", with_step, 1.5, 1000 * statistics.median(times["with"])]
    )
    result.metric("step_training_ratio", with_step, timing=True)
    say("safe masks")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        small = cifar_resnet(20)
    how, weights = probe(small, example), sizes(small)
    evaluations, spent = ratio(
        lambda: safe_masks(small, example, 0.95), lambda: gradients(how, weights), repeats, units=5
    )
    rows.append(["safe masks of ResNet-20, 50 steps / one R evaluation", evaluations, 60.0, 1000 * spent])
    result.metric("safe_masks_evaluations", evaluations, timing=True)
    note = "Processor time on one thread: medians of ratios of works measured in turn in one process."
    result.table("Cost", ["what", "ratio [s/s]", "floor", "time [ms]"], rows, note)
