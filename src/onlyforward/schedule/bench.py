"""`bench scheduling`: published optima and certified bounds; the other cases stand in the bench_* files."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from onlyforward.data.sets import folder
from onlyforward.run.benchmark import run_cases
from onlyforward.schedule import rules
from onlyforward.schedule.command import Bench
from onlyforward.schedule.dual import bound
from onlyforward.schedule.jobs import Jobs
from onlyforward.schedule.pipeline import solve
from onlyforward.schedule.problem import make_problem
from onlyforward.schedule.read import read_instance, read_optima

if TYPE_CHECKING:
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result

QUICK_LARGE = (1, 8, 13, 18, 23)
Known = tuple[str, Jobs, int]
"""Name, instance, optimum."""


def run(options: Bench, context: Context) -> Result:
    """The chosen cases."""
    from onlyforward.schedule import bench_learning, bench_peers, bench_speed

    cases = {
        "optima": optima,
        "large": thousand,
        "long": long,
        "bound": bounds,
        "learned": bench_learning.learned,
        "gradient": bench_learning.gradients,
        "families": bench_learning.families,
        "release": bench_peers.release,
        "peers": bench_peers.peers,
        "speed": bench_speed.speed,
    }
    result = run_cases(options, context, cases)  # type: ignore[arg-type]
    result.answer = result.answer or "Every row is one method at the same wall time; what it lost is in the table."
    result.notes.append(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end of the run")
    return result


def orlib(name: str, optima: str, step: int) -> Iterator[Known]:
    """Every step-th instance of an OR-Library file with its known optimum."""
    place = folder("scheduling")
    known = [value for _, value in read_optima(place / optima)]
    for i in range(0, len(known), step):
        yield f"{name}-{i + 1}", read_instance(place / f"{name}.txt", format="orlib", index=i + 1), known[i]


def large(quick: bool) -> Iterator[Known]:
    """Geiger's instances of 1000 jobs with their optima; a quick run takes five of the 25."""
    place = folder("scheduling") / "geiger"
    known = dict(read_optima(place / "optimal_results.txt"))
    for i in QUICK_LARGE if quick else range(1, 26):
        yield f"wt_1000_{i}", read_instance(place / f"wt_1000_{i}.txt", format="geiger"), known[f"wt_1000_{i}"]


def primes(quick: bool) -> Iterator[Known]:
    """Geiger's instances of 100 jobs with large prime processing times."""
    place = folder("scheduling") / "geiger"
    known = dict(read_optima(place / "optimal_results_prime.txt"))
    for i in range(1, 26, 5 if quick else 1):
        name = f"wt_100_prime_{i}"
        yield name, read_instance(place / f"{name}.txt", format="geiger"), known[name]


def timer(options: Bench) -> Callable[[], float]:
    """The clock of a benchmark."""
    return time.process_time if options.clock == "cpu" else time.perf_counter


def aggregate(rows: list[list[Any]], place: int, optimum: int) -> float:
    """Sum of the costs in one column over the sum of the optima, minus 1."""
    return sum(row[place] for row in rows) / sum(row[optimum] for row in rows) - 1


def reach(tag: str, items: Iterable[Known], limit: float, options: Bench, result: Result) -> None:
    """Solve every instance for `limit` seconds, or until its optimum; beside it ATC with K = 2 and its best K."""
    rows: list[list[Any]] = []
    for name, jobs, best in items:
        problem = make_problem(jobs)
        if problem.n:
            atc = problem.cost(rules.atc(problem, 2.0))
            rule = problem.cost(rules.starts(problem)[0][1])
        else:
            atc = rule = 0
        found = solve(jobs, time_limit=limit, bound=False, seed=options.seed, goal=best, timer=timer(options))
        gap = found.objective / best - 1 if best else 0.0
        rows.append([name, found.objective, best, gap, int(atc), int(rule), found.runtime])
    columns = ["name", "cost", "optimum", "gap", "ATC, K = 2", "best rule", "time [s]"]
    result.table(f"{tag}, {limit:g} s ({options.clock}) or until the optimum", columns, rows)
    gaps = [row[3] for row in rows if row[2]] or [0.0]
    result.metric(f"optima_{tag}_instances", len(rows))
    result.metric(f"optima_{tag}_hits", sum(row[1] == row[2] for row in rows), timing=True)
    for name, reduce in (("mean", np.mean), ("median", np.median), ("max", np.max)):
        result.metric(f"optima_{tag}_{name}_gap", float(reduce(gaps)), timing=True)
    result.metric(f"optima_{tag}_aggregate_gap", aggregate(rows, 1, 2), timing=True)
    result.metric(f"optima_{tag}_atc_aggregate_gap", aggregate(rows, 4, 2))
    result.metric(f"optima_{tag}_rule_aggregate_gap", aggregate(rows, 5, 2))
    result.metric(f"optima_{tag}_below_optimum", sum(row[1] < row[2] for row in rows))
    result.metric(f"optima_{tag}_mean_seconds", float(np.mean([row[6] for row in rows])), timing=True)
    result.metric(f"optima_{tag}_max_seconds", max(row[6] for row in rows), timing=True)


def optima(options: Bench, context: Context, result: Result) -> None:
    """Hits of the published optima; a quick run takes every fifth instance."""
    step, given = (5 if options.quick else 1), options.time_limit
    reach("wt40", orlib("wt40", "wtopt40.txt", step), given or 1.0, options, result)
    reach("wt50", orlib("wt50", "wtopt50.txt", step), given or 1.0, options, result)
    reach("wt100", orlib("wt100", "wtbest100b.txt", step), given or 1.0, options, result)
    reach("wt100_5s", orlib("wt100", "wtbest100b.txt", step), 5 * (given or 1.0), options, result)
    reach("prime", primes(options.quick), 2 * (given or 1.0), options, result)
    hits = sum(result.metrics[f"optima_{tag}_hits"] or 0 for tag in ("wt40", "wt50", "wt100"))
    number = sum(result.metrics[f"optima_{tag}_instances"] or 0 for tag in ("wt40", "wt50", "wt100"))
    result.answer = f"{hits:g} of {number:g} published optima exactly."


def thousand(options: Bench, context: Context, result: Result) -> None:
    """Geiger's 1000 jobs with 10 seconds each."""
    reach("n1000", large(options.quick), options.time_limit or 10.0, options, result)


def long(options: Bench, context: Context, result: Result) -> None:
    """Geiger's 1000 jobs with 60 seconds each."""
    reach("n1000_60s", large(options.quick), options.time_limit or 60.0, options, result)


def bounds(options: Bench, context: Context, result: Result) -> None:
    """Certified bounds against the published optima, and the certified gap of a solve at 1000 jobs."""
    step = 5 if options.quick else 1
    limit = options.time_limit or 2.0
    for label, items in (
        ("wt100", orlib("wt100", "wtbest100b.txt", step)),
        ("n1000", large(options.quick)),
    ):
        rows: list[list[Any]] = []
        for name, jobs, best in items:
            seconds = limit if jobs.n <= 200 else 5 * limit
            proof = bound(jobs, time_limit=seconds, seed=options.seed, timer=timer(options))
            rows.append([name, proof["lower_bound"], best, 1 - proof["lower_bound"] / best if best else 0.0])
        result.table(f"Bounds, {label}", ["name", "bound", "optimum", "bound gap"], rows)
        gaps = [row[3] for row in rows if row[2]]
        result.metric(f"bound_{label}_aggregate_gap", -aggregate(rows, 1, 2), timing=True)
        for name, reduce in (("mean", np.mean), ("median", np.median), ("max", np.max)):
            result.metric(f"bound_{label}_{name}_gap", float(reduce(gaps)), timing=True)
        result.metric(f"bound_{label}_violations", sum(row[1] > row[2] for row in rows))
    rows = []
    for name, jobs, best in large(options.quick):
        found = solve(jobs, time_limit=5 * limit, seed=options.seed, timer=timer(options))
        rows.append([name, found.objective, found.lower_bound, best, found.gap, found.runtime])
    columns = ["name", "cost", "bound", "optimum", "certified gap", "time [s]"]
    result.table(f"Solve with its certificate, n = 1000, {5 * limit:g} s", columns, rows)
    result.metric("bound_solve_n1000_aggregate_certified_gap", 1 - 1 / (1 + aggregate(rows, 1, 2)), timing=True)
    result.metric("bound_solve_n1000_max_certified_gap", max(row[4] for row in rows), timing=True)
    result.metric("bound_solve_n1000_aggregate_gap", aggregate(rows, 1, 3), timing=True)
    result.metric("bound_solve_n1000_violations", sum(row[2] > row[3] for row in rows))
    result.metric("bound_solve_n1000_max_seconds", max(row[5] for row in rows), timing=True)
