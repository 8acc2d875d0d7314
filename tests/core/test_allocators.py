"""Allocators: the optimum by brute force, gradients by autograd and enumeration, laws by hypothesis."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from onlyforward.core.allocate import BernoulliAllocator, Features, GaussianAllocator, Halving, Neyman, Uniform
from onlyforward.core.allocate.bernoulli import cost_gradient, spread_freed
from onlyforward.core.allocate.gaussian import TAU, floored, relative_cost
from onlyforward.core.allocate.learned import standardised
from onlyforward.core.errors import UsageError
from onlyforward.core.keys import Key

MAKERS = {
    "uniform": Uniform,
    "neyman": lambda: Neyman(floor=0.0, min_gain=1.0),
    "gaussian": GaussianAllocator,
    "bernoulli": BernoulliAllocator,
    "halving": Halving,
}
sizes = st.lists(st.floats(0, 1e3, width=32), min_size=1, max_size=20)


def test_neyman_is_close_to_the_best_of_all_integer_plans():
    size = torch.tensor([0.5, 1.0, 2.0, 4.5], dtype=torch.float64)
    best = min(
        float((size**2 / torch.tensor(counts, dtype=torch.float64)).sum())
        for counts in itertools.product(range(1, 14), repeat=4)
        if sum(counts) == 16
    )
    counts = Neyman(floor=0.0).plan(16, Features(residual=size)).counts
    assert float((size**2 / counts).sum()) <= best * 1.01


@settings(max_examples=50, deadline=None)
@given(sizes, st.integers(0, 200), st.sampled_from(sorted(MAKERS)))
def test_every_plan_spends_the_budget_exactly_and_runs_every_item(values, extra, name):
    size = torch.tensor(values, dtype=torch.float64)
    plan = MAKERS[name]().plan(len(values) + extra, Features(loss=size, residual=size, ids=torch.arange(len(values))))
    assert plan.counts.dtype == torch.int64
    assert int(plan.counts.sum()) == len(values) + extra == len(plan.index)
    assert int(plan.counts.min()) >= 1
    assert math.isfinite(plan.expected_gain)


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_the_order_of_the_batch_does_not_matter(name):
    size = torch.rand(12, generator=Key().generator(), dtype=torch.float64) + 0.1
    order = torch.randperm(12, generator=Key(run=1).generator())
    straight = MAKERS[name]().plan(240, Features(loss=size, residual=size)).counts
    moved = MAKERS[name]().plan(240, Features(loss=size[order], residual=size[order])).counts
    assert (moved - straight[order]).abs().max() <= 1  # ties of equal remainders go by index


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=20), st.floats(0.001, 1000))
def test_neyman_follows_the_noise_and_no_scale(values, scale):
    size = torch.tensor(values, dtype=torch.float64)
    allocator = Neyman()
    counts = allocator.plan(400, Features(residual=size)).counts
    assert bool((counts[size.argsort(stable=True)].diff() >= -1).all())
    scaled = allocator.plan(400, Features(residual=size * scale)).counts
    assert (scaled - counts).abs().max() <= 1


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "uniform"])
def test_an_infinite_loss_is_refused_by_name(name):
    infinite = torch.tensor([1.0, math.inf, 2.0])
    with pytest.raises(UsageError, match="of item 1 is infinite"):
        MAKERS[name]().plan(9, Features(loss=infinite, residual=infinite))


def test_scores_of_the_gaussian_process_are_those_of_autograd():
    level = standardised(torch.tensor([0.3, 1.2, -0.4, 2.2, 0.9], dtype=torch.float64))
    allocator = GaussianAllocator(parameters={"a": 0.3, "b": -0.6, "log_nu": -0.7, "log_ell": 0.2})
    drawn = torch.randn(3, 5, generator=Key().generator(), dtype=torch.float64)
    found = allocator.scores(level, drawn, allocator.distribution(level)[1])
    for row in range(3):
        leaves = {n: torch.tensor(v, dtype=torch.float64, requires_grad=True) for n, v in allocator.parameters.items()}
        distance = (level[:, None] - level[None]) ** 2 / torch.exp(leaves["log_ell"]) ** 2
        covariance = torch.exp(leaves["log_nu"]) * torch.exp(-distance / 2) + TAU * torch.eye(5, dtype=torch.float64)
        mean = leaves["a"] + leaves["b"] * level
        torch.distributions.MultivariateNormal(mean, covariance).log_prob(drawn[row]).backward()
        for name, leaf in leaves.items():
            assert float(found[name][row]) == pytest.approx(float(leaf.grad), rel=1e-8, abs=1e-8)


def test_the_bernoulli_gradient_is_that_of_the_enumerated_cost():
    level = torch.tensor([-1.0, 0.2, 1.1], dtype=torch.float64)
    size = torch.tensor([0.4, 1.0, 2.0], dtype=torch.float64)
    offered, budget, n_min = 3, 6, 1
    w = torch.tensor([0.2, 0.5], dtype=torch.float64, requires_grad=True)
    p = torch.sigmoid(w[0] + w[1] * level)
    total, score = torch.zeros((), dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    for kept in itertools.product(range(offered + 1), repeat=3):
        k = torch.tensor([kept], dtype=torch.float64)
        ways = torch.tensor([math.comb(offered, i) for i in kept], dtype=torch.float64)
        chance = (ways * p ** k[0] * (1 - p) ** (offered - k[0])).prod()
        counts, freed = spread_freed(k, p, budget)
        counts = floored(counts / budget, budget, n_min) * budget
        cost = relative_cost(size, counts)
        total = total + chance * cost[0]
        with torch.no_grad():
            # Two equal draws have the same cost: only the path through p is left, the score is added by hand.
            twice = [t.expand(2, *t.shape[1:]) for t in (k, counts, cost, freed)]
            path = cost_gradient(level, size, p, twice[0], twice[1], twice[2], twice[3], offered, budget, n_min)
            own = k[0] - offered * p
            score += chance * (torch.tensor(path) + cost[0] * torch.stack([own.sum(), (own * level).sum()]))
    total.backward()
    assert torch.allclose(score, w.grad, rtol=1e-8)


@pytest.mark.parametrize("maker", [GaussianAllocator, BernoulliAllocator])
def test_a_learned_allocator_learns_and_continues_from_its_state(maker):
    generator = Key().generator()
    allocator, first, last = maker(), [], []
    for step in range(200):
        loss = torch.rand(32, generator=generator, dtype=torch.float64) ** 4 * 5
        plan = allocator.plan(32 * 20, Features(loss=loss, residual=loss + 0.02))
        (first if step < 20 else last).append(plan.expected_gain)
        if step == 100:
            copied = maker()
            copied.load_state(allocator.state())
    assert sum(last[-20:]) / 20 > sum(first) / 20 * 1.2
    fresh = maker()
    assert allocator.state() != fresh.state()
    loss = torch.rand(32, generator=Key(run=3).generator(), dtype=torch.float64)
    twin = maker()
    twin.load_state(copied.state())
    expected = copied.plan(640, Features(loss=loss, residual=loss))
    assert twin.plan(640, Features(loss=loss, residual=loss)).counts.tolist() == expected.counts.tolist()


def test_frozen_parameters_stay_and_unknown_ones_are_refused():
    allocator = GaussianAllocator(frozen=("b", "log_ell"))
    loss = torch.rand(16, generator=Key().generator(), dtype=torch.float64)
    allocator.plan(320, Features(loss=loss, residual=loss))
    assert allocator.parameters["b"] == 0.0 == allocator.parameters["log_ell"]
    assert allocator.parameters["a"] != 0.0
    with pytest.raises(UsageError, match="no parameter 'c'"):
        GaussianAllocator(frozen=("c",))
