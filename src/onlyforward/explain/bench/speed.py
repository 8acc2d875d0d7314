"""Case speed: what maps cost beyond the model's own forward runs; ratios, both arms in turn, medians."""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from onlyforward.core.checks import require
from onlyforward.core.directions import direction
from onlyforward.core.errors import MissingExtra
from onlyforward.core.keys import Key
from onlyforward.data.sets import folder
from onlyforward.explain.bases import blocks
from onlyforward.explain.bench.photos import SMALL, photographs
from onlyforward.explain.images import read_image
from onlyforward.explain.presence import Presence
from onlyforward.explain.removal import removed
from onlyforward.explain.saliency import Saliency
from onlyforward.run.loopback import Loopback
from onlyforward.run.onnx import OnnxModel
from onlyforward.run.oracle import Oracle

if TYPE_CHECKING:
    from onlyforward.run.benchmark import BenchOptions
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result

ROUNDS = 5
QUESTIONS = 1024


def speed(options: BenchOptions, context: Context, result: Result) -> None:
    """Every ratio of the table."""
    rows: list[list[Any]] = []
    for name, (measure, over, target) in RATIOS.items():
        try:
            found = measure()
        except MissingExtra:
            rows.append([name, over, target, "not installed"])
            continue
        result.metric(f"speed_{name}", found, timing=True)
        rows.append([name, over, target, found])
        context.say(f"speed {name}: {found:.3f}")
    result.table(
        "speed: ratios over the floor of each kind of work",
        ["ratio", "what over what", "target", "measured [s/s]"],
        rows,
        f"Arms in turn in one process, medians of {ROUNDS}, one thread. Read them on a machine that is idle otherwise.",
    )


def over(left: Callable[[], Any], right: Callable[[], Any], rounds: int = ROUNDS) -> float:
    """Median seconds of `left` over those of `right`, in turn."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for own, call in zip(times, (left, right), strict=True):
            begin = time.perf_counter()
            call()
            own.append(time.perf_counter() - begin)
    return statistics.median(times[0]) / statistics.median(times[1])


def overhead_onnx() -> float:
    """`attribute` over the same number of rows through bare onnxruntime; pixels in the model's own range."""
    model = OnnxModel(folder("models") / SMALL)
    oracle = Oracle(model, identity="m")
    x = read_image(photographs(1)[0], model.size or (128, 128)) * 255
    batch = x[None].expand(64, -1, -1, -1).contiguous().numpy()

    def bare() -> None:
        for _ in range(QUESTIONS // 64):
            model.session.run(None, {model.name: batch})

    return over(lambda: Saliency(oracle).attribute(x, target=1, budget=QUESTIONS), bare)


def network() -> nn.Module:
    """About half a million parameters at 32 x 32."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(64, 128, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(128, 128, 3, padding=1), nn.ReLU(),
        nn.Conv2d(128, 196, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(196 * 16, 10),
    ).eval()  # fmt: skip


def overhead_module() -> float:
    """`attribute` over the same number of rows through the bare module."""
    net, x = network(), torch.rand(3, 32, 32)
    oracle, batch = Oracle.from_module(net), x.expand(64, -1, -1, -1).contiguous()

    def bare() -> None:
        with torch.no_grad():
            for _ in range(QUESTIONS // 64):
                net(batch)

    return over(lambda: Saliency(oracle).attribute(x, target=1, budget=QUESTIONS), bare)


def rise_captum() -> float:
    """Our masked questions per second over those of captum's KernelShap, a free oracle on both sides."""
    attr: Any = require("captum.attr", "peers")
    x = torch.rand(3, 224, 224)
    nothing = removed(x, "blur")
    labels = blocks(x, 32)[None, None].expand(1, 3, -1, -1)
    count = 256

    def free(rows: Tensor) -> Tensor:
        return rows[:, 0, 0, 0]

    def ours() -> None:
        own = Presence(x, nothing, Key())
        for first in range(0, count, 64):
            own.observe(first, free(own.rows(first, 64)).double())

    def theirs() -> None:
        attr.KernelShap(free).attribute(
            x[None], baselines=nothing[None], feature_mask=labels, n_samples=count, perturbations_per_eval=64
        )

    return over(theirs, ours)


def hadamard() -> float:
    """Sums over 4,096 directions of 16,384 coordinates: the fast transform over a dense product."""
    n, k = 4096, 16384
    weight, dense = torch.randn(n, 1), torch.randn(n, k)
    kind = direction("hadamard")
    return over(lambda: kind.correlate(weight, Key(), (1, k), 1.0), lambda: weight.T @ dense)


def peak_of(count: int, pipe: Any) -> None:
    """Resident memory of a map of `count` questions at 224 x 224, in a process of its own."""
    torch.set_num_threads(1)
    x = torch.rand(3, 224, 224, generator=Key().generator())
    Saliency(Oracle(lambda rows: rows[:, 0, 0, 0])).attribute(x, target=0, budget=count)
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def peak() -> float:
    """Peak memory of 16,384 questions over that of 256."""
    methods = multiprocessing.get_context("forkserver")
    found = []
    for count in (256, 16384):
        mine, theirs = methods.Pipe(duplex=False)
        process = methods.Process(target=peak_of, args=(count, theirs), daemon=True)
        process.start()
        found.append(mine.recv())
        process.join()
    return float(found[1]) / float(found[0])


def journal() -> float:
    """Journaled questions at batch 64 over bare ones, when each takes a millisecond."""

    def slow(rows: Tensor) -> Tensor:
        time.sleep(0.001 * len(rows))
        return rows[:, 0]

    bare = Oracle(slow, batch=64, identity="m")
    with tempfile.TemporaryDirectory() as place:
        kept = bare.journaled(Path(place) / "ledger.sqlite")
        fresh = iter(range(10**6))

        def rows() -> Tensor:
            return torch.full((512, 16), float(next(fresh))) + torch.arange(512.0)[:, None] / 1024

        return over(lambda: kept(rows()), lambda: bare(rows()))


def http() -> float:
    """512 questions to an endpoint that takes 50 ms, 16 open at once, over the time that the waiting alone takes."""

    def classify(rows: Tensor) -> Tensor:
        return torch.tensor([[0.6, 0.4]]).expand(len(rows), -1)

    x = torch.rand(512, 3, 8, 8, generator=Key().generator())
    with Loopback(classify, ["cat", "dog"], delay=0.05) as server:
        oracle = Oracle.from_chat(server.url, model="m", question="?", concurrency=16)
        oracle.answers(x[:32])
        begin = time.perf_counter()
        oracle.answers(x)
        return (time.perf_counter() - begin) / (512 * 0.05 / 16)


RATIOS: dict[str, tuple[Callable[[], float], str, str]] = {
    "overhead_onnx": (
        overhead_onnx,
        "attribute over bare onnxruntime, MobileNetV1-0.25 at 128, 1,024 questions",
        "<= 1.10",
    ),
    "overhead_module": (overhead_module, "attribute over the bare torch CNN at 32 x 32, 1,024 questions", "<= 1.05"),
    "rise_captum_ratio": (rise_captum, "our masked questions per second over captum KernelShap's", ">= 2"),
    "hadamard_ratio": (hadamard, "fast transform over a dense product, 4,096 x 16,384", "<= 0.5"),
    "peak_ratio": (peak, "peak memory of 16,384 questions over that of 256, at 224", "<= 1.05"),
    "ledger_ratio": (journal, "journaled over bare questions of 1 ms, batch 64", "<= 1.3"),
    "http_ratio": (http, "512 questions of 50 ms, 16 open, over 1.6 s", "<= 1.4"),
}
