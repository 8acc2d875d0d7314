"""`bench scheduling`, cases learned, families and gradient: what learning gives with and without local search."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from onlyforward.core.keys import Key
from onlyforward.schedule import rules
from onlyforward.schedule.bench import Known, aggregate, large, orlib, timer
from onlyforward.schedule.command import Bench
from onlyforward.schedule.compiled import engine
from onlyforward.schedule.cost import Table
from onlyforward.schedule.exact import exact_gradient, exact_order_gradient
from onlyforward.schedule.generate import weighted_tardiness
from onlyforward.schedule.jobs import Jobs
from onlyforward.schedule.network import Network, load_network
from onlyforward.schedule.online import COLD, WARM, Plan, first_width, learn, refine
from onlyforward.schedule.problem import Problem, make_problem
from onlyforward.schedule.ratio import likelihood_ratio, plackett_luce, surrogate_gradient
from onlyforward.schedule.search import Clock, arrays
from onlyforward.schedule.surrogate import make_terms
from onlyforward.schedule.warm import warm

if TYPE_CHECKING:
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result

SPAN = 60
"""Of the swaps in the ablation's descents (insertions are full): full swaps would hide where they began."""
ARMS = ("rule", "surrogate from EDD", "surrogate from rule", "network")


def learned(options: Bench, context: Context, result: Result) -> None:
    """The network alone, the network with online learning and no local search, and the ablation of starts."""
    network = load_network()
    limit = options.time_limit or 10.0
    sets: list[tuple[str, Callable[[], Iterable[Known]]]] = [
        ("wt100", lambda: orlib("wt100", "wtbest100b.txt", 5 if options.quick else 1)),
        ("n1000", lambda: large(options.quick)),
    ]
    for tag, items in sets:
        alone(tag, items(), network, limit, options, result)
    ablation(options, limit, network, result)
    zero, online = (result.metrics[f"learned_{arm}_wt100_aggregate_gap"] or 0.0 for arm in ("zeroshot", "online"))
    result.answer = f"wt100 without any search: network {100 * zero:.2f} %, with online learning {100 * online:.2f} %."


def alone(tag: str, items: Iterable[Known], network: Network, limit: float, options: Bench, result: Result) -> None:
    """The network's orders, and the order that online learning makes of them: no local search in either."""
    rows: list[list[Any]] = []
    for step, (name, jobs, best) in enumerate(items):
        problem = make_problem(jobs)
        if not problem.n:
            continue
        warm(jobs, problem, bound=False, learned=True)
        key, clock = Key(run=options.seed, site=f"bench {tag}", step=step), Clock(limit, timer=timer(options))
        orders = network.orders(problem)
        begin = clock.elapsed
        order, _ = learn(problem, orders[0], Plan(sigma=first_width(problem)), clock, key)
        fine = refine(problem, order, clock, key.at(copy=1))
        atc = min(problem.cost(rules.atc(problem, k)) for k in rules.GRID if k <= max(2.0, problem.n / 5))
        costs = [int(problem.cost(found)) for found in (orders[0], order, fine)]
        rows.append([name, best, *costs, int(atc), begin, clock.elapsed])
    columns = ["name", "optimum", "network", "network, online", "online, finer windows", "ATC, best K",
               "network [s]", "all [s]"]  # fmt: skip
    result.table(f"No local search, {tag}", columns, rows)
    for place, arm in ((2, "zeroshot"), (3, "online_one_stage"), (4, "online"), (5, "atc")):
        gaps = [row[place] / row[1] - 1 for row in rows if row[1]]
        result.metric(f"learned_{arm}_{tag}_aggregate_gap", aggregate(rows, place, 1), timing=place in (3, 4))
        result.metric(f"learned_{arm}_{tag}_median_gap", float(np.median(gaps)), timing=place in (3, 4))
    result.metric(f"learned_{tag}_max_seconds", max(row[7] for row in rows), timing=True)


def arm_cost(arm: str, problem: Problem, network: Network | None, clock: Clock, key: Key) -> float:
    """Cost that one arm reaches until the clock is over: its start, then insertions and swaps of span 60."""
    kernels, _ = engine()
    best = [float("inf")]

    def report(order: np.ndarray, cost: Any) -> None:
        best[0] = min(best[0], float(cost))

    for order in arm_orders(arm, problem, network, clock, key):
        report(order, problem.cost(order))
        found = order.copy()
        while not clock.over:
            if kernels.descend(found, *arrays(problem), problem.released or None, problem.n, SPAN, 2) >= 0:
                break
        report(found, problem.cost(found))
        if clock.over:
            break
    return best[0]


def arm_orders(arm: str, problem: Problem, network: Network | None, clock: Clock, key: Key) -> Iterator[np.ndarray]:
    """The starts of one arm; rules go on to the next best rule while there is time."""
    if arm == "rule":
        for _, order in rules.starts(problem, quick=True):
            yield order
    elif arm == "network":
        if network is not None:
            yield from network.orders(problem)
    elif arm == "surrogate from EDD":
        yield learn(problem, rules.edd(problem), Plan(sigma=COLD), clock, key)[0]
    else:
        yield learn(problem, rules.starts(problem, quick=True)[0][1], Plan(sigma=WARM), clock, key)[0]


def ablation(options: Bench, limit: float, network: Network, result: Result) -> None:
    """Every start alone for the same seconds, per instance, losses included."""
    rows: list[list[Any]] = []
    for step, (name, jobs, best) in enumerate(large(options.quick)):
        problem = make_problem(jobs)
        warm(jobs, problem, bound=False, learned=True)
        key = Key(run=options.seed, site="ablation", step=step)
        costs = [arm_cost(arm, problem, network, Clock(limit, timer=timer(options)), key) for arm in ARMS]
        rows.append([name, best, *(cost / best - 1 for cost in costs), min(costs[1:]) / best - 1])
    columns = ["name", "optimum", *(f"gap, {arm}" for arm in ARMS), "gap, best learned"]
    note = "Full insertions, swaps of span 60. The best learned column leaves the rule start out."
    result.table(f"Starts, n = 1000, {limit:g} s ({options.clock}) each", columns, rows, note)
    total = sum(row[1] for row in rows)
    for place, arm in enumerate(("rulestart", "surrogate_edd", "surrogate_rule", "network_start", "start"), start=2):
        weighted = sum(row[1] * row[place] for row in rows) / total
        result.metric(f"learned_{arm}_n1000_aggregate_gap", weighted, timing=True)
    result.metric("learned_wins", sum(row[-1] < row[2] for row in rows), timing=True)
    result.metric("learned_losses", sum(row[-1] > row[2] for row in rows), timing=True)


def family_jobs(family: str, n: int, key: Key) -> Jobs:
    """A random instance of one family; `table` draws 64 rising steps per job."""
    jobs = weighted_tardiness(n, key, tightness=0.7, spread=0.5)
    if family != "table":
        return jobs.with_cost(family)
    horizon = int(jobs.p.sum())
    ends = np.unique(np.linspace(0, horizon, 65)[1:].astype(np.int64))
    rises = key.at(site="table").numpy().integers(0, 40, (n, len(ends)))
    rises[key.at(site="rare").numpy().random(rises.shape) < 0.8] = 0
    return jobs.with_cost(Table(np.cumsum(rises, 1), ends))


def families(options: Bench, context: Context, result: Result) -> None:
    """Steps, squares, late work and random tables: learned starts against rule starts at equal time."""
    network = load_network()
    limit = options.time_limit or (3.0 if options.quick else 5.0)
    rows: list[list[Any]] = []
    failures = 0
    for family in ("weighted-tardy-jobs", "quadratic-tardiness", "late-work", "table"):
        for n in (200, 500) if options.quick else (200, 500, 1000):
            key = Key(run=options.seed, site=f"family {family}", step=n)
            jobs = family_jobs(family, n, key)
            problem = make_problem(jobs)
            warm(jobs, problem, bound=False, learned=True)
            costs = [arm_cost(arm, problem, network, Clock(limit, timer=timer(options)), key) for arm in ARMS]
            failures += not all(np.isfinite(costs))
            rows.append([family, n, *map(int, costs), int(min(costs[1:]))])
    result.table(f"Other families, {limit:g} s ({options.clock}) each", ["family", "n", *ARMS, "best learned"], rows)
    result.metric("families_learned_wins", sum(row[-1] < row[2] for row in rows), timing=True)
    result.metric("families_learned_losses", sum(row[-1] > row[2] for row in rows), timing=True)
    result.metric("families_failures", failures)


def gradients(options: Bench, context: Context, result: Result) -> None:
    """Every gradient against enumeration at n = 5, W = 4; variance with and without the surrogate at n = 50."""
    key = Key(run=options.seed, site="gradient")
    problem = make_problem(weighted_tardiness(5, key, tightness=0.6, spread=0.4))
    terms = make_terms(problem, torch.float64)
    logits = torch.randn(problem.n, 4, generator=key.generator(), dtype=torch.float64)
    scores = torch.randn(problem.n, generator=key.at(copy=1).generator(), dtype=torch.float64)
    scale = float(problem.cost(np.arange(problem.n))) or 1.0
    price = problem.cost
    truth, order_truth = exact_gradient(problem, logits, scale), exact_order_gradient(problem, scores, scale)
    draw: dict[str, tuple[torch.Tensor, Callable[[Key], torch.Tensor]]] = {
        "lr": (truth, lambda here: likelihood_ratio(price, logits, None, here, scale=scale)),
        "control": (truth, lambda here: likelihood_ratio(price, logits, terms, here, scale=scale)),
        "plackett_luce": (order_truth, lambda here: plackett_luce(price, scores, here, scale=scale)),
    }
    repeats, rows = 300 if options.quick else 1500, []
    for name, (exact, once) in draw.items():
        draws = torch.stack([once(key.at(step=i)) for i in range(repeats)])
        error = (draws.mean(0) - exact).abs() / (draws.std(0) / repeats**0.5).clamp(min=1e-12)
        result.metric(f"gradient_{name}_max_z", float(error.max()))
        rows.append([name, float(error.max()), float(draws.var(0).sum()), 0.0])
    result.metric("gradient_max_z", max(row[1] for row in rows))
    bias = (surrogate_gradient(logits, terms, scale=scale) - truth).norm() / truth.norm()
    rows.append(["surrogate", None, 0.0, float(bias)])
    result.metric("gradient_surrogate_relative_bias", float(bias))
    columns = ["estimator", "max z against enumeration", "total variance", "relative bias"]
    result.table(f"Gradients, n = 5, W = 4, 8 copies, {repeats} repeats", columns, rows)
    variances(key, 60, result)


def variances(key: Key, repeats: int, result: Result) -> None:
    """Total variance near a good start at n = 50, with and without the surrogate as control variate."""
    problem = make_problem(weighted_tardiness(50, key.at(step=1), tightness=0.6, spread=0.4))
    terms = make_terms(problem, torch.float64)
    order = rules.starts(problem)[0][1]
    place = torch.empty(problem.n, dtype=torch.float64)
    place[torch.from_numpy(order.copy())] = (torch.arange(problem.n) + 0.5).double() / problem.n
    logits = -((torch.linspace(0, 1, 24, dtype=torch.float64) - place[:, None]) ** 2) / (2 * 0.05**2)
    scale = float(problem.cost(order)) or 1.0
    found = [
        torch.stack(
            [likelihood_ratio(problem.cost, logits, some, key.at(step=i), scale=scale) for i in range(repeats)]
        ).var(0)
        for some in (None, terms)
    ]
    plain, controlled = (float(variance.sum()) for variance in found)
    result.metric("gradient_variance_ratio", plain / controlled)
    rows = [["likelihood ratio", plain], ["with the surrogate", controlled]]
    result.table("Variance, n = 50, near a good start", ["estimator", "total variance"], rows)
