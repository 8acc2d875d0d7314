"""Compile the kernels before the clock starts: `warmup_seconds`, outside the time limit and never hidden."""

from __future__ import annotations

import time
from importlib import import_module

import numpy as np

from onlyforward.core.keys import Key
from onlyforward.schedule import search
from onlyforward.schedule.compiled import COMPILED, engine
from onlyforward.schedule.jobs import Jobs
from onlyforward.schedule.problem import Problem, make_problem

warmed: dict[tuple[str, int, bool, bool, bool], float] = {}
"""Kinds of numbers and kernels that this process has compiled -> seconds."""


def warm(jobs: Jobs, problem: Problem, *, bound: bool, learned: bool) -> float:
    """Compile (or load) the kernels on three jobs, once per process and kind of numbers; seconds.

    Args:
        jobs: the instance.
        problem: its free jobs.
        bound: also the kernels of the certificate.
        learned: also import torch.
    """
    large = jobs.n > search.SMALL
    shape = (jobs.arithmetic, problem.released, bound, large, learned)
    if shape in warmed:
        return 0.0
    began = time.perf_counter()
    if learned:
        learn_little()
    if COMPILED:
        compile_all(jobs, problem, bound=bound, large=large)
    warmed[shape] = time.perf_counter() - began
    return warmed[shape]


def learn_little() -> float:
    """Two steps of online learning on three jobs, so that torch and its optimiser are loaded; seconds."""
    began = time.perf_counter()
    from onlyforward.schedule.network import Network
    from onlyforward.schedule.online import Plan, learn

    few = make_problem(Jobs([1, 2, 3], due=[1, 1, 1]))
    learn(few, np.arange(3), Plan(steps=2), search.Clock(60.0), Key())
    Network(8).orders(few)
    return time.perf_counter() - began


def compile_all(jobs: Jobs, problem: Problem, *, bound: bool, large: bool) -> None:
    """Call every kernel that the solve will use."""
    kernels, wide = engine()
    few = Jobs(np.ones(3, jobs.p.dtype) * 2, due=np.ones(3, jobs.p.dtype), weight=np.ones(3, jobs.p.dtype) * 1)
    if not jobs.whole:
        few = Jobs(np.array([2.5, 1.0, 1.0]), due=np.ones(3))
    small = make_problem(few)
    order = np.arange(3)
    values = search.arrays(small)
    kernels.descend(order, *values, problem.released or None, 3, 3, 1)
    cost = small.cost(order)
    kernels.iterate(
        order, order.copy(), np.array([cost, cost]), np.zeros(2, np.int64), *values, problem.released or None,
        np.array([3, 3]), np.zeros((1, 10, 2)), np.array([6]), 5, small.p.dtype.type(-1),
    )  # fmt: skip
    kernels.total(order, *values)
    if bound or large:
        from onlyforward.schedule.dual import ascend, make_dual
        from onlyforward.schedule.pricing import smoothed, soft_starts

        dual = make_dual(few, np.arange(3))
        ascend(dual, np.arange(3), 10.0, lambda: dual.iterations > 4)
        dual.certificate()
        import_module("scipy.optimize")
        edges, end = dual.edges.astype(float), float(dual.horizon)
        smoothed(*dual.floats, edges, dual.width, end, 1.0, dual.width.copy())
        if large:
            soft_starts(*dual.floats, edges, dual.width, end, 1.0, np.array([0.5]), np.empty((2, 3)))
            if jobs.whole and not problem.released:
                wide.improve_wide(order, *values, 2, np.zeros((4, 5), np.int64))
