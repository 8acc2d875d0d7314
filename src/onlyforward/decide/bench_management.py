"""`onlyforward bench management`: exact solvers against published tables, learned policies, the simulators' speed."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from onlyforward.core.keys import Key
from onlyforward.decide import bench_market, bench_season
from onlyforward.decide.envs.base import Environment, Space
from onlyforward.decide.envs.kernels import compiled, simulate
from onlyforward.decide.envs.register import ENVIRONMENTS, make, register
from onlyforward.decide.envs.scalar import twin
from onlyforward.decide.envs.supply_chain import SupplyChainParameters
from onlyforward.decide.exact.lost_sales import LostSales, best_base_stock, best_capped
from onlyforward.decide.exact.lost_sales import solve as solve_lost_sales
from onlyforward.decide.sweep import Sweep
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


def solver(options: BenchManagement, sweep: Sweep, result: Result) -> None:
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


def rates_of(works: Mapping[str, tuple[int, Callable[[], Any]]], *, rounds: int, seconds: float) -> dict[str, float]:
    """Steps per CPU second of every piece of work: median over rounds in which all of them run one after the other.

    A piece is repeated until it has run for `seconds`, after a warm-up: a slow moment of the machine then falls on all.
    Everything here runs on one thread, so that its CPU seconds are what a wall clock shows on a core of its own; on a
    shared core a wall clock would time the neighbours.
    """
    found: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + 1):
        for name, (steps, work) in works.items():
            begin, times = time.process_time(), 0
            while times == 0 or time.process_time() - begin < (seconds if turn else 0.0):
                work()
                times += 1
            if turn:
                found[name].append(steps * times / (time.process_time() - begin))
    return {name: float(np.median(rates)) for name, rates in found.items()}


def batched(environment: Environment, noise: Any, actions: Any, *, look: bool = False) -> Callable[[], None]:
    """One batch of whole episodes under given actions [T, B, columns]."""

    @torch.inference_mode()
    def work() -> None:
        state = environment.start(noise)
        for t in range(environment.horizon):
            if look:
                environment.observe(state)
            state, _ = environment.advance(state, actions[t])

    return work


def one_by_one(environment: Environment, noise: Any, actions: Any, episodes: int) -> Callable[[], None]:
    """A few of the same episodes in plain Python."""
    columns = [{k: v[:, b] if v.ndim > 1 else v[b] for k, v in noise.items()} for b in range(episodes)]
    moves = [actions[:, b].tolist() for b in range(episodes)]

    def work() -> None:
        for told, rows in zip(columns, moves, strict=True):
            env = twin(environment, told)
            for row in rows:
                env.step(row)

    return work


def random_actions(space: Space, horizon: int, batch: int, key: Key) -> NDArray[Any]:
    """Actions [T, B, columns], each period's stored column by column as policies of the batch produce them."""
    generator = key.numpy()
    if space.kind in ("discrete", "multidiscrete"):
        sizes = np.array(space.sizes[: space.columns])[:, None]
        return generator.integers(0, sizes, (horizon, space.columns, batch)).transpose(0, 2, 1)
    raw = generator.random((horizon, batch, space.columns)).astype(np.float32)
    return raw / raw.sum(-1, keepdims=True) if space.kind == "simplex" else raw


def throughput(options: BenchManagement, sweep: Sweep, result: Result) -> None:
    """Supply-chain transitions per second with random orders, as ratios to a plain Python environment."""
    batch = 4096
    key = Key(site="throughput")
    chain = make("SupplyChain")
    horizon = chain.horizon
    actions = random_actions(chain.action, horizon, batch, key).astype(np.float32)
    noise = chain.noise(key, 0, batch)
    other = make("SupplyChain", backend="torch")
    torch_noise, torch_actions = other.noise(key, 0, batch), other.array(actions.transpose(0, 2, 1)).transpose(1, 2)
    rows_first = np.ascontiguousarray(actions.transpose(0, 2, 1))
    single = gymnasium_episode(rows_first[:, :, 0].astype(np.int64))
    works: dict[str, tuple[int, Callable[[], Any]]] = {
        "plain Python": (8 * horizon, one_by_one(chain, noise, actions, 8)),
        "numpy": (batch * horizon, batched(chain, noise, actions)),
        "torch": (batch * horizon, batched(other, torch_noise, torch_actions)),
        "numpy, observed every period": (batch * horizon, batched(chain, noise, actions, look=True)),
        "torch, observed every period": (batch * horizon, batched(other, torch_noise, torch_actions, look=True)),
        "one Gymnasium environment": (horizon, single),
    }
    if importlib.util.find_spec("numba") is not None:
        kernel, parameters, orders = compiled(), SupplyChainParameters(), rows_first.astype(np.uint8)
        works["numba"] = (batch * horizon, lambda: simulate(kernel, parameters, noise["demand"], orders))
    rates = rates_of(works, rounds=3, seconds=0.2 if options.quick else 1.0)
    rows: list[list[Any]] = [[name, rate, rate / rates["plain Python"]] for name, rate in rates.items()]
    for name in ("numpy", "torch", "numba"):
        if name not in rates:
            rows.append([name, "not installed", None])
            continue
        result.metric(f"throughput_{name}_ratio", rates[name] / rates["plain Python"], timing=True)
        result.metric(f"throughput_{name}", rates[name], timing=True)
    result.table(
        "SupplyChain transitions, random orders, B = 4096",
        ["backend", "steps per CPU second [/s]", "ratio to plain Python"],
        rows,
        "Plain Python is the lean twin of the tests; one Gymnasium environment is gymnasium.make of the same chain.",
    )
    others(options, result)


def others(options: BenchManagement, result: Result) -> None:
    """Every other environment on numpy against its own plain twin."""
    batch, rows, least = 4096, [], np.inf
    for name in ENVIRONMENTS:
        if name == "SupplyChain":
            continue
        environment, key = make(name), Key(site="throughput")
        noise = environment.noise(key, 0, batch)
        actions = random_actions(environment.action, environment.horizon, batch, key)
        rates = rates_of(
            {
                "plain": (8 * environment.horizon, one_by_one(environment, noise, actions, 8)),
                "numpy": (batch * environment.horizon, batched(environment, noise, actions)),
            },
            rounds=3,
            seconds=0.05 if options.quick else 0.2,
        )
        rows.append([name, rates["plain"], rates["numpy"], rates["numpy"] / rates["plain"]])
        result.metric(f"throughput_{name.lower()}", rates["numpy"], timing=True)
        least = min(least, rates["numpy"] / rates["plain"])
    result.metric("throughput_least_ratio", least, timing=True)
    result.table(
        "The other environments on numpy, random actions, B = 4096",
        ["environment", "plain Python, per CPU second [/s]", "numpy, per CPU second [/s]", "ratio"],
        rows,
    )


def gymnasium_episode(orders: NDArray[np.int64]) -> Callable[[], None]:
    """One episode of the registered environment under given orders [T, echelons]."""
    import gymnasium

    register()
    env = gymnasium.make("onlyforward/SupplyChain-v0")

    def work() -> None:
        env.reset(seed=0)
        for row in orders:
            env.step(row)

    return work


CASES = {"solver": solver, "throughput": throughput, **bench_market.CASES, "season": bench_season.season}


def run(options: BenchManagement, context: Context) -> Result:
    """Every chosen case into one result."""
    torch.set_num_threads(options.threads)
    result = context.result(question="Are solvers exact, learned policies near their optima, simulators fast?")
    sweep = Sweep(context)
    for name in chosen(options.only or options.cases, CASES):
        begin = time.perf_counter()
        CASES[name](options, sweep, result)
        result.metric(f"{name}_case_seconds", time.perf_counter() - begin, timing=True)
    result.answer = "; ".join(
        f"{name} = {value:.4g}" for name, value in list(result.metrics.items())[:3] if value is not None
    )
    return result
