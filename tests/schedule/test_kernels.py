"""The compiled kernels against their numpy twin, bit for bit, and against full recomputation."""

import numpy as np
import pytest

from onlyforward.core.keys import Key
from onlyforward.schedule import kernels, kernels_plain, wide
from onlyforward.schedule.generate import releases, weighted_tardiness
from onlyforward.schedule.jobs import Jobs
from onlyforward.schedule.problem import make_problem
from onlyforward.schedule.search import arrays

FAMILIES = ("weighted-completion", "weighted-tardiness", "weighted-tardy-jobs", "late-work", "quadratic-tardiness")


def problem_of(n, step, *, released, family="weighted-tardiness", floats=False):
    key = Key(8, site="twin", step=step)
    jobs = (releases(n, key) if released else weighted_tardiness(n, key)).with_cost(family)
    if floats:
        jobs = Jobs(jobs.p + 0.25, r=jobs.r, weight=jobs.weight * 0.75, due=jobs.due, cost=family)
    return make_problem(jobs)


@pytest.mark.parametrize("floats", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_passes_without_releases_equal_the_numpy_twin_bit_for_bit(family, floats):
    for step in range(2):
        problem = problem_of(24, step, released=False, family=family, floats=floats)
        n = problem.n
        if n < 3 or problem.released:
            continue
        order = Key(9, step=step).numpy().permutation(n)
        for insertion, swap in ((n, n), (9, 5)):
            ours, twin = order.copy(), order.copy()
            for _ in range(30):
                gain = kernels.improve(ours, *arrays(problem), insertion, swap)
                assert gain == kernels_plain.improve(twin, *arrays(problem), insertion, swap)
                assert ours.tolist() == twin.tolist()
                if gain >= 0:
                    break


@pytest.mark.parametrize("family", FAMILIES)
def test_passes_with_releases_equal_the_numpy_twin_bit_for_bit(family):
    for step in range(3):
        problem = problem_of(14, step, released=True, family=family)
        ours = Key(9, step=step).numpy().permutation(problem.n)
        twin = ours.copy()
        for _ in range(4):
            gain = kernels.improve_released(ours, *arrays(problem), 10, 8)
            assert gain == kernels_plain.improve_released(twin, *arrays(problem), 10, 8)
            assert ours.tolist() == twin.tolist()
            if gain >= 0:
                break


def test_tabulated_passes_equal_the_numpy_twin_and_find_the_same_gain_as_plain_sums():
    problem = problem_of(40, 1, released=False)
    longest = int(problem.p.max())
    ours = Key(9).numpy().permutation(problem.n)
    twin, direct = ours.copy(), ours.copy()
    for _ in range(40):
        sums = np.zeros((2, problem.n + 1, 2 * longest + 1), np.int64)
        gain = wide.improve_wide(ours, *arrays(problem), longest, sums[0])
        assert gain == kernels_plain.improve_wide(twin, *arrays(problem), longest, sums[1])
        assert ours.tolist() == twin.tolist()
        assert gain == kernels.improve(direct, *arrays(problem), problem.n, problem.n)
        direct[:] = ours
        if gain >= 0:
            break
    assert gain == 0


@pytest.mark.parametrize("released", [False, True])
def test_iterated_search_equals_the_numpy_twin_kick_by_kick(released):
    problem = problem_of(12, 3, released=released)
    draw = Key(3, site="kicks").numpy()
    picks, sizes = draw.random((25, 10, 2)), draw.integers(6, 11, 25)
    found = []
    for module in (kernels, kernels_plain):
        current = np.arange(problem.n)
        best, cost = current.copy(), problem.cost(current)
        costs, counts = np.array([cost, cost]), np.zeros(2, np.int64)
        spans, goal = np.array([problem.n, problem.n]), np.int64(-1)
        rest = (problem.released, spans, picks, sizes, 10, goal)
        made = module.iterate(current, best, costs, counts, *arrays(problem), *rest)
        found.append((made, current.tolist(), best.tolist(), costs.tolist(), counts.tolist()))
    assert found[0] == found[1]


@pytest.mark.parametrize("released", [False, True])
def test_changes_of_ten_thousand_random_moves_equal_full_recomputation(released):
    problem = problem_of(30, 2, released=released)
    n = problem.n
    draw = Key(4, site="moves").numpy()
    order = draw.permutation(n)
    done, cost, save = (np.zeros(n, np.int64) for _ in range(3))
    saved, values = np.zeros(n + 1, np.int64), arrays(problem)
    start, p, r, knots, coef = values
    kernels.prepare(order, *values, done, cost, save, saved)
    before = problem.cost(order)
    for _ in range(10_000):
        i, k = sorted(draw.choice(n, 2, replace=False))
        what = int(draw.integers(1, 4))
        change = kernels.change(order, i, k, what, p, r, knots, coef, start, done, cost, saved, np.int64(2**60))
        trial = order.copy()
        kernels.move(trial, i, k, what)
        assert change == kernels.total(trial, *values) - before
