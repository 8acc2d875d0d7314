"""Any cost of a sequence: setups, calendars, a simulator. The jobs' own cost guides, the black box decides.

The likelihood-ratio gradient asks the black box for the cost of whole orders and uses the surrogate of the jobs' own
cost as control variate (`ratio.likelihood_ratio`); every order is asked once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from onlyforward.core.keys import Key
from onlyforward.run.oracle import Oracle
from onlyforward.schedule.jobs import Jobs, timetable
from onlyforward.schedule.online import COLD, WARM, Plan, learn
from onlyforward.schedule.pipeline import solve
from onlyforward.schedule.problem import make_problem
from onlyforward.schedule.search import Clock
from onlyforward.schedule.solution import Incumbent, Solution
from onlyforward.schedule.warm import learn_little

SHARE = 0.3
"""Of the time, for the search under the jobs' own cost."""


def solve_black_box(
    jobs: Jobs,
    evaluate: Callable[[np.ndarray], float],
    *,
    time_limit: float,
    iterations: int | None,
    seed: int,
    method: str,
    form: str,
    initial: Sequence[int] | None,
    fixed: Sequence[int],
    now: Any,
    callback: Callable[[float, Any], None] | None,
    stop: Callable[[], bool],
) -> Solution:
    """Search under the jobs' own cost, then learn and improve by adjacent swaps under the black box.

    Args:
        jobs: the instance; its cost is the guide.
        evaluate: sequence [n] of job numbers -> cost.
        time_limit: seconds.
        iterations: orders that the last stage tries; with it the clock decides nothing.
        seed: run coordinate of the random numbers.
        method: of the gradient (auto: control).
        form: what is learned.
        initial: a plan to begin with.
        fixed: frozen head.
        now: nothing else starts earlier.
        callback: called with (seconds, cost) for every incumbent.
        stop: asked now and then.
    """
    warmup = learn_little()
    guide = solve(
        jobs, time_limit=SHARE * time_limit, iterations=iterations, seed=seed, initial=initial, fixed=fixed, now=now,
        bound=False, online="off", stop=stop,
    )  # fmt: skip
    clock = Clock(time_limit - guide.runtime if iterations is None else float("inf"), iterations)
    clock.stop = stop
    moment = jobs.p.dtype.type(0) if now is None else jobs.p.dtype.type(now)
    problem = make_problem(jobs, fixed=fixed, now=moment)
    oracle = Oracle(
        lambda rows: torch.tensor([float(evaluate(row)) for row in rows.numpy()], dtype=torch.float64), batch=1
    )
    known: dict[bytes, float] = {}

    def price(order: np.ndarray) -> float:
        mark = order.tobytes()
        if mark not in known:
            known[mark] = float(oracle(torch.from_numpy(problem.sequence(order))[None])[0])
        return known[mark]

    incumbent = Incumbent(problem, np.float64(0), callback, clock)
    place = {int(j): i for i, j in enumerate(problem.index)}
    start = np.array([place[int(j)] for j in guide.sequence if int(j) in place], np.int64)
    incumbent(start, np.float64(price(start)))
    begun, key = incumbent.trace[0][1], Key(run=seed, site="black box")
    steps = 0
    chosen = "control" if method in ("auto", "off") else method
    for number, sigma in enumerate((WARM, COLD)):
        plan = Plan(method=chosen, form="locations" if form == "weights" else form, sigma=sigma)
        half = Clock(clock.left / 2, stop=stop)
        order, made = learn(problem, incumbent.order, plan, half, key.at(step=number), price=price)
        steps += made
        incumbent(order, np.float64(price(order)))
        if clock.over:
            break
    improve(problem.n, incumbent, price, clock, key)
    sequence = problem.sequence(incumbent.order)
    began, ended = timetable(jobs, sequence, now=moment, head=len(fixed))
    return Solution(
        jobs, incumbent.cost.item(), 0, "feasible", clock.elapsed + guide.runtime, guide.warmup + warmup, sequence,
        began, ended, None, incumbent.trace, begun, clock.kicks, steps,
    )  # fmt: skip


def improve(n: int, incumbent: Incumbent, price: Callable[[np.ndarray], float], clock: Clock, key: Key) -> None:
    """Random insertions over short distances, kept where the black box is not worse, until the time is over."""
    step = 0
    while not clock.over and n > 1:
        draw = key.at(site="insertions", step=step).numpy()
        for i, shift in zip(draw.integers(0, n, 64), draw.integers(1, 9, 64) * draw.choice([-1, 1], 64), strict=True):
            if clock.over:
                return
            order = incumbent.order
            moved = np.insert(np.delete(order, i), int(np.clip(i + shift, 0, n - 1)), order[i])
            clock.kicks += 1
            incumbent(moved, np.float64(price(moved)))
        step += 1
