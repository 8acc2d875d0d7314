"""`onlyforward bench alr`: what one-bit caches, a lagged pipeline, one-bit noise and training flat in T each buy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from onlyforward.core.keys import Key
from onlyforward.core.memory import PeakMemory
from onlyforward.data import nets
from onlyforward.data.modules import row_reader
from onlyforward.data.sets import load
from onlyforward.nn.engine import LikelihoodRatio
from onlyforward.nn.lag import Lagged
from onlyforward.run.benchmark import BenchOptions, run_cases, seeds
from onlyforward.train.arms import losses, run_course
from onlyforward.train.loop import Schedule, accuracy, train
from onlyforward.train.peers import Backprop
from onlyforward.train.robust import spread

if TYPE_CHECKING:
    from torch import nn

    from onlyforward.data.sets import Dataset
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result

COPIES, SIGMA = 64, 0.1
CACHES: dict[str, dict[str, Any]] = {
    "full": {"cache": "full"},
    "bf16": {"cache": "bf16"},
    "sign": {"cache": "sign"},
    "seed": {"cache": "seed"},
    "none": {"cache": "none"},
    "sign_x": {"cache": "full", "compress": ("x",)},
    "sign_loss": {"cache": "full", "compress": ("loss",)},
    "all_signs": {"cache": "sign", "compress": ("x", "loss")},
}
"""Arm -> what the engine keeps, and what of x and L is reduced to signs as well."""


def run(options: BenchOptions, context: Context) -> Result:
    """Run the chosen cases."""
    result = run_cases(options, context, {"cache": cache, "lag": lag, "laplace": laplace, "memory": memory})
    result.answer = " ".join(result.notes) or "See the tables."
    return result


class Signs(LikelihoodRatio):
    """The engine with x, L or both reduced to signs of the same mean size: what the ablation rows keep.

    Args:
        model: as for the engine.
        compress: "x", "loss" or both.
        settings: of the engine.
    """

    def __init__(self, model: nn.Module, *, compress: Sequence[str], **settings: Any) -> None:
        super().__init__(model, **settings)
        self.compress = tuple(compress)

    def weights(self, probe: Any) -> torch.Tensor:
        """Signs of the differences of losses."""
        weight = super().weights(probe)
        return weight.sign() * weight.abs().mean() if "loss" in self.compress else weight

    def deltas(self, begun: Any) -> Iterator[tuple[Any, torch.Tensor]]:
        """Signs of the inputs of hidden layers in the local rules; the exact head keeps its own."""
        for site, delta in super().deltas(begun):
            if "x" in self.compress and site.path != self.head:
                x = site.call.inputs[0]
                site.call.inputs = (x.sign() * x.abs().mean(), *site.call.inputs[1:])
            yield site, delta


def engine(model: nn.Module, seed: int, *, compress: Sequence[str] = (), **settings: Any) -> LikelihoodRatio:
    """The likelihood ratio of this benchmark: 64 copies at sigma 0.1."""
    return Signs(model, compress=compress, copies=COPIES, sigma=SIGMA, seed=seed, **settings)


def fitted(data: Dataset, seed: int, **settings: Any) -> tuple[Any, float]:
    """The digits MLP trained by one engine: the engine and the accuracy on the test part."""
    model = nets.build("mlp", data, seed=seed)
    used = engine(model, seed, **settings)
    run_course(used, model, "mlp", data, seed=seed)
    return used, accuracy(model, data)


def gradients(used: Any, model: nn.Module, data: Dataset) -> torch.Tensor:
    """The hidden layers' gradient on the first 64 training data, flat."""
    model.zero_grad()
    used.backward(losses, data.x_train[:64], data.y_train[:64])
    return torch.cat([p.grad.flatten() for p in list(model.parameters())[:-2] if p.grad is not None])


def cosine_of(data: Dataset, seed: int, **settings: Any) -> float:
    """Cosine with backpropagation in mid-training (after three epochs): hidden layers, 64 data, 64 copies."""
    model = nets.build("mlp", data, seed=seed)
    train(model, Backprop(model), data, losses, Schedule(3, 64, 2e-3), key=Key(run=seed))
    truth = gradients(Backprop(model), model, data)
    return float(F.cosine_similarity(gradients(engine(model, seed, **settings), model, data), truth, dim=0))


def cache(options: BenchOptions, context: Context, result: Result) -> None:
    """Gaussian noise, 64 copies: what is kept of the score, of x and of L, and what it costs in accuracy."""
    data = load("digits")
    rows, sizes = [], {}
    with context.progress(len(CACHES) * len(seeds(options)), label="cache") as tick:
        for arm, settings in CACHES.items():
            found, cosines = [], []
            for seed in seeds(options):
                used, reached = fitted(data, seed, noise="gaussian", **settings)
                found.append(reached)
                cosines.append(cosine_of(data, seed, noise="gaussian", **settings))
                tick()
            mean, deviation = spread(found)
            cosine, _ = spread(cosines)
            measured, predicted = used.kept.peak, used.kept.predicted
            sizes[arm] = measured
            result.metric(f"cache_{arm}_accuracy", mean)
            result.metric(f"cache_{arm}_accuracy_std", deviation)
            result.metric(f"cache_{arm}_cosine", cosine)
            result.metric(f"cache_{arm}_bytes", measured)
            result.metric(f"cache_{arm}_bytes_predicted", predicted)
            rows.append([arm.replace("_", " "), mean, deviation, cosine, predicted, measured])
    result.metric("cache_sign_ratio", sizes["full"] / sizes["sign"])
    result.table(
        "What is kept of the score (digits MLP, Gaussian noise, 64 copies)",
        ["cache", "accuracy", "std", "cosine", "bytes predicted", "bytes measured"],
        rows,
        "Bytes are the score cache at its peak within a step of 64 data; x and L are floats in the first five rows.",
    )
    scores = {arm: result.metrics[f"cache_{arm}_accuracy"] for arm in CACHES}
    result.notes.append(
        f"One bit of the score: accuracy {scores['sign']:.3f} against {scores['full']:.3f} with all of it, at "
        f"{result.metrics['cache_sign_ratio']:.0f} times fewer bytes; a replayed seed keeps none; the sign of x loses "
        f"({scores['sign_x']:.3f})."
    )


def lag(options: BenchOptions, context: Context, result: Result) -> None:
    """Gradient jobs one batch behind, in a thread, against the synchronous engine."""
    data = load("digits")
    rows, times = [], {}
    for arm in ("lag0", "lag1"):
        found, steps = [], []
        for seed in seeds(options):
            model = nets.build("mlp", data, seed=seed)
            used: Any = engine(model, seed, noise="gaussian")
            course = run_course(Lagged(used) if arm == "lag1" else used, model, "mlp", data, seed=seed)
            steps.append(course.step_ms)
            found.append(accuracy(model, data))
        mean, deviation = spread(found)
        times[arm] = sorted(steps)[len(steps) // 2]
        result.metric(f"lag_{arm}_accuracy", mean)
        result.metric(f"lag_{arm}_accuracy_std", deviation)
        result.metric(f"lag_{arm}_step_ms", times[arm], timing=True)
        rows.append([arm, mean, deviation, times[arm]])
    result.metric("lag_step_ratio", times["lag1"] / times["lag0"], timing=True)
    result.table(
        "Gradient jobs one batch behind (digits MLP, Gaussian noise)",
        ["pipeline", "accuracy", "std", "step [ms]"],
        rows,
        "lag1 updates with gradients of the batch before, taken at weights one update old.",
    )


def laplace(options: BenchOptions, context: Context, result: Result) -> None:
    """Noise whose whole score is one bit, against Gaussian noise at equal copies."""
    data = load("digits")
    rows = []
    for noise in ("laplace", "gaussian"):
        found = [fitted(data, seed, noise=noise)[1] for seed in seeds(options)]
        mean, deviation = spread(found)
        result.metric(f"laplace_{noise}64_accuracy", mean)
        result.metric(f"laplace_{noise}64_accuracy_std", deviation)
        rows.append([noise, mean, deviation])
    result.table(
        "One-bit score at equal copies (digits MLP, 64 copies)",
        ["noise", "accuracy", "std"],
        rows,
        "Laplace noise needs twice the copies for the same variance, and its score is exact in one bit.",
    )


def memory(options: BenchOptions, context: Context, result: Result) -> None:
    """Peak memory of one LSTM step at T = 50 and T = 200: local recurrent training and backpropagation through time."""
    rows = []
    for arm in ("lr", "bp"):
        recurrent_peak(arm, 2)  # makes the tables that are made once
        peaks = {steps: recurrent_peak(arm, steps) for steps in (50, 200)}
        ratio = peaks[200] / peaks[50]
        result.metric(f"memory_{arm}_ratio", ratio, timing=True)
        rows.append([arm, peaks[50] / 1e6, peaks[200] / 1e6, ratio])
    result.table(
        "Peak memory of one LSTM step above model and data",
        ["method", "T = 50 [MB]", "T = 200 [MB]", "ratio"],
        rows,
        "Likelihood ratios with --flow local keep one time step's states; backpropagation keeps all of them.",
    )


def recurrent_peak(arm: str, steps: int) -> int:
    """Bytes at the peak of one gradient of an LSTM over `steps` time steps."""
    key = Key(site="bench/memory")
    x = torch.randn((16, 1, steps, 8), generator=key.generator())
    y = torch.randint(0, 10, (16,), generator=key.generator())
    model = row_reader("lstm", size=8, units=32, classes=10)
    method = LikelihoodRatio(model, copies=2, sigma=SIGMA, flow="local") if arm == "lr" else Backprop(model)
    with PeakMemory() as watched:
        method.backward(losses, x, y)
    return watched.peak
