"""The laws of an allocation. Each function raises AssertionError that begins with the law's name."""

from __future__ import annotations

from typing import Any

import torch

from onlyforward.core.allocate.neyman import Neyman
from onlyforward.core.allocate.plan import Features
from onlyforward.core.errors import UsageError
from onlyforward.testing.problems import fixed


def check_allocation(allocation: Any, *, proportional: bool | None = None) -> None:
    """Sum, bounds, monotone, blank, optimal; `proportional`: whether counts follow the proxy (default: Neyman)."""
    follows = isinstance(allocation, Neyman) if proportional is None else proportional
    for budget in (20, 57, 200):
        spread = fixed(20, seed=budget).abs() + 0.01
        plan = allocation.plan(budget, Features(loss=spread, residual=spread, ids=torch.arange(20)))
        assert int(plan.counts.sum()) == budget, f"sum: {int(plan.counts.sum())} runs planned of {budget}"
        assert int(plan.counts.min()) >= 1, "bounds: an item is not run at all"
        weights = torch.zeros(20, dtype=torch.float64).index_add(0, plan.index, plan.weight.double())
        assert torch.allclose(weights, torch.full((20,), 1 / 20, dtype=torch.float64)), (
            "unbiased: an item's weight is off"
        )
        if follows:
            order = spread.argsort()
            assert bool((plan.counts[order].diff() >= -1).all()), "monotone: a noisier item gets fewer runs"
    for blank in (torch.zeros(5), torch.full((5,), torch.nan)):
        plan = allocation.plan(10, Features(loss=blank, residual=blank))
        assert plan.counts.tolist() == [2] * 5, "blank: features that say nothing do not give the uniform plan"
    if follows:
        check_optimal(allocation)
    try:
        allocation.plan(3, Features(loss=torch.ones(5), residual=torch.ones(5)))
    except UsageError:
        return
    raise AssertionError("bounds: a budget below one run an item was accepted")


def check_optimal(allocation: Any) -> None:
    """Optimal: moving one run from any item to any other does not lower sum S^2 / n by more than rounding."""
    proxy = torch.tensor([1.0, 2.0, 3.0, 6.0], dtype=torch.float64)
    counts = allocation.plan(1200, Features(loss=proxy, residual=proxy)).counts.double()
    spread = proxy.sqrt() if allocation.proxy == "sqrt-loss" else proxy
    cost = float((spread**2 / counts).sum())
    best = float(spread.sum() ** 2 / 1200)
    assert cost <= best * 1.001, f"optimal: the planned variance is {cost / best:.4f} of the optimum"
