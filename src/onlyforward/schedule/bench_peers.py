"""`bench scheduling`, cases release and peers: CP-SAT, PyJobShop and the rules at equal wall time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from onlyforward.data.sets import folder
from onlyforward.schedule import peers as others
from onlyforward.schedule import rules
from onlyforward.schedule.command import Bench
from onlyforward.schedule.jobs import Jobs
from onlyforward.schedule.pipeline import solve
from onlyforward.schedule.problem import make_problem
from onlyforward.schedule.read import natural, read_instance

if TYPE_CHECKING:
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result


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
            exact = others.cpsat(jobs, 20.0, hint=found.sequence) if jobs.n <= 20 else None
            if exact is not None and exact.proved:
                mismatch += exact.objective != found.objective
            proof = exact.objective if exact is not None and exact.proved else None
            rows.append([path.stem, found.objective, found.lower_bound, found.gap, proof, found.runtime])
        columns = ["name", "cost", "bound", "certified gap", "CP-SAT proof", "time [s]"]
        result.table(f"Releases, {objective}", columns, rows)
        for tag, some in (("", rows), ("_n100", [row for row in rows if "n100" in row[0]])):
            total = sum(row[1] for row in some)
            gap = 1 - sum(row[2] for row in some) / total if total else 0.0
            result.metric(f"release_{arm}{tag}_aggregate_certified_gap", gap, timing=True)
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


def peers(options: Bench, context: Context, result: Result) -> None:
    """Equal wall time: ours, CP-SAT with 8 workers (unhinted, hinted by our rule start), PyJobShop, rules."""
    limit = options.time_limit or (5.0 if options.quick else 10.0)
    rows: list[list[Any]] = []
    for name, jobs in chosen(options):
        problem = make_problem(jobs)
        ours = solve(jobs, time_limit=limit, seed=options.seed)
        hint = problem.sequence(rules.starts(problem, quick=True)[0][1])
        found = {"unhinted": others.cpsat(jobs, limit), "hinted": others.cpsat(jobs, limit, hint=hint)}
        try:
            found["pyjobshop"] = others.pyjobshop(jobs, limit)
        except ImportError:
            result.notes.append("pyjobshop is not installed")
        simple = [problem.cost(rule(problem)) for rule in (rules.edd, rules.wspt, rules.mdd)]
        atc = [problem.cost(rules.atc(problem, 2.0)), problem.cost(rules.starts(problem)[0][1])]
        bounds = max(found[arm].lower_bound for arm in ("unhinted", "hinted"))
        cells = [found[arm].objective if arm in found else None for arm in ("unhinted", "hinted", "pyjobshop")]
        proved = "in {:.1f} s".format(found["hinted"].seconds) if found["hinted"].proved else "no"
        costs = map(int, [*atc, *simple])
        rows.append([name, jobs.n, ours.objective, ours.lower_bound, *cells, bounds, proved, *costs])
    columns = ["name", "n", "ours", "our bound", "CP-SAT", "CP-SAT hinted", "PyJobShop", "CP-SAT bound",
               "hinted proves", "ATC 2", "best rule", "EDD", "WSPT", "MDD"]  # fmt: skip
    result.table(f"Peers, {limit:g} s each", columns, rows)
    for place, arm in ((4, "cpsat"), (5, "cpsat_hinted"), (6, "pyjobshop")):
        worse = sum(row[place] is not None and row[place] < row[2] for row in rows)
        result.metric(f"peers_{arm}_worse", worse, timing=True)
    lower = sum(row[4] is None or row[2] <= row[4] for row in rows)
    strictly = sum(row[4] is None or row[2] < row[4] for row in rows)
    result.metric("peers_instances", len(rows))
    result.metric("peers_cpsat_lower_share", lower / len(rows), timing=True)
    result.metric("peers_cpsat_strictly_lower_share", strictly / len(rows), timing=True)
    big = [row for row in rows if row[1] >= 100]
    if big:
        result.metric("peers_bound_better_share", sum(row[3] >= row[7] for row in big) / len(big), timing=True)
