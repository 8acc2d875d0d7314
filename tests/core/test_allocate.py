import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from onlyforward.core.allocate import Features, Neyman, Uniform
from onlyforward.core.allocate.plan import make_plan
from onlyforward.core.errors import UsageError


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=40), st.integers(0, 500), st.integers(0, 3))
def test_counts_sum_to_the_budget_and_keep_the_minimum(shares, extra, n_min):
    budget = len(shares) * n_min + extra
    plan = make_plan(torch.tensor(shares), budget, n_min=n_min)
    assert int(plan.counts.sum()) == budget == len(plan.index)
    assert int(plan.counts.min()) >= n_min


def test_neyman_counts_are_the_known_optimum():
    plan = Neyman(floor=0.0).plan(100, Features(residual=torch.tensor([1.0, 2.0, 3.0, 4.0])))
    assert plan.counts.tolist() == [10, 20, 30, 40]
    assert plan.expected_gain == pytest.approx(4 * 30 / 100)


def test_costs_enter_by_their_square_root():
    plan = Neyman(floor=0.0).plan(90, Features(residual=torch.ones(2) * 2, cost=torch.tensor([1.0, 4.0])))
    assert plan.counts.tolist() in ([60, 30], [45, 45])


def test_history_remembers_items_by_id_and_new_ids_take_the_mean():
    allocator = Neyman("history", floor=0.0, min_gain=1.0)
    allocator.observe([7, 8], torch.tensor([1.0, 3.0]))
    plan = allocator.plan(60, Features(ids=torch.tensor([7, 8, 9])))
    assert plan.counts.tolist() == [10, 30, 20]


def test_small_gains_and_small_budgets():
    nearly_equal = torch.tensor([1.0, 1.01])
    assert Neyman().plan(11, Features(residual=nearly_equal)).counts.tolist() == [6, 5]
    with pytest.raises(UsageError, match="at least 2"):
        Uniform().plan(1, Features(loss=torch.ones(2)))
