"""The laws of an oracle. Each begins its AssertionError with the law's name."""

from __future__ import annotations

import torch
from torch import Tensor

from onlyforward.core.errors import BudgetSpent
from onlyforward.run.oracle import Oracle


def check_oracle(oracle: Oracle, rows: Tensor, *, tolerance: float = 1e-5) -> None:
    """Asked again, alone or with others it answers the same; every distinct row is counted; a budget holds.

    Args:
        oracle: answers numbers; about 3 n + 1 rows are asked of it.
        rows: [n, ...], at least two, all different.
        tolerance: largest difference between two answers to the same row; batched arithmetic rounds differently.

    Raises:
        AssertionError: naming the law that is broken.
    """
    n = len(rows)
    assert n >= 2, "rows: give at least two"
    before = oracle.account.queries
    together = oracle(rows)
    assert together.shape[0] == n, f"shape: {tuple(together.shape)} answers to {n} rows"
    assert together.dtype == torch.float64, f"shape: answers have dtype {together.dtype}"
    assert oracle.account.queries - before == n, f"frugal: {oracle.account.queries - before} queries counted for {n}"
    again = oracle(rows.flip(0)).flip(0)
    assert float((again - together).abs().max()) <= tolerance, "pure: the same rows in another order answer otherwise"
    alone = torch.cat([oracle(row[None]) for row in rows])
    assert float((alone - together).abs().max()) <= tolerance, "alone: a row answers otherwise without the others"
    before = oracle.account.queries
    twice = oracle(rows[[0, 0]])
    assert oracle.account.queries - before == 1, "frugal: equal rows of one call are asked twice"
    assert torch.equal(twice[0], twice[1]), "frugal: equal rows of one call answer differently"
    before = oracle.account.queries
    try:
        oracle.limited(queries=n - 1)(rows)
    except BudgetSpent:
        assert oracle.account.queries - before <= n - 1, "budget: more was sent than allowed"
        return
    raise AssertionError("budget: more rows than the budget were answered")
