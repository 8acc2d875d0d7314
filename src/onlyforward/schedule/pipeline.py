"""The pipeline: reduce, rules, descent, learned starts, iterated search, with the bound in a second thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onlyforward.core.checks import check_choice, check_range
from onlyforward.core.errors import UsageError
from onlyforward.core.keys import Key
from onlyforward.schedule import rules
from onlyforward.schedule.certificate import Certificate
from onlyforward.schedule.jobs import Jobs, timetable
from onlyforward.schedule.problem import Problem, make_problem
from onlyforward.schedule.solution import Incumbent, Solution
from onlyforward.schedule.warm import warm

if TYPE_CHECKING:
    from onlyforward.schedule.network import Network
    from onlyforward.schedule.search import Clock

STARTS = ("auto", "rules", "edd", "network", "surrogate")
ONLINE = ("auto", "off", "surrogate", "lr", "control", "plackett-luce")
LEARN = ("locations", "logits", "weights")
SEARCHES = ("auto", "none", "descent", "iterated")
ROUNDS = 3
"""Ascents of the priced starts, each from the incumbent that the one before left."""


class Pricing(threading.Thread):
    """The bound, beside the search: starts anew from the newest incumbent until the time is over."""

    def __init__(
        self, jobs: Jobs, fixed: tuple[int, ...], now: Any, incumbent: Incumbent, over: Callable[[], bool]
    ) -> None:
        super().__init__(daemon=True)
        self.jobs, self.fixed, self.now, self.incumbent, self.over = jobs, fixed, now, incumbent, over
        self.certificate: Certificate | None = None
        self.done = False

    def run(self) -> None:
        """Rounds of ascent."""
        from onlyforward.schedule.dual import ascend, make_dual

        while True:
            order = self.incumbent.order
            sequence = self.incumbent.problem.sequence(order)
            cost = self.incumbent.constant + self.incumbent.cost
            dual = make_dual(self.jobs, sequence, fixed=self.fixed, now=self.now)
            ascend(dual, sequence, float(cost), self.over)
            found = dual.certificate()
            if self.certificate is None or found["lower_bound"] > self.certificate["lower_bound"]:
                self.certificate = found
            if self.over() or self.incumbent.order is order:
                self.done = True
                return


def solve(
    jobs: Jobs,
    objective: Any = None,
    time_limit: float = 5.0,
    iterations: int | None = None,
    seed: int = 0,
    initial: Sequence[int] | None = None,
    fixed: Sequence[int] = (),
    now: Any = None,
    start: str = "auto",
    online: str = "auto",
    learn: str = "locations",
    search: str = "auto",
    bound: bool = True,
    gap_limit: float = 0.0,
    evaluate: Callable[[np.ndarray], float] | None = None,
    network: Path | str = "default",
    span: int | None = None,
    prove: bool = False,
    goal: Any = None,
    callback: Callable[[float, Any], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
    timer: Callable[[], float] = time.perf_counter,
) -> Solution:
    """Schedule the jobs.

    Args:
        jobs: the instance.
        objective: another cost than the instance's own.
        time_limit: seconds, compilation left out.
        iterations: kicks of the iterated search; with it the result does not depend on the clock.
        seed: run coordinate of the random numbers.
        initial: a plan to begin with; missing jobs are inserted greedily.
        fixed: job numbers that keep the first positions in this order.
        now: nothing else starts earlier.
        start: auto, rules, edd, network (its orders alone) or surrogate (learned from EDD alone).
        online: auto, off, surrogate, lr, control or plackett-luce: the gradient of the learned starts.
        learn: what is learned: locations, logits or weights (of the network).
        search: auto, none, descent or iterated.
        bound: also compute a certified lower bound.
        gap_limit: stop at this certified gap.
        evaluate: sequence [n] -> cost, any black box; it replaces the objective, and nothing is certified. The
            instance's own cost then only guides the search (as control variate of the likelihood-ratio gradient).
        network: "default", or a file that `schedule train --weights` wrote.
        span: longest move in positions; 0 is full, None 60 with releases and full without.
        prove: at n <= 60 let CP-SAT close what is left of the gap, after the time limit.
        goal: stop at this cost.
        callback: called with (seconds, cost) for every incumbent.
        stop: asked now and then; True ends the solve with what there is.
        timer: what `time_limit` is read from (`time.process_time`: processor seconds of all threads).
    """
    from onlyforward.schedule.search import SMALL, Clock, descent, iterated, windows

    jobs = jobs if objective is None else jobs.with_cost(objective)
    check_range(time_limit, name="time_limit", low=0.0, open_low=True)
    check_choice(start, STARTS, name="start")
    check_choice(online, ONLINE, name="online")
    check_choice(learn, LEARN, name="learn")
    check_choice(search, SEARCHES, name="search")
    if evaluate is not None:
        from onlyforward.schedule.blackbox import solve_black_box

        return solve_black_box(
            jobs, evaluate, time_limit=time_limit, iterations=iterations, seed=seed, method=online, form=learn,
            initial=initial, fixed=fixed, now=now, callback=callback, stop=stop,
        )  # fmt: skip
    fixed = tuple(fixed)
    if len(set(fixed)) < len(fixed):
        raise UsageError("--fixed names a job twice", "Name every job once")
    moment = jobs.p.dtype.type(0) if now is None else jobs.p.dtype.type(now)
    if moment > jobs.horizon:
        raise UsageError(f"--now {moment} lies after the horizon {jobs.horizon}", "Check the unit of time")
    problem = make_problem(jobs, fixed=fixed, now=moment)
    path = None if str(network) == "default" else Path(network)
    asked = start in ("network", "surrogate") or learn == "weights" or online not in ("auto", "off")
    learned = asked or (start == "auto" and online == "auto" and learned_start_pays(problem))
    warmup = warm(jobs, problem, bound=bound, learned=learned)
    clock = Clock(time_limit, iterations, timer=timer)
    settled = np.concatenate([np.array(fixed, np.int64), problem.tail])
    done = timetable(jobs, problem.sequence(np.arange(problem.n)), now=moment, head=len(fixed))[1]
    constant = jobs.costs(done)[settled].sum() if len(settled) else jobs.p.dtype.type(0)
    incumbent = Incumbent(problem, constant, callback, clock)
    floor = problem.floor() if problem.n else constant - constant
    pricing: Pricing | None = None

    def close_enough() -> bool:
        if stop() or (goal is not None and incumbent.trace and incumbent.trace[-1][1] <= goal):
            return True
        if incumbent.cost is not None and incumbent.cost <= floor:
            return True
        proof = pricing.certificate if pricing is not None else None
        if proof is None or incumbent.cost is None:
            return False
        cost = float(constant + incumbent.cost)
        return cost - proof["lower_bound"] <= gap_limit * cost

    clock.stop = close_enough
    steps = 0
    if problem.n:
        pool, steps = make_starts(problem, initial, start, clock, Key(run=seed), path)
        for order in pool:
            incumbent(order, problem.cost(order))
    else:
        incumbent(np.zeros(0, np.int64), jobs.p.dtype.type(0))
    begun, prepared = incumbent.trace[-1][1], clock.elapsed
    if bound and problem.n and not close_enough():
        pricing = Pricing(jobs, fixed, moment, incumbent, lambda: clock.left <= 0.02 or stop())
        pricing.start()
    key = Key(run=seed)
    if problem.n and search != "none" and not clock.over:
        if problem.n <= SMALL and search != "descent":
            if online not in ("auto", "off"):
                more, used = learned_orders(problem, pool, clock, key, online, learn, path)
                steps, pool = steps + used, [*pool[:1], *more, *pool[1:]]
            iterated(problem, pool, clock, incumbent, key, span=span, goal=None if goal is None else goal - constant)
        else:
            descent(problem, incumbent.order, clock, incumbent, span=span)
            if start == "auto":
                priced_search(jobs, problem, constant, moment, clock, incumbent, span)
            # The network reads the rules' plans and cannot be interrupted: it needs several times what those took.
            if online != "off" and learned and clock.left > 8 * prepared and not clock.over:
                steps += learned_search(problem, pool, clock, incumbent, key, online, learn, path, span)
            if search != "descent":
                windows(problem, incumbent.order, clock, incumbent, key)
    if pricing is not None:
        while pricing.is_alive() and not (stop() or clock.left <= -0.15):
            pricing.join(0.02)
            if iterations is None and close_enough():
                break
    sequence = problem.sequence(incumbent.order)
    began, ended = timetable(jobs, sequence, now=moment, head=len(fixed))
    cost = jobs.costs(ended).sum()
    certificate = pricing.certificate if pricing is not None else None
    least = 0 if certificate is None else certificate["lower_bound"]
    least = max(least, (constant + floor).item())
    status = "optimal" if least >= cost * (1 if jobs.whole else 1 - 1e-9) else "feasible"
    solution = Solution(
        jobs, cost.item(), min(least, cost.item()), status, clock.elapsed, warmup, sequence, began, ended, certificate,
        incumbent.trace, begun, clock.kicks, steps,
    )  # fmt: skip
    if prove and not fixed and now is None:
        from onlyforward.schedule.bridge import prove as close

        solution = close(solution, time_limit)
    return solution


def priced_search(
    jobs: Jobs, problem: Problem, constant: Any, now: Any, clock: Clock, incumbent: Incumbent, span: int | None
) -> None:
    """Rounds of priced starts, each descended, from the newest incumbent, until a round brings nothing."""
    from onlyforward.schedule.priced import priced_orders
    from onlyforward.schedule.search import descent

    for _ in range(ROUNDS):
        before = incumbent.cost
        until = clock.left / 2

        def over(until: float = until) -> bool:
            return bool(clock.over or clock.left < until)

        orders = priced_orders(jobs, problem, incumbent.order, constant + before, now, over)
        for order in orders:
            descent(problem, order, clock, incumbent, span=span)
            if clock.over:
                return
        if incumbent.cost >= before:
            return


def learned_start_pays(problem: Problem) -> bool:
    """Beyond 200 jobs without releases, where a gradient start was measured to help."""
    return 200 < problem.n <= 2000 and not problem.released


def learned_orders(
    problem: Problem, pool: list[np.ndarray], clock: Clock, key: Key, online: str, learn: str, path: Path | None
) -> tuple[list[np.ndarray], int]:
    """Learned orders of all starts, and the optimiser steps they took."""
    from onlyforward.schedule.online import learned_starts

    method = "surrogate" if online == "auto" else online
    network = start_network(problem, path)
    first = None if network is None else network.orders(problem)[0]
    found = learned_starts(problem, pool, clock, key, method=method, form=learn, network=network, first=first)
    orders, steps = [], 0
    for _, order, used in found:
        orders.append(order)
        steps += used
    return orders, steps


def learned_search(
    problem: Problem, pool: list[np.ndarray], clock: Clock, incumbent: Incumbent, key: Key, online: str, learn: str,
    path: Path | None, span: int | None,
) -> int:  # fmt: skip
    """The network's best order and the learned starts, each descended; optimiser steps."""
    from onlyforward.schedule.online import learned_starts
    from onlyforward.schedule.search import descent

    network, steps, first = start_network(problem, path), 0, None
    if network is not None:
        first = network.orders(problem)[0]
        incumbent(first, problem.cost(first))
        descent(problem, first, clock, incumbent, span=span)
    method = "surrogate" if online == "auto" else online
    found = learned_starts(problem, pool, clock, key, method=method, form=learn, network=network, first=first)
    for _, order, used in found:
        steps += used
        incumbent(order, problem.cost(order))
        descent(problem, order, clock, incumbent, span=span)
    return steps


def start_network(problem: Problem, path: Path | None) -> Network | None:
    """The shipped network or the one named; None beyond its size, or where none is shipped."""
    from onlyforward.schedule.network import LIMIT, SHIPPED, load_network

    return load_network(path) if problem.n <= LIMIT and (path is not None or SHIPPED.exists()) else None


def make_starts(
    problem: Problem, initial: Sequence[int] | None, start: str, clock: Clock, key: Key, path: Path | None
) -> tuple[list[np.ndarray], int]:
    """Orders to begin with, best first, and optimiser steps; a given plan comes before all others."""
    steps = 0
    if start == "edd":
        found = [rules.edd(problem)]
    elif start == "network":
        network = start_network(problem, path)
        if network is None:
            raise UsageError(f"There is no start network for {problem.n} jobs", "Use --start rules, or fewer jobs")
        found = network.orders(problem)
    elif start == "surrogate":
        from onlyforward.schedule.online import COLD, Plan, learn

        order, steps = learn(problem, rules.edd(problem), Plan(sigma=COLD), clock, key.at(site="start"))
        found = [order]
    else:
        found = [order for _, order in rules.starts(problem, quick=problem.n > 200)]
    if initial is not None:
        found.insert(0, completed(problem, initial))
    return found, steps


def completed(problem: Problem, initial: Sequence[int]) -> np.ndarray:
    """A given plan's order of the free jobs; those it lacks are inserted where they cost least, earliest due first."""
    place = {int(j): i for i, j in enumerate(problem.index)}
    order = [place[int(j)] for j in initial if int(j) in place]
    there = set(order)
    for i in rules.edd(problem):
        if int(i) not in there:
            trials = [[*order[:at], int(i), *order[at:]] for at in range(len(order) + 1)]
            order = min(trials, key=lambda trial: problem.cost(np.array(trial)))
    return np.array(order, np.int64)


solve_schedule = solve
"""The name under which `import onlyforward as of` offers it: `of.solve_schedule`."""
