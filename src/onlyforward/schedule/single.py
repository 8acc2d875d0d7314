"""`schedule solve` and `schedule bound` of one instance: plan, chart, explanation, certificate."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from onlyforward.core.errors import FileError, UsageError
from onlyforward.schedule.command import Bound, Instances, Solve
from onlyforward.schedule.jobs import Jobs
from onlyforward.schedule.pipeline import solve
from onlyforward.schedule.read import read_instance, read_plan, write_rows
from onlyforward.schedule.solution import Solution

if TYPE_CHECKING:
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result


def load(options: Instances) -> Jobs:
    """The one instance that the options name."""
    return read_instance(
        options.files[0],
        format=options.format,
        index=options.index or None,
        n=options.n or None,
        objective=options.objective or None,
    )


def known_optimum(options: Instances) -> int | None:
    """What `--optima` says of the one instance."""
    from onlyforward.schedule.batch import items

    return items(options)[(options.index or 1) - 1][3] if options.optima else None


def compare(value: float, optimum: int | None, name: str, result: Result) -> None:
    """A cost or a bound beside the known optimum, as a fraction of it."""
    if optimum is not None:
        result.metric("optimum", optimum)
        result.metric(name, value / optimum - 1 if optimum else float(value != 0))


def writable(path: Path | None) -> None:
    """Find an output that cannot be written before the work, not after."""
    if path is not None and (path.is_dir() or not os.access(path.parent, os.W_OK)):
        raise FileError(f"{path} cannot be written", "Choose a file in a folder that can be written")


def run(options: Solve | Bound, context: Context) -> Result:
    """One instance."""
    writable(options.certificate)
    if isinstance(options, Bound):
        return run_bound(options, context)
    writable(options.plan)
    writable(options.gantt)
    jobs = load(options)
    if jobs.n > 1000:
        context.warn(f"{jobs.n} jobs are more than the 1000 that this is made for; the gap will be wider")
    optimum = known_optimum(options)
    whole = float(options.now).is_integer()
    last = [0.0]

    def show(seconds: float, cost: float) -> None:
        if options.verbose and seconds - last[0] >= 1:
            last[0] = seconds
            context.say(f"{seconds:.1f} s: cost {cost}")

    fixed = jobs.index([name.strip() for name in options.fixed.split(",") if name.strip()], option="--fixed")
    explained = jobs.index([options.explain], option="--explain") if options.explain else []
    solution = solve(
        jobs,
        time_limit=options.time_limit,
        iterations=options.iterations or None,
        seed=options.seed,
        initial=read_plan(options.initial, jobs) if options.initial else None,
        fixed=fixed,
        now=int(options.now) if whole else options.now,
        start=options.start,
        online=options.online,
        learn=options.learn,
        network=options.network,
        prove=options.prove,
        search=options.search,
        bound=options.bound != "off",
        gap_limit=options.gap_limit,
        span=None if options.span < 0 else options.span,
        goal=optimum if options.stop_at_optima else None,
        callback=show,
        stop=lambda: bool(context.signals.received),
    )
    result = context.result(question=f"In which order should the {jobs.n} jobs of {options.files[0].name} run?")
    deliver(solution, result)
    compare(solution.objective, optimum, "gap_to_optimum", result)
    if explained:
        explanation = solution.explain(explained[0])
        result.table(
            f"Why job {options.explain} costs {explanation.cost}", ["question", "answer"], explanation.rows(jobs)
        )
        result.answer += " " + explanation.sentence(jobs)
    write(solution, options, context, result)
    if context.signals.received:
        result.status, result.exit_code = "stopped", 128 + context.signals.received
        context.signals.received = 0
    return result


def deliver(solution: Solution, result: Result) -> None:
    """Metrics, answer and tables."""
    timing = ("seconds", "warmup_seconds")
    for name, value in solution.metrics().items():
        result.metric(name, value, timing=name in timing)
    jobs = solution.jobs
    proof = (
        "which is proven optimal"
        if solution.status == "optimal"
        else f"at most {100 * solution.gap:.2f} % above the best possible (certified bound {solution.lower_bound})"
    )
    result.answer = f"Cost {solution.objective}, {proof}."
    result.notes.append(f"arithmetic: {jobs.arithmetic}")
    result.table("Plan", ["job", "start", "end", "due", "cost"], solution.table())
    result.table("Progress", ["time [s]", "cost"], [list(item) for item in solution.trace[-200:]])
    if len(solution.trace) > 1:
        x, y = zip(*solution.trace, strict=True)
        result.curve("Cost of the incumbent", "cost", x, y, x_label="time [s]", y_label="cost")


def write(solution: Solution, options: Solve, context: Context, result: Result) -> None:
    """Files that were asked for, and the chart in the run's folder."""
    if options.plan is not None:
        write_rows(options.plan, [["job", "start", "end", "due", "cost"], *solution.table()])
    if options.gantt is not None:
        solution.gantt(options.gantt)
    chart = context.artefact("gantt.svg")
    if chart is not None:
        solution.gantt(chart)
        result.figures["Gantt chart"] = chart.name
    save_certificate(options.certificate, solution.certificate)


def save_certificate(path: Path | None, certificate: dict | None) -> None:
    """Write a certificate as JSON."""
    if path is None:
        return
    if certificate is None:
        raise UsageError("There is no certificate to write", "Use --bound on; a cost of 0 or a settled plan needs none")
    kept = {key: value for key, value in certificate.items() if key not in ("upper_bound", "iterations", "seconds")}
    path.write_text(json.dumps(kept) + "\n", encoding="utf-8")


def run_bound(options: Bound, context: Context) -> Result:
    """`schedule bound` of one instance."""
    from onlyforward.schedule.dual import bound

    jobs, optimum = load(options), known_optimum(options)
    certificate = bound(jobs, time_limit=options.time_limit, K=options.K or None, seed=options.seed)
    result = context.result(question=f"What must every schedule of {options.files[0].name} cost at least?")
    upper, lower = certificate["upper_bound"], certificate["lower_bound"]
    result.metric("lower_bound", lower)
    result.metric("upper_bound", upper)
    result.metric("gap", (upper - lower) / upper if upper else 0.0)
    result.metric("seconds", context.elapsed(), timing=True)
    result.metric("iterations", certificate["iterations"], timing=True)
    compare(lower, optimum, "bound_to_optimum", result)
    result.answer = f"No schedule costs less than {lower}; one of {upper:g} is known."
    save_certificate(options.certificate, certificate)
    return result
