"""`bench scheduling`, case speed: the inner loops against their targets and their numpy twin, memory, warm-up."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from onlyforward.core.keys import Key
from onlyforward.schedule import kernels, kernels_plain, rules
from onlyforward.schedule.command import Bench
from onlyforward.schedule.dual import make_dual
from onlyforward.schedule.features import make_features
from onlyforward.schedule.generate import weighted_tardiness
from onlyforward.schedule.network import load_network
from onlyforward.schedule.problem import make_problem
from onlyforward.schedule.search import arrays
from onlyforward.schedule.surrogate import make_terms, surrogate

if TYPE_CHECKING:
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result

SOLVE = """
import json, resource, sys
from onlyforward.core.keys import Key
from onlyforward.schedule.generate import weighted_tardiness
from onlyforward.schedule.pipeline import solve
jobs = weighted_tardiness(int(sys.argv[1]), Key(site="warm-up"), tightness=0.8, spread=0.4)
found = solve(jobs, time_limit=float(sys.argv[2]))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps([found.warmup, found.runtime, peak, "torch" in sys.modules]))
"""


def milliseconds(work: Callable[[], Any], repeats: int = 5) -> float:
    """Median of `repeats` after one call that warms up."""
    work()
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begin)
    return 1000 * float(np.median(seconds))


def fresh(n: int, limit: float, cache: str) -> list[Any]:
    """Warm-up [s], runtime [s], peak memory [MB] and whether torch was imported, of one solve in a new process."""
    import json

    words = [sys.executable, "-c", SOLVE, str(n), str(limit)]
    done = subprocess.run(  # noqa: S603 - our own interpreter and text
        words, env={**os.environ, "NUMBA_CACHE_DIR": cache}, capture_output=True, text=True, check=True
    )
    return list(json.loads(done.stdout))


def speed(options: Bench, context: Context, result: Result) -> None:
    """Inner loops at n = 1000 and n = 100, memory of a whole solve, and what compilation costs."""
    torch.set_flush_denormal(True)
    jobs = weighted_tardiness(1000, Key(run=options.seed, site="speed"), tightness=0.8, spread=0.4)
    problem = make_problem(jobs)
    order = rules.atc(problem, 2.0)
    dual = make_dual(jobs, problem.sequence(order))
    prices = np.full(len(dual.width), 0.01)
    terms = make_terms(problem)
    logits = torch.randn(problem.n, 96, generator=Key(site="speed").generator(), requires_grad=True)
    network, features = load_network(), make_features(problem, 128)
    few = make_problem(weighted_tardiness(100, Key(run=options.seed, site="twin"), tightness=0.8, spread=0.4))
    begin = rules.edd(few)

    def forward() -> None:
        with torch.no_grad():
            network.logits(features)

    def descend(module: Any) -> Any:
        return lambda: module.descend(begin.copy(), *arrays(few), None, few.n, few.n, 1000)

    found = {
        "speed_insertions_ms": milliseconds(lambda: kernels.improve(order.copy(), *arrays(problem), 1000, 0)),
        "speed_bound_ms": milliseconds(lambda: dual.value(prices)),
        "speed_surrogate_ms": milliseconds(lambda: surrogate(logits.softmax(1), terms).backward()),
        "speed_network_ms": milliseconds(forward),
        "speed_kernel_ms": milliseconds(descend(kernels)),
        "speed_twin_ms": milliseconds(descend(kernels_plain), 1 if options.quick else 5),
    }
    found["speed_kernel_ratio"] = found["speed_twin_ms"] / found["speed_kernel_ms"]
    with tempfile.TemporaryDirectory() as cache:
        found["speed_warmup_cold"], *_ = fresh(40, 0.5, cache)
        found["speed_warmup_warm"], runtime, _, torch_there = fresh(40, 0.5, cache)
        _, _, found["speed_rss_mb"], _ = fresh(1000, 4.0, cache)
    found["speed_small_solve_overrun_s"] = runtime - 0.5
    for name, value in found.items():
        result.metric(name, value, timing=True)
    result.metric("speed_small_solve_imports_torch", torch_there)
    rows = [list(item) for item in found.items()]
    result.table("Inner loops at n = 1000 (twin: descent at n = 100), memory, warm-up", ["what", "value"], rows)
    result.answer = f"Kernels are {found['speed_kernel_ratio']:.0f} times as fast as their numpy twin."
