"""Training instances of the network: special ones with a proven optimum, random ones with a searched order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from onlyforward.core.keys import Key
from onlyforward.schedule import rules, special
from onlyforward.schedule.compiled import engine
from onlyforward.schedule.features import Features, make_features
from onlyforward.schedule.generate import releases, weighted_tardiness
from onlyforward.schedule.jobs import Jobs
from onlyforward.schedule.problem import Problem, make_problem
from onlyforward.schedule.search import arrays
from onlyforward.schedule.surrogate import Terms, make_terms

TOKENS = 384
"""Jobs per step, over all instances of a batch."""
OTHERS = ("weighted-completion", "weighted-tardy-jobs", "late-work", "quadratic-tardiness")


@dataclass(frozen=True, eq=False)
class Lesson:
    """One instance with its label.

    Attributes:
        problem: the instance.
        features: network inputs.
        terms: for the surrogate.
        target: [n], start of each job as a share of the horizon.
        cost: of the label.
        unit: a cost below which differences do not matter: a hundredth of the earliest-due-date order's.
    """

    problem: Problem
    features: Features
    terms: Terms
    target: Tensor
    cost: float
    unit: float


def random_jobs(n: int, key: Key) -> Jobs:
    """Weighted tardiness in half of the cases, otherwise other families or releases."""
    draw = key.at(site=f"{key.site} kind").numpy()
    kind = draw.random()
    if kind < 0.2:
        return releases(n, key)
    jobs = weighted_tardiness(n, key, tightness=draw.uniform(0.1, 1.0), spread=draw.uniform(0.1, 1.0))
    return jobs if kind < 0.7 else jobs.with_cost(OTHERS[draw.integers(len(OTHERS))])


def searched(problem: Problem, key: Key, kicks: int) -> np.ndarray:
    """A good order in milliseconds: dispatching, descent, a few kicks."""
    kernels, _ = engine()
    order = min((rules.atc(problem, k) for k in (0.5, 2.0, 5.0)), key=problem.cost)
    order = min(order, rules.edd(problem), key=problem.cost)
    spans = np.array([problem.n, problem.n]) if not problem.released else np.array([30, 30])
    kernels.descend(order, *arrays(problem), problem.released or None, *spans, 10_000)
    best = order.copy()
    cost = problem.cost(order)
    draw = key.at(site=f"{key.site} kicks").numpy()
    kernels.iterate(
        order, best, np.array([cost, cost]), np.zeros(2, np.int64), *arrays(problem), problem.released or None, spans,
        draw.random((kicks, 10, 2)), draw.integers(6, 11, kicks), 50, problem.p.dtype.type(0),
    )  # fmt: skip
    return best


def make_lesson(problem: Problem, order: np.ndarray, windows: int) -> Lesson:
    """Features and targets of one labelled instance."""
    span = float(problem.horizon - problem.start)
    target = np.empty(problem.n)
    target[order] = (problem.completion(order) - problem.p[order] - float(problem.start)) / span
    unit = max(0.01 * float(problem.cost(rules.edd(problem))), 1e-9)
    return Lesson(
        problem, make_features(problem, windows), make_terms(problem), torch.tensor(target, dtype=torch.float32),
        float(problem.cost(order)), unit,
    )  # fmt: skip


def special_lesson(n: int, key: Key, windows: int) -> Lesson:
    """An instance whose optimum is proven by construction."""
    pick = int(key.at(site=f"{key.site} special").numpy().integers(4))
    make = (special.tardiness, special.any_cost, special.with_releases, special.blocks)[pick]
    jobs, _, sequence = make(min(n, 60) if make is special.any_cost else n, key)
    problem = make_problem(jobs)
    place = {int(j): i for i, j in enumerate(problem.index)}
    order = np.array([place[int(j)] for j in sequence if int(j) in place], np.int64)
    return make_lesson(problem, order, windows)


def lessons(key: Key, *, n_max: int, windows: int, labels: tuple[str, ...]) -> list[Lesson]:
    """One step's batch: instances of about equal size, half special and half searched."""
    draw = key.numpy()
    n = int(np.exp(draw.uniform(np.log(8), np.log(n_max + 1))))
    found = []
    for i in range(max(2, min(16, TOKENS // n))):
        here = key.at(site=f"{key.site} lesson", copy=i)
        if "special" in labels and ("search" not in labels or i % 2):
            lesson = special_lesson(n, here, windows)
        else:
            problem = make_problem(random_jobs(n, here))
            if problem.n < 4:
                continue
            lesson = make_lesson(problem, searched(problem, here, 20 if n <= 60 else 2), windows)
        if lesson.problem.n >= 4:
            found.append(lesson)
    return found


def validation(windows: int, count: int = 200) -> list[Lesson]:
    """Weighted-tardiness instances of 50 to 100 jobs, of a run that no training uses, with iterated search."""
    found = []
    for i in range(count):
        key = Key(run=-1, site="validation", step=i)
        problem = make_problem(weighted_tardiness(50 + i % 51, key))
        found.append(make_lesson(problem, searched(problem, key, 60), windows))
    return found
