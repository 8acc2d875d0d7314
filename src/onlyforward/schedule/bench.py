"""`bench scheduling`: ours beside CP-SAT, PyJobShop and the rules; certificates; learned starts; gradients; speed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from onlyforward.core.keys import Key
from onlyforward.data.sets import folder
from onlyforward.run.benchmark import run_cases
from onlyforward.schedule import peers, rules
from onlyforward.schedule.command import Bench
from onlyforward.schedule.dual import bound
from onlyforward.schedule.jobs import Jobs
from onlyforward.schedule.pipeline import solve
from onlyforward.schedule.problem import make_problem
from onlyforward.schedule.read import natural, read_instance, read_optima

if TYPE_CHECKING:
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result

QUICK_LARGE = (1, 8, 13, 18, 23)


def run(options: Bench, context: Context) -> Result:
    """The chosen cases."""
    cases = {
        "optima": optima,
        "bound": bounds,
        "learned": learned,
        "gradient": gradients,
        "release": release,
        "peers": against,
        "speed": speed,
    }
    result = run_cases(options, context, cases)  # type: ignore[arg-type]
    result.answer = result.answer or "The tables show ours and the peers on the same instances at equal wall time."
    return result


def orlib(name: str, optima: str, step: int) -> Iterator[tuple[str, Jobs, int]]:
    """Every step-th instance of an OR-Library file with its known optimum."""
    place = folder("scheduling")
    known = [value for _, value in read_optima(place / optima)]
    for i in range(0, len(known), step):
        yield f"{name}-{i + 1}", read_instance(place / f"{name}.txt", format="orlib", index=i + 1), known[i]


def large(quick: bool) -> Iterator[tuple[str, Jobs, int]]:
    """Geiger's instances of 1000 jobs with their optima."""
    place = folder("scheduling") / "geiger"
    known = dict(read_optima(place / "optimal_results.txt"))
    for i in QUICK_LARGE if quick else range(1, 26):
        yield f"wt_1000_{i}", read_instance(place / f"wt_1000_{i}.txt", format="geiger"), known[f"wt_1000_{i}"]


def optima(options: Bench, context: Context, result: Result) -> None:
    """Hits of the published optima; a quick run takes every fifth instance."""
    step = 5 if options.quick else 1
    limit = options.time_limit or 1.0
    for name, known in (("wt40", "wtopt40.txt"), ("wt50", "wtopt50.txt"), ("wt100", "wtbest100b.txt")):
        rows = []
        for label, jobs, best in orlib(name, known, step):
            found = solve(jobs, time_limit=limit, bound=False, seed=options.seed, goal=best)
            rows.append([label, found.objective, best, found.objective / best - 1 if best else 0.0, found.runtime])
        result.table(f"{name}, {limit:g} s", ["name", "cost", "optimum", "gap", "time [s]"], rows)
        result.metric(f"optima_{name}_instances", len(rows))
        result.metric(f"optima_{name}_hits", sum(row[1] == row[2] for row in rows), timing=True)
        result.metric(f"optima_{name}_mean_gap", float(np.mean([row[3] for row in rows if row[2]])), timing=True)
        result.metric(f"optima_{name}_below_optimum", sum(row[1] < row[2] for row in rows))
        result.metric(f"optima_{name}_max_seconds", max(row[4] for row in rows), timing=True)


def bounds(options: Bench, context: Context, result: Result) -> None:
    """Certified bounds against the published optima."""
    step = 5 if options.quick else 1
    limit = options.time_limit or 2.0
    for label, items in (
        ("wt100", orlib("wt100", "wtbest100b.txt", step)),
        ("n1000", large(options.quick)),
    ):
        rows = []
        for name, jobs, best in items:
            proof = bound(jobs, time_limit=limit if jobs.n <= 200 else 5 * limit, seed=options.seed)
            rows.append([name, proof["lower_bound"], best, 1 - proof["lower_bound"] / best if best else 0.0])
        result.table(f"Bounds, {label}", ["name", "bound", "optimum", "bound gap"], rows)
        gaps = [row[3] for row in rows if row[2]]
        total = sum(row[2] for row in rows)
        result.metric(f"bound_{label}_aggregate_gap", 1 - sum(row[1] for row in rows) / total, timing=True)
        result.metric(f"bound_{label}_mean_gap", float(np.mean(gaps)), timing=True)
        result.metric(f"bound_{label}_median_gap", float(np.median(gaps)), timing=True)
        result.metric(f"bound_{label}_max_gap", float(np.max(gaps)), timing=True)
        result.metric(f"bound_{label}_violations", sum(row[1] > row[2] for row in rows))


def learned(options: Bench, context: Context, result: Result) -> None:
    """Start ablation at n = 1000: rules alone against learned starts as well, at equal time, per instance."""
    limit = options.time_limit or 10.0
    rows = []
    for name, jobs, best in large(options.quick):
        ours = [
            solve(jobs, time_limit=limit, bound=False, seed=options.seed, online=online)
            for online in ("off", "surrogate")
        ]
        rows.append([name, best, *(found.objective / best - 1 for found in ours)])
    result.table("Start ablation", ["name", "optimum", "gap, rule start", "gap, learned starts"], rows)
    total = sum(row[1] for row in rows)
    for place, arm in ((2, "rulestart"), (3, "start")):
        aggregate = sum(row[1] * row[place] for row in rows) / total
        result.metric(f"learned_{arm}_n1000_aggregate_gap", aggregate, timing=True)
        result.metric(f"learned_{arm}_n1000_mean_gap", float(np.mean([row[place] for row in rows])), timing=True)
    result.metric("learned_losses", sum(row[3] > row[2] for row in rows), timing=True)


def gradients(options: Bench, context: Context, result: Result) -> None:
    """Likelihood ratio with and without the surrogate, against enumeration at n = 5, W = 4; variance at n = 50."""
    import torch

    from onlyforward.schedule.exact import exact_gradient
    from onlyforward.schedule.generate import weighted_tardiness
    from onlyforward.schedule.online import likelihood_ratio
    from onlyforward.schedule.surrogate import make_terms

    key = Key(run=options.seed, site="gradient")
    problem = make_problem(weighted_tardiness(5, key, tightness=0.6, spread=0.4))
    terms = make_terms(problem, torch.float64)
    logits = torch.randn(problem.n, 4, generator=key.generator(), dtype=torch.float64)
    scale = float(problem.cost(np.arange(problem.n))) or 1.0
    truth = exact_gradient(problem, logits, scale)
    repeats, rows = 300 if options.quick else 1500, []
    for control in (False, True):
        draws = torch.stack(
            [
                likelihood_ratio(problem, logits, terms, key.at(step=i), scale=scale, copies=8, control=control)
                for i in range(repeats)
            ]
        )
        error = (draws.mean(0) - truth).abs() / (draws.std(0) / repeats**0.5).clamp(min=1e-12)
        name = "control" if control else "lr"
        result.metric(f"gradient_{name}_max_z", float(error.max()))
        rows.append([name, float(error.max()), float(draws.var(0).sum())])
    result.metric("gradient_max_z", max(row[1] for row in rows))
    problem = make_problem(weighted_tardiness(50, key.at(step=1), tightness=0.6, spread=0.4))
    terms = make_terms(problem, torch.float64)
    order = rules.starts(problem)[0][1]
    place = torch.empty(problem.n, dtype=torch.float64)
    place[torch.from_numpy(order.copy())] = (torch.arange(problem.n) + 0.5).double() / problem.n
    logits = -((torch.linspace(0, 1, 24, dtype=torch.float64) - place[:, None]) ** 2) / (2 * 0.05**2)
    scale = float(problem.cost(order)) or 1.0
    variance = []
    for control in (False, True):
        draws = torch.stack(
            [
                likelihood_ratio(problem, logits, terms, key.at(step=i), scale=scale, copies=8, control=control)
                for i in range(60)
            ]
        )
        variance.append(float(draws.var(0).sum()))
    result.metric("gradient_variance_ratio", variance[0] / variance[1])
    result.table("Gradients", ["estimator", "max z against enumeration", "total variance at n = 5"], rows)


def release(options: Bench, context: Context, result: Result) -> None:
    """Generated instances with releases: sum w C and sum w T; small ones against CP-SAT's proof."""
    place = options.files or folder("scheduling_release_generated")
    files = sorted(place.glob("*.csv"), key=natural)
    files = files[:: 5 if options.quick else 1]
    limit = options.time_limit or 2.0
    arms = {"wc": "weighted-completion", "wt": "weighted-tardiness"}
    if options.objective:
        arms = {"chosen": options.objective}
    below = mismatch = 0
    for arm, objective in arms.items():
        rows = []
        for path in files:
            jobs = read_instance(path, objective=objective)
            found = solve(jobs, time_limit=limit, seed=options.seed)
            below += found.objective < found.lower_bound
            exact = peers.cpsat(jobs, 20.0, hint=found.sequence) if jobs.n <= 20 else None
            if exact is not None and exact.proved:
                mismatch += exact.objective != found.objective
            proof = exact.objective if exact is not None and exact.proved else None
            rows.append([path.stem, found.objective, found.lower_bound, found.gap, proof, found.runtime])
        columns = ["name", "cost", "bound", "certified gap", "CP-SAT proof", "time [s]"]
        result.table(f"Releases, {objective}", columns, rows)
        large_rows = [row for row in rows if "n100" in row[0]] or rows
        total = sum(row[1] for row in large_rows)
        gap = 1 - sum(row[2] for row in large_rows) / total if total else 0.0
        result.metric(f"release_{arm}_aggregate_certified_gap", gap, timing=True)
    result.metric("release_below_bound", below)
    result.metric("release_small_mismatch", mismatch)


def chosen(options: Bench) -> Iterator[tuple[str, Jobs]]:
    """Instances of the case peers."""
    if options.files is not None:
        for path in sorted(options.files.glob("*"), key=natural)[: 6 if options.quick else None]:
            yield path.stem, read_instance(path, objective=options.objective or None)
        return
    picks = {"wt40": (20, 70), "wt100": (20, 70, 95)} if options.quick else {}
    picks = picks or {name: range(10, 126, 10) for name in ("wt40", "wt50", "wt100")}
    for name, numbers in picks.items():
        for i in numbers:
            yield f"{name}-{i}", read_instance(folder("scheduling") / f"{name}.txt", format="orlib", index=i)
    if options.quick:
        yield "wt_1000_18", read_instance(folder("scheduling") / "geiger" / "wt_1000_18.txt", format="geiger")


def against(options: Bench, context: Context, result: Result) -> None:
    """Equal wall time: ours, CP-SAT with 8 workers (unhinted, hinted by our rule start), PyJobShop, rules."""
    limit = options.time_limit or (5.0 if options.quick else 10.0)
    rows: list[list[Any]] = []
    for name, jobs in chosen(options):
        problem = make_problem(jobs)
        ours = solve(jobs, time_limit=limit, seed=options.seed)
        hint = problem.sequence(rules.starts(problem, quick=True)[0][1])
        found = {"unhinted": peers.cpsat(jobs, limit), "hinted": peers.cpsat(jobs, limit, hint=hint)}
        try:
            found["pyjobshop"] = peers.pyjobshop(jobs, limit)
        except ImportError:
            result.notes.append("pyjobshop is not installed")
        simple = [problem.cost(rule(problem)) for rule in (rules.edd, rules.wspt, rules.mdd)]
        atc = [problem.cost(rules.atc(problem, 2.0)), problem.cost(rules.starts(problem)[0][1])]
        bounds = max(found[arm].lower_bound for arm in ("unhinted", "hinted"))
        cells = [found[arm].objective if arm in found else None for arm in ("unhinted", "hinted", "pyjobshop")]
        rows.append([name, jobs.n, ours.objective, ours.lower_bound, *cells, bounds, *map(int, [*atc, *simple])])
    columns = ["name", "n", "ours", "our bound", "CP-SAT", "CP-SAT hinted", "PyJobShop", "CP-SAT bound", "ATC 2",
               "best rule", "EDD", "WSPT", "MDD"]  # fmt: skip
    result.table(f"Peers, {limit:g} s each", columns, rows)
    for place, arm in ((4, "cpsat"), (5, "cpsat_hinted"), (6, "pyjobshop")):
        worse = sum(row[place] is not None and row[place] < row[2] for row in rows)
        result.metric(f"peers_{arm}_worse", worse, timing=True)
    missing = [row for row in rows if row[4] is None or row[4] > row[2]]
    result.metric(
        "peers_cpsat_lower_share", sum(row[4] is None or row[2] <= row[4] for row in rows) / len(rows), timing=True
    )
    result.metric("peers_cpsat_strictly_higher", len(missing), timing=True)
    big = [row for row in rows if row[1] >= 100]
    if big:
        result.metric("peers_bound_better_share", sum(row[3] >= row[7] for row in big) / len(big), timing=True)


def speed(options: Bench, context: Context, result: Result) -> None:
    """Milliseconds of the inner loops at n = 1000: medians of 5."""
    import resource

    import torch

    from onlyforward.schedule import kernels
    from onlyforward.schedule.dual import make_dual
    from onlyforward.schedule.generate import weighted_tardiness
    from onlyforward.schedule.search import arrays
    from onlyforward.schedule.surrogate import make_terms, surrogate

    jobs = weighted_tardiness(1000, Key(run=options.seed, site="speed"), tightness=0.8, spread=0.4)
    problem = make_problem(jobs)
    order = rules.atc(problem, 2.0)
    dual = make_dual(jobs, problem.sequence(order))
    prices = np.full(len(dual.width), 0.01)
    terms = make_terms(problem)
    logits = torch.randn(problem.n, 96, generator=Key(site="speed").generator(), requires_grad=True)

    def timed(work: Any) -> float:
        seconds = []
        for _ in range(6):
            begin = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - begin)
        return 1000 * float(np.median(seconds[1:]))

    found = {
        "speed_insertions_ms": timed(lambda: kernels.improve(order.copy(), *arrays(problem), 1000, 0)),
        "speed_bound_ms": timed(lambda: dual.value(prices)),
        "speed_surrogate_ms": timed(lambda: surrogate(logits.softmax(1), terms).backward()),
        "speed_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    for name, value in found.items():
        result.metric(name, value, timing=True)
    result.table("Inner loops at n = 1000", ["what", "value [ms or MB]"], [list(item) for item in found.items()])
