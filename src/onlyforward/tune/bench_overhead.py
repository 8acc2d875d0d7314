"""Case `overhead` of `onlyforward bench flops`: what planning, tuning and caching cost over the bare forward rows."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from onlyforward.core.allocate import BernoulliAllocator, GaussianAllocator, Neyman, Uniform
from onlyforward.core.allocate.plan import Features
from onlyforward.core.keys import Key
from onlyforward.core.memory import PeakMemory
from onlyforward.tune.bed import B, Q, make_bed
from onlyforward.tune.bench_vision import base, mnist
from onlyforward.tune.estimator import estimate
from onlyforward.tune.finetune import Recipe, Scope, stepper
from onlyforward.tune.loop import Allocated, Tuning
from onlyforward.tune.scores import Objective
from onlyforward.tune.suffix import cached, split

if TYPE_CHECKING:
    from onlyforward.run.benchmark import BenchOptions
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result

ROUNDS = 15


def alternating(*arms: Callable[[], object], rounds: int = ROUNDS) -> list[float]:
    """Median seconds of the thread's CPU time of each arm, arms taken in turn, one round of warm-up."""
    seconds: list[list[float]] = [[] for _ in arms]
    for number in range(rounds + 1):
        for place, arm in enumerate(arms):
            begin = time.thread_time()
            arm()
            if number:
                seconds[place].append(time.thread_time() - begin)
    return [statistics.median(values) for values in seconds]


def overhead(options: BenchOptions, context: Context, result: Result) -> None:
    """Every floor in the same process, arms in turn, medians."""
    rounds = 7 if options.quick else ROUNDS
    rows = [*planning(result, rounds), *closed_file(context, result, rounds), *transformer(result, rounds)]
    ratio = peak_ratio()
    result.metric("overhead_peak_ratio", ratio, timing=True)
    rows.append(["peak memory of an estimate, 1,024 over 64 runs per datum", ratio, "<= 1.1"])
    result.table(
        "Overheads", ["what [s/s, MB/MB or ms]", "value [s]", "target"], rows, "One thread, medians of its CPU time."
    )


def planning(result: Result, rounds: int) -> list[list[object]]:
    """Plan, rows and observation against the forward rows of a step, 64 data, 1,280 rows."""
    bed = make_bed()
    x, y = bed.batch("rotated", 0)
    features, theta = bed.features(x, y), bed.flat()
    neyman, gaussian, bernoulli = Neyman(), GaussianAllocator(), BernoulliAllocator()
    place = Uniform().plan(B * Q, features).index
    noise = torch.randn(320, bed.dimension, generator=Key().generator(), dtype=torch.float64)
    ids, rms = list(range(B)), torch.ones(B, dtype=torch.float64)

    def forward() -> None:
        for part in place.split(320):
            bed.losses(theta + 1e-3 * noise, x[part], y[part])

    def plan() -> None:
        made = neyman.plan(B * Q, features)
        assert len(made.index) == B * Q
        neyman.observe(ids, rms)

    times = alternating(
        forward, plan, lambda: gaussian.plan(B * Q, features), lambda: bernoulli.plan(B * Q, features), rounds=rounds
    )
    result.metric("overhead_neyman_fraction", times[1] / times[0], timing=True)
    result.metric("overhead_gaussian_milliseconds", 1e3 * times[2], timing=True)
    result.metric("overhead_bernoulli_milliseconds", 1e3 * times[3], timing=True)
    return [
        ["Neyman: plan, rows, observe over 1,280 forward rows", times[1] / times[0], "<= 0.01"],
        ["Gaussian allocator: one update and plan [ms]", 1e3 * times[2], "<= 4"],
        ["Bernoulli allocator: one update and plan [ms]", 1e3 * times[3], "<= 4"],
    ]


def closed_file(context: Context, result: Result, rounds: int) -> list[list[object]]:
    """A tuning step on the MNIST file against the same rows through bare onnxruntime."""
    task = mnist(context, "rotation", "affine")
    settings = base("affine", 10**9)
    trial = task.trial(0)
    problem = trial.problem
    tuning = Tuning(problem, Allocated(Neyman(), settings.copies, settings.sigma), settings, Key())
    tuning.begin()
    session = task.closed.oracle.ask.ask.session  # type: ignore[attr-defined]
    name = session.get_inputs()[0].name
    images = np.random.default_rng(0).random((settings.batch * settings.copies, 1, 1, 28, 28), dtype=np.float32) * 255

    def raw() -> None:
        for row in images:
            session.run(None, {name: row})

    def step() -> None:
        with torch.no_grad():
            tuning.step.advance(tuning, tuning.batches(), Key(step=tuning.steps))
        tuning.steps += 1

    times = alternating(raw, step, rounds=rounds)
    result.metric("overhead_onnx_ratio", times[1] / times[0], timing=True)
    result.metric("overhead_onnx_rows_per_second", len(images) / times[0], timing=True)
    return [["MNIST file: tuning step over the same rows raw", times[1] / times[0], "<= 1.6"]]


def transformer(result: Result, rounds: int) -> list[list[object]]:
    """A step of late:1 and late:2 against as many rows of what it runs, the frozen prefix stored in both."""
    from onlyforward.data.pretrained import load_pretrained

    model: Any = load_pretrained("vit-d128-l6").requires_grad_(False)
    images: Tensor = torch.rand(40, 3, 32, 32, generator=Key().generator())
    net = torch.nn.Sequential(model.normalise, model.embed, *list(model.transformer.layers)[:5])
    block = torch.nn.Sequential(model.transformer.layers[5], model.token, model.mlp_head)
    tokens = cached(net, images)
    one, own, repeats = suffix_step(model, images, 1)
    whole = alternating(one, lambda: repeated(block, tokens, repeats), own, rounds=max(3, rounds // 3))
    two, both, _ = suffix_step(model, images, 2)
    late = alternating(two, both, rounds=3)
    result.metric("overhead_vit_ratio", whole[0] / whole[1], timing=True)
    result.metric("overhead_vit_class_token_ratio", whole[0] / whole[2], timing=True)
    result.metric("overhead_vit_late2_ratio", late[0] / late[1], timing=True)
    return [
        ["transformer, late:1: step over as many rows of the last block", whole[0] / whole[1], "<= 1.2"],
        ["transformer, late:1: step over as many rows of its class token alone", whole[0] / whole[2], "reported"],
        ["transformer, late:2: step over as many rows of its suffix", late[0] / late[1], "<= 1.2"],
    ]


def suffix_step(model: Any, images: Tensor, blocks: int) -> tuple[Callable[[], object], Callable[[], object], int]:
    """A training step of late:k, as many rows through its suffix alone, and how often those repeat the batch."""
    prefix, suffix = split(model, blocks)
    x, y = cached(prefix, images), torch.arange(len(images)) % 10
    step = stepper("neyman", suffix, Recipe(), 0, Scope("late", blocks))
    step(x, y)  # the first step also chooses the noise
    repeats = step(x, y) // len(x)
    return lambda: step(x, y), lambda: repeated(suffix, x, repeats), repeats


def repeated(module: torch.nn.Module, x: Tensor, times: int) -> None:
    """Forward alone."""
    with torch.no_grad():
        for _ in range(times):
            module(x)


class Line(Objective):
    """L_i = slope_i theta."""

    def signal(self, answers: Tensor, place: Tensor) -> Tensor:
        """The answers themselves."""
        return answers[:, 0]


def peak_ratio() -> float:
    """Peak bytes of one estimate at 1,024 runs per datum over that at 64."""
    slopes = torch.randn(B, 64, generator=Key().generator(), dtype=torch.float64)
    objective = Line(torch.zeros(B, dtype=torch.float64), slopes.norm(dim=1))

    def ask(theta: Tensor, place: Tensor) -> Tensor:
        return (slopes[place] * theta).sum(1, keepdim=True)

    peaks = []
    for copies in (64, 1024):
        plan = Uniform().plan(B * copies, Features(residual=objective.residual))
        with PeakMemory() as watched:
            estimate(ask, objective, torch.zeros(64, dtype=torch.float64), plan, sigma=0.1, key=Key())
        peaks.append(watched.peak)
    return peaks[1] / peaks[0]
