"""`onlyforward bench management`: exact solvers against published tables, and the simulators' speed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from onlyforward.core.keys import Key
from onlyforward.decide.envs.kernels import compiled, simulate
from onlyforward.decide.envs.register import make
from onlyforward.decide.envs.scalar import ScalarSupplyChain, play
from onlyforward.decide.envs.supply_chain import SupplyChainParameters
from onlyforward.decide.exact.lost_sales import LostSales, best_base_stock, best_capped
from onlyforward.decide.exact.lost_sales import solve as solve_lost_sales
from onlyforward.run.benchmark import chosen

if TYPE_CHECKING:
    from onlyforward.decide.command import BenchManagement
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result

PENALTIES = (4, 9, 19, 39)
PUBLISHED = {
    1: (4.0407, 5.4382, 6.6758, 7.8360),
    2: (4.3953, 6.0936, 7.6644, 9.1064),
    3: (4.5987, 6.5314, 8.3625, 10.0385),
    4: (4.7285, 6.8360, 8.8872, 10.7944),
}
"""Optimal average costs, Poisson demand of mean 5, holding cost 1: rows lead, columns penalty."""


def solver(options: BenchManagement, context: Context, result: Result) -> None:
    """16 Poisson cells against the table, and a simulation of one optimal policy."""
    from onlyforward.decide.study import simulate_lost_sales

    rows, worst, seconds = [], 0.0, 0.0
    for lead, costs in PUBLISHED.items():
        for penalty, published in zip(PENALTIES, costs, strict=True):
            problem = LostSales(lead, penalty)
            begin = time.perf_counter()
            optimum = solve_lost_sales(problem)
            seconds += time.perf_counter() - begin
            worst = max(worst, abs(optimum.value - published))
            heuristics = [] if options.quick and lead == 4 else [best_capped(problem)[0], best_base_stock(problem)[0]]
            rows.append([lead, penalty, optimum.value, published, *(heuristics or [None, None])])
    problem = LostSales(4, 4)
    mean, error = simulate_lost_sales(problem, solve_lost_sales(problem), 500, Key(site="bench"))
    result.metric("solver_max_error", worst)
    result.metric("solver_seconds", seconds, timing=True)
    result.metric("solver_simulated", mean)
    result.metric("solver_simulated_error", error)
    columns = ["lead", "penalty", "optimal cost", "published", "best capped base-stock", "best base-stock"]
    result.table(
        "Lost sales, Poisson demand of mean 5", columns, rows, f"Lead 4, penalty 4 simulated: {mean:.4f} +- {error:.4f}"
    )


def median_rate(steps: int, work: Callable[[], Any]) -> float:
    """Steps per second, median of three after a warm-up."""
    work()
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return steps / float(np.median(times))


def throughput(options: BenchManagement, context: Context, result: Result) -> None:
    """Supply-chain transitions per second with random orders, as ratios to a plain Python environment."""
    batch, horizon = 4096, 100
    parameters = SupplyChainParameters()
    generator = Key(site="throughput").numpy()
    demand = (generator.integers(0, 7, (horizon, batch)) + (np.arange(1, horizon + 1)[:, None] + 6) % 15).astype(
        np.float32
    )
    orders = generator.integers(0, 21, (horizon, batch, 3)).astype(np.float32)

    def scalar() -> None:
        for b in range(4):
            rows = iter(orders[:, b].tolist())
            play(ScalarSupplyChain(parameters, demand[:, b].tolist()), lambda rows=rows: next(rows), horizon)  # type: ignore[misc]

    def batched(backend: str, *, look: bool = False) -> Callable[[], None]:
        environment = make("SupplyChain", backend=backend)
        noise, moves = {"demand": environment.array(demand)}, environment.array(orders)

        def work() -> None:
            state = environment.start(noise)
            for t in range(horizon):
                if look:
                    environment.observe(state)
                state, _ = environment.advance(state, moves[t])

        return work

    kernel = compiled()
    rows_first = np.ascontiguousarray(orders.transpose(0, 2, 1))
    rates = {
        "plain Python": median_rate(4 * horizon, scalar),
        "numpy": median_rate(batch * horizon, batched("numpy")),
        "torch": median_rate(batch * horizon, batched("torch")),
        "numpy, observed every period": median_rate(batch * horizon, batched("numpy", look=True)),
        "torch, observed every period": median_rate(batch * horizon, batched("torch", look=True)),
        "numba": median_rate(batch * horizon, lambda: simulate(kernel, parameters, demand, rows_first)),
    }
    rows = [[name, rate, rate / rates["plain Python"]] for name, rate in rates.items()]
    for name in ("numpy", "torch", "numba"):
        result.metric(f"throughput_{name}_ratio", rates[name] / rates["plain Python"], timing=True)
        result.metric(f"throughput_{name}", rates[name], timing=True)
    result.table(
        "SupplyChain transitions, random orders, B = 4096",
        ["backend", "rate [/s]", "ratio to plain Python [/s over /s]"],
        rows,
    )


CASES = {"solver": solver, "throughput": throughput}


def run(options: BenchManagement, context: Context) -> Result:
    """Every chosen case into one result."""
    torch.set_num_threads(options.threads)
    result = context.result(question="Are the solvers exact and the simulators fast?")
    for name in chosen(options.only or options.cases, CASES):
        begin = time.perf_counter()
        CASES[name](options, context, result)
        result.metric(f"{name}_case_seconds", time.perf_counter() - begin, timing=True)
    result.answer = "; ".join(
        f"{name} = {value:.4g}" for name, value in list(result.metrics.items())[:3] if value is not None
    )
    return result
