"""`onlyforward bench alr`: what one-bit caches, a lagged pipeline, one-bit noise and training flat in T each buy."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from onlyforward.core.keys import Key
from onlyforward.data import nets
from onlyforward.data.sets import load
from onlyforward.run.benchmark import BenchOptions, run_cases, seeds
from onlyforward.train.arms import engine_for, losses, train
from onlyforward.train.memory import PeakMemory
from onlyforward.train.peers import Backprop
from onlyforward.train.robust import accuracy, spread

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


def fitted(data: Dataset, seed: int, *, epochs: int | None = None, **settings: Any) -> tuple[nn.Module, Any, float]:
    """The digits MLP trained by one engine: network, engine, accuracy on the test part."""
    chosen = nets.preset("mlp", "digits")
    model = nets.build("mlp", data, seed=seed)
    engine = engine_for("lr", model, sigma=SIGMA, copies=COPIES, seed=seed, **settings)
    train(engine, model, data, epochs=epochs or chosen.epochs, batch=chosen.batch, lr=chosen.lr, seed=seed)
    return model, engine, accuracy(model.eval(), data.x_test, data.y_test, key=Key(run=seed))


def gradients(engine: Any, model: nn.Module, data: Dataset) -> torch.Tensor:
    """The hidden layers' gradient on the first 64 training data, flat."""
    model.zero_grad()
    engine.backward(losses, data.x_train[:64], data.y_train[:64])
    return torch.cat([p.grad.flatten() for p in list(model.parameters())[:-2]])


def cosine_of(data: Dataset, seed: int, **settings: Any) -> float:
    """Cosine with backpropagation in mid-training: hidden layers, 64 data, 64 copies."""
    model = nets.build("mlp", data, seed=seed)
    train(Backprop(model, seed=seed), model, data, epochs=3, batch=64, lr=2e-3, seed=seed)
    truth = gradients(Backprop(model), model, data)
    engine = engine_for("lr", model, sigma=SIGMA, copies=COPIES, seed=seed, **settings)
    return float(F.cosine_similarity(gradients(engine, model, data), truth, dim=0))


def cache(options: BenchOptions, context: Context, result: Result) -> None:
    """Gaussian noise, 64 copies: what is kept of the score, of x and of L, and what it costs in accuracy."""
    data = load("digits")
    rows, sizes = [], {}
    with context.progress(len(CACHES) * len(seeds(options)), label="cache") as tick:
        for arm, settings in CACHES.items():
            found, cosines, engine = [], [], None
            for seed in seeds(options):
                _, engine, reached = fitted(data, seed, noise="gaussian", **settings)
                found.append(reached)
                cosines.append(cosine_of(data, seed, noise="gaussian", **settings))
                tick()
            mean, deviation = spread(found)
            cosine, _ = spread(cosines)
            measured, predicted = engine.cache_bytes()
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
    from onlyforward.nn.lag import Lagged

    data = load("digits")
    chosen = nets.preset("mlp", "digits")
    rows, times = [], {}
    for arm in ("lag0", "lag1"):
        found, steps = [], []
        for seed in seeds(options):
            model = nets.build("mlp", data, seed=seed)
            engine = engine_for("lr", model, sigma=SIGMA, copies=COPIES, seed=seed, noise="gaussian")
            used = Lagged(engine) if arm == "lag1" else engine
            marks: list[float] = []
            train(
                used,
                model,
                data,
                epochs=chosen.epochs,
                batch=chosen.batch,
                lr=chosen.lr,
                seed=seed,
                each=lambda step, marks=marks: marks.append(time.perf_counter()),
            )
            gaps = sorted(b - a for a, b in itertools.pairwise(marks))
            steps.append(gaps[len(gaps) // 2])
            found.append(accuracy(model.eval(), data.x_test, data.y_test, key=Key(run=seed)))
        mean, deviation = spread(found)
        times[arm] = sorted(steps)[len(steps) // 2]
        result.metric(f"lag_{arm}_accuracy", mean)
        result.metric(f"lag_{arm}_accuracy_std", deviation)
        result.metric(f"lag_{arm}_step_ms", 1000 * times[arm], timing=True)
        rows.append([arm, mean, deviation, 1000 * times[arm]])
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
        found = [fitted(data, seed, noise=noise)[2] for seed in seeds(options)]
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
    from onlyforward.data.modules import Recurrent

    model = Recurrent("lstm", size=8, units=32, classes=10)
    settings = {"flow": "local"} if arm == "lr" else {}
    engine = engine_for(arm, model, sigma=SIGMA, copies=2 if arm == "lr" else 0, seed=0, **settings)
    with PeakMemory() as watched:
        engine.backward(losses, x, y)
    return watched.peak
