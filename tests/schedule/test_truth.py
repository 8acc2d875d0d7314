"""Everything against brute force: costs, search, bound, certificates, special instances."""

import itertools

import numpy as np
import pytest

from onlyforward.core.errors import UsageError
from onlyforward.core.keys import Key
from onlyforward.schedule import kernels, special
from onlyforward.schedule.certificate import check_certificate, seal
from onlyforward.schedule.cost import FAMILIES, Piecewise, Table
from onlyforward.schedule.dual import bound
from onlyforward.schedule.jobs import Jobs, total_cost
from onlyforward.schedule.pipeline import solve
from onlyforward.schedule.problem import make_problem
from onlyforward.schedule.search import arrays

PLAIN = {
    "weighted-completion": lambda p, w, d, c: w * c,
    "weighted-tardiness": lambda p, w, d, c: w * max(c - d, 0),
    "total-tardiness": lambda p, w, d, c: max(c - d, 0),
    "weighted-tardy-jobs": lambda p, w, d, c: w * (c > d),
    "late-work": lambda p, w, d, c: w * min(max(c - d, 0), p),
    "quadratic-tardiness": lambda p, w, d, c: w * max(c - d, 0) ** 2,
}


def draw(rng, n, family, released):
    p, w, d = rng.integers(1, 12, n), rng.integers(0, 6, n), rng.integers(0, 6 * n, n)
    r = rng.integers(0, 4 * n, n) if released else np.zeros(n, int)
    if family == "table":
        ends = np.arange(4, 20 * n, 4)
        return Jobs(p, r=r, cost=Table(np.cumsum(rng.integers(0, 9, (n, len(ends))), 1), ends))
    if family == "piecewise":
        knots = np.sort(rng.choice(np.arange(1, 10 * n), (n, 3)), 1)
        knots[:, 1:] += np.arange(1, 3)
        coef = rng.integers(0, 4, (n, 3, 3))
        for k in range(1, 3):
            x = knots[:, k] - knots[:, k - 1]
            end = coef[:, k - 1, 0] + x * (coef[:, k - 1, 1] + x * coef[:, k - 1, 2])
            coef[:, k, 0] = end + rng.integers(0, 9, n)
        return Jobs(p, r=r, cost=Piecewise(knots, coef))
    return Jobs(p, r=r, weight=w, due=d, cost=family)


def optimum(jobs):
    def price(order):
        t, total = 0, 0
        for j in order:
            t = max(t, int(jobs.r[j])) + int(jobs.p[j])
            total += int(table[t, j])
        return total

    last = int(jobs.horizon) + 1
    table = np.array([jobs.costs(np.full(jobs.n, t)) for t in range(last)])
    return min(price(order) for order in itertools.permutations(range(jobs.n)))


@pytest.mark.parametrize("family", list(PLAIN))
def test_every_family_equals_its_formula(family):
    rng = np.random.default_rng(1)
    p, w, d = rng.integers(1, 20, 50), rng.integers(0, 9, 50), rng.integers(-5, 60, 50)
    jobs = Jobs(p, weight=w, due=d, cost=family)
    for c in (1, 7, 19, 20, 21, 60, 200):
        expected = [PLAIN[family](int(p[j]), int(w[j]), int(d[j]), c) for j in range(50)]
        assert jobs.costs(np.full(50, c)).tolist() == expected


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize("family", [*FAMILIES, "table", "piecewise"])
def test_search_reaches_and_the_bound_never_passes_the_optimum_of_all_orders(family, released):
    rng = np.random.default_rng(sum(map(ord, family)) + released)
    for n in (1, 2, 4, 6, 6):
        jobs = draw(rng, n, family, released)
        best = optimum(jobs)
        found = solve(jobs, time_limit=2, iterations=150, bound=False)
        assert found.objective == best == total_cost(jobs, found.sequence)
        proof = bound(jobs, found.sequence, time_limit=0.1)
        assert check_certificate(jobs, proof) == proof["lower_bound"] <= best


def test_bound_is_at_most_the_optimum_for_random_prices():
    rng = np.random.default_rng(5)
    from onlyforward.schedule.dual import make_dual

    for family in ("weighted-tardiness", "quadratic-tardiness", "table"):
        jobs = draw(rng, 6, family, True)
        best = optimum(jobs)
        dual = make_dual(jobs, np.arange(6))
        for _ in range(150):
            assert dual.settle(rng.exponential(rng.exponential(3), len(dual.width)))["lower_bound"] <= best


def test_certificate_with_any_number_changed_is_rejected():
    jobs = draw(np.random.default_rng(2), 12, "weighted-tardiness", False)
    jobs = Jobs(jobs.p, weight=jobs.weight + 1, due=jobs.due // 3)
    proof = bound(jobs, time_limit=0.3)
    assert check_certificate(jobs, proof) > 0
    busy = int(np.argmax(proof["prices"]))
    changes = [
        {"lower_bound": proof["lower_bound"] + 1},
        {"lower_bound": proof["lower_bound"] - 1},
        {"hash": "0" * 64},
        {"prices": [price + (k == busy) for k, price in enumerate(proof["prices"])]},
        {"edges": [edge + (k == busy) for k, edge in enumerate(proof["edges"])]},
        {"edges": [proof["edges"][0] + 1, *proof["edges"][1:]]},
        {"prices": [-1, *proof["prices"][1:]]},
        {"scale": 512},
    ]
    for change in changes:
        with pytest.raises(UsageError):
            check_certificate(jobs, {**proof, **change})
    # A forger who also renews the seal is caught by what the prices prove.
    for change in changes[:2]:
        forged = {**proof, **change}
        with pytest.raises(UsageError, match="claims"):
            check_certificate(jobs, {**forged, "seal": seal(forged)})


@pytest.mark.parametrize("released", [False, True])
def test_one_pass_finds_the_best_set_of_independent_moves(released):
    rng = np.random.default_rng(9)
    for _ in range(60):
        jobs = draw(rng, 6, "weighted-tardiness", released)
        problem = make_problem(jobs)
        n = problem.n
        if n < 3:
            continue
        order = rng.permutation(n)
        before = problem.cost(order)

        def one(order, i, k, what):
            moved = order.copy()
            kernels.move.py_func(moved, i, k, what)
            return moved

        best = {0: 0}
        for k in range(n):
            best[k + 1] = min(
                [best[k]]
                + [best[i] + problem.cost(one(order, i, k, what)) - before for i in range(k) for what in (1, 2, 3)]
            )
        after = order.copy()
        step = kernels.improve_released if problem.released else kernels.improve
        gain = step(after, *arrays(problem), n, n)
        assert gain == problem.cost(after) - before if gain < 0 else best[n] == 0
        if not problem.released:
            assert gain == best[n]


def test_special_instances_are_optimal():
    for step in range(25):
        for make in (special.tardiness, special.any_cost, special.blocks):
            jobs, value, sequence = make(6, Key(3, step=step, site=make.__name__))
            assert total_cost(jobs, sequence) == value == optimum(jobs), (make.__name__, step)
