"""`--all`: many instances, one row each; a broken one is a row with its sentence and the others run."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onlyforward.core.errors import FileError, OnlyForwardError, UsageError
from onlyforward.schedule.command import Bound, Instances, Solve
from onlyforward.schedule.pipeline import solve
from onlyforward.schedule.read import count, expand, read_instance, read_optima

if TYPE_CHECKING:
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result

COLUMNS = ["name", "n", "objective", "optimum", "lower_bound", "gap", "certified_gap", "status", "time [s]"]
Item = tuple[str, Path, "int | None", "int | None"]


def items(options: Instances) -> list[Item]:
    """Name, file, index and known optimum of every instance."""
    found: list[Item] = []
    if options.optima and len(options.optima) != len(options.files):
        raise UsageError(
            f"There are {len(options.optima)} optima files for {len(options.files)} instance files", "Give one each"
        )
    for place, given in enumerate(options.files):
        names: list[Item] = []
        for path in expand([given], options.pattern):
            instances = count(path, options.format, options.n or None)[1]
            several = instances > 1
            names += [
                (f"{path.stem}-{k + 1}" if several else path.stem, path, k + 1 if several else None, None)
                for k in range(instances)
            ]
        if options.optima:
            known = read_optima(options.optima[place])
            by_name = {name: value for name, value in known if name}
            if by_name and all(name in by_name for name, *_ in names):
                values = [by_name[name] for name, *_ in names]
            elif len(known) == len(names):
                values = [value for _, value in known]
            else:
                raise FileError(
                    f"{options.optima[place]} holds {len(known)} optima for {len(names)} instances", "Give one each"
                )
            names = [(name, path, index, best) for (name, path, index, _), best in zip(names, values, strict=True)]
        found += names
    return found


def one(item: Item, options: Solve | Bound) -> dict[str, Any]:
    """Solve or bound one instance: its row as a mapping."""
    name, path, index, optimum = item
    row: dict[str, Any] = {"name": name, "optimum": optimum}
    try:
        jobs = read_instance(
            path, format=options.format, index=index, n=options.n or None, objective=options.objective or None
        )
        if isinstance(options, Bound):
            from onlyforward.schedule.dual import bound

            found = bound(jobs, time_limit=options.time_limit, K=options.K or None, seed=options.seed)
            cost: Any = int(found["upper_bound"]) if jobs.whole else found["upper_bound"]
            lower, seconds = found["lower_bound"], found["seconds"]
            status = "optimal" if lower >= cost else "feasible"
        else:
            solution = solve(
                jobs,
                time_limit=options.time_limit,
                iterations=options.iterations or None,
                seed=options.seed,
                start=options.start,
                online=options.online,
                learn=options.learn,
                network=options.network,
                prove=options.prove,
                search=options.search,
                bound=options.bound == "on",
                gap_limit=options.gap_limit,
                span=None if options.span < 0 else options.span,
                goal=optimum if options.stop_at_optima else None,
            )
            cost, lower, status, seconds = (
                solution.objective,
                solution.lower_bound,
                solution.status,
                solution.runtime,
            )
    except OnlyForwardError as error:
        return {**row, "status": str(error)}
    certified = (cost - lower) / cost if cost else 0.0
    gap = (cost / optimum - 1 if optimum else 0.0) if optimum is not None else None
    return {
        **row, "n": jobs.n, "objective": cost, "lower_bound": lower, "gap": gap, "certified_gap": certified,
        "status": status, "time [s]": seconds,
    }  # fmt: skip


def run(options: Solve | Bound, context: Context) -> Result:
    """Every instance, continued from the rows that a checkpoint holds."""
    todo = items(options)[:: max(1, options.every)]
    restored = context.restore()
    rows: list[dict[str, Any]] = list(restored.data["rows"]) if restored is not None else []
    workers = options.workers if isinstance(options, Solve) else 1
    with context.progress(len(todo), label="instances") as tick, ThreadPoolExecutor(max(1, workers)) as pool:
        tick(to=len(rows))
        while len(rows) < len(todo):
            part = todo[len(rows) : len(rows) + max(1, workers)]
            rows += pool.map(lambda item: one(item, options), part)
            tick(to=len(rows))
            context.save(len(rows), lambda done=tuple(rows): ({}, {"rows": list(done)}))
    result = context.result(question=f"How good are the plans of {len(rows)} instances?")
    result.table("Instances", COLUMNS, [[row.get(name) for name in COLUMNS] for row in rows])
    (summarise_bounds if isinstance(options, Bound) else summarise)(rows, result)
    return result


def summarise(rows: list[dict[str, Any]], result: Result) -> None:
    """Metrics of a batch of solves."""
    good = [row for row in rows if "objective" in row]
    known = [row for row in good if row["optimum"] is not None]
    result.metric("instances", len(rows))
    result.metric("failures", len(rows) - len(good))
    if known:
        positive = [row for row in known if row["optimum"] > 0]
        zero = [row for row in known if row["optimum"] == 0]
        gaps = np.array([row["gap"] for row in positive] or [0.0])
        result.metric("hits", sum(row["objective"] == row["optimum"] for row in known))
        for name, reduce in (("mean", np.mean), ("median", np.median), ("max", np.max)):
            result.metric(f"{name}_gap", float(reduce(gaps)))
        best = sum(row["optimum"] for row in known)
        result.metric("aggregate_gap", sum(row["objective"] for row in known) / best - 1 if best else 0.0)
        result.metric("zero_optimum_instances", len(zero))
        result.metric("zero_optimum_hits", sum(row["objective"] == 0 for row in zero))
        result.metric("below_optimum", sum(row["objective"] < row["optimum"] for row in known))
        result.metric("bound_violations", sum(row["lower_bound"] > row["optimum"] for row in known))
    if good:
        certified = np.array([row["certified_gap"] for row in good])
        cost, lower = sum(row["objective"] for row in good), sum(row["lower_bound"] for row in good)
        seconds = [row["time [s]"] for row in good]
        result.metric("proved", sum(row["status"] == "optimal" for row in good))
        result.metric("mean_certified_gap", float(certified.mean()))
        result.metric("median_certified_gap", float(np.median(certified)))
        result.metric("aggregate_certified_gap", (cost - lower) / cost if cost else 0.0)
        result.metric("bound_above_cost", sum(row["lower_bound"] > row["objective"] for row in good))
        result.metric("mean_seconds", float(np.mean(seconds)), timing=True)
        result.metric("max_seconds", float(np.max(seconds)), timing=True)
        result.metric("sum_objective", cost)
        result.metric("sum_lower_bound", lower)
    result.answer = f"{len(good)} of {len(rows)} instances are solved."
    if known:
        result.answer = f"{result.metrics['hits']} of {len(known)} instances reach the known optimum exactly."


def summarise_bounds(rows: list[dict[str, Any]], result: Result) -> None:
    """Metrics of a batch of bounds."""
    good = [row for row in rows if "objective" in row]
    known = [row for row in good if row["optimum"]]
    result.metric("instances", len(rows))
    result.metric("failures", len(rows) - len(good))
    if known:
        gaps = np.array([1 - row["lower_bound"] / row["optimum"] for row in known])
        total = sum(row["optimum"] for row in known)
        result.metric("aggregate_bound_gap", 1 - sum(row["lower_bound"] for row in known) / total)
        for name, reduce in (("mean", np.mean), ("median", np.median), ("max", np.max)):
            result.metric(f"{name}_bound_gap", float(reduce(gaps)))
        everyone = [row for row in good if row["optimum"] is not None]
        result.metric("bound_violations", sum(row["lower_bound"] > row["optimum"] for row in everyone))
    cost, lower = sum(row["objective"] for row in good), sum(row["lower_bound"] for row in good)
    result.metric("aggregate_certified_gap", (cost - lower) / cost if cost else 0.0)
    seconds = [row["time [s]"] for row in good]
    result.metric("max_seconds", float(max(seconds, default=0.0)), timing=True)
    result.answer = f"The bounds prove an aggregate gap of {100 * result.metrics['aggregate_certified_gap']:.2f} %."
