"""The case `speed`: steps and memory as ratios, in one process, arms interleaved, medians."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from onlyforward.data.nets import build
from onlyforward.data.sets import load
from onlyforward.nn.engine import LikelihoodRatio
from onlyforward.train.bench_alr import recurrent_peak
from onlyforward.train.loop import cross_entropy
from onlyforward.train.peers import Backprop

if TYPE_CHECKING:
    from torch import nn

    from onlyforward.data.sets import Dataset
    from onlyforward.run.benchmark import BenchOptions
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result

WARM, STEPS = 5, 40
"""Steps before timing, and steps timed."""


def stepper(model: nn.Module, engine: Any, data: Dataset, batch: int) -> Callable[[], None]:
    """A whole training step: zero_grad, backward, Adam."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    state = {"at": 0}

    def step() -> None:
        begin = state["at"] % (len(data.x_train) - batch)
        state["at"] += batch
        rows = slice(begin, begin + batch)
        optimizer.zero_grad(set_to_none=True)
        engine.backward(cross_entropy, data.x_train[rows], data.y_train[rows])
        optimizer.step()

    return step


def medians(arms: Mapping[str, Callable[[], None]]) -> dict[str, float]:
    """Median milliseconds of each arm, one call of each in turn; CPU time, which other processes do not stretch."""
    for step in arms.values():
        for _ in range(WARM):
            step()
    spent: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(STEPS):
        for name, step in arms.items():
            begin = time.thread_time()
            step()
            spent[name].append(1e3 * (time.thread_time() - begin))
    return {name: statistics.median(values) for name, values in spent.items()}


def engines(model: str, data: Dataset, batch: int, kinds: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Steppers of backpropagation and of likelihood ratios, each on its own copy of the network."""
    net = build(model, data)
    arms = {"bp": stepper(net, Backprop(net), data, batch)}
    for name, settings in kinds.items():
        net = build(model, data)
        arms[name] = stepper(net, LikelihoodRatio(net, **settings), data, batch)
    return arms


def speed(options: BenchOptions, context: Context, result: Result) -> None:
    """Section 5 of the specification."""
    mnist, digits = load("mnist", limit=12_800), load("digits")
    rows: list[list[Any]] = []

    def note(name: str, what: str, top: float, bottom: float) -> None:
        result.metric(f"speed_{name}", top / bottom, timing=True)
        rows.append([what, top, bottom, top / bottom])

    times = medians(engines("mlp", mnist, 64, {"lr16": {"copies": 16}, "lr128": {"copies": 128, "pairing": "single"}}))
    note("mnist16_over_bp", "MNIST MLP, 16 copies, over backpropagation", times["lr16"], times["bp"])
    note("mnist128_over_bp", "MNIST MLP, all 128 directions, over backpropagation", times["lr128"], times["bp"])
    times = medians(engines("lenet", mnist, 64, {"lr32": {"copies": 32}}))
    note("lenet32_over_bp", "LeNet, 32 copies, over backpropagation", times["lr32"], times["bp"])
    kinds = {"hadamard": {"copies": 64, "noise": "hadamard"}, "gaussian": {"copies": 64, "noise": "gaussian"}}
    times = medians(engines("mlp", digits, 64, kinds))
    what = "Digits MLP, 64 copies, Hadamard over Gaussian noise"
    note("hadamard_over_gaussian", what, times["hadamard"], times["gaussian"])
    copies_over_forward(digits, note)
    result.table(
        "speed: ratios of whole training steps, one thread",
        ["what", "ours [ms]", "compared with [ms]", "ratio [ms/ms]"],
        rows,
        f"Medians of {STEPS} steps in CPU time of the thread, arms in turn in one process, batch 64, Adam included.",
    )
    peaks = {(arm, steps): recurrent_peak(arm, steps) for arm in ("lr", "bp") for steps in (50, 200)}
    result.metric("speed_lstm_memory_ratio", peaks["lr", 200] / peaks["lr", 50])
    result.table(
        "speed: peak memory of one LSTM step above model and data",
        ["method", "T = 50 [MB]", "T = 200 [MB]", "ratio [MB/MB]"],
        [[arm, peaks[arm, 50] / 1e6, peaks[arm, 200] / 1e6, peaks[arm, 200] / peaks[arm, 50]] for arm in ("lr", "bp")],
        "Local flow keeps one time step; backpropagation through time keeps all of them.",
    )


def copies_over_forward(data: Dataset, note: Callable[..., None]) -> None:
    """64 copies of a site, and a whole gradient of them, over one plain forward run of 64 x 64 rows of the network."""
    net = build("mlp", data)
    engine = LikelihoodRatio(net, copies=64)
    x, y = data.x_train[:64], data.y_train[:64]
    rows, labels = x.repeat(64, 1, 1, 1), y.repeat(64)

    def forward() -> None:
        with torch.no_grad():
            cross_entropy(net(rows), labels)

    def step() -> None:
        net.zero_grad()
        engine.backward(cross_entropy, x, y)

    step()
    with engine.started(cross_entropy, x, y) as begun:
        call, site = next(begun.places)

        def copies() -> None:
            probe = engine.probe(begun.tape, call, site, begun.objective, begun.clean, begun.key)
            site.pull(probe.delta(engine.weights(probe)))

        times = medians({"copies": copies, "forward": forward, "step": step})
    what = "Digits MLP, 64 copies of the first layer (noise, runs, pull), over one forward run of 64 x 64 rows"
    note("copies_over_forward", what, times["copies"], times["forward"])
    what = "Digits MLP, a whole gradient with 64 copies a layer, over one forward run of 64 x 64 rows"
    note("gradient_over_forward", what, times["step"], times["forward"])
