"""The gradient of a mean loss over data from runs that an allocator divides: every run has noise of its own.

G = (1/B) sum_i (1/n_i) sum_j coef_ij eps_ij, coef_ij = (L_i(theta + sigma eps_ij) - l_i) / sigma. Unbiased for the
smoothed loss at any counts n_i >= 1 fixed before the draws; tr Cov G = (1/B^2) sum S_i^2 / n_i (arXiv 2410.05966).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from onlyforward.core.allocate.plan import Plan
from onlyforward.core.keys import Key
from onlyforward.tune.scores import Objective

CHUNK = 4096
"""Most rows that are built at once."""


@dataclass(frozen=True)
class Gradient:
    """One estimate.

    Attributes:
        value: [k], float64.
        rms: [b], root-mean-square coefficient of each datum, for allocators with a history.
        rows: queries it took.
    """

    value: Tensor
    rms: Tensor
    rows: int


def estimate(
    ask: Callable[[Tensor, Tensor], Tensor],
    objective: Objective,
    theta: Tensor,
    plan: Plan,
    *,
    sigma: float,
    key: Key,
    antithetic: bool = False,
) -> Gradient:
    """Run a plan and average it.

    Args:
        ask: (coordinates [n, k], places in the batch [n]) -> answers [n, c].
        objective: of the batch.
        theta: [k].
        plan: counts of the batch's data; with `antithetic` counts of pairs.
        sigma: noise level, in units of the coordinates.
        key: names the noise; chunks of rows are its chunks.
        antithetic: ask at theta +- sigma eps instead of comparing with the clean answer.

    Returns:
        The estimate; broken rows are left out and the rest of their datum's rows weigh more.
    """
    items = len(plan.counts)
    sums = torch.zeros(items, len(theta), dtype=torch.float64)
    squares, good = torch.zeros(items, dtype=torch.float64), torch.zeros(items, dtype=torch.float64)
    for number, first in enumerate(range(0, len(plan.index), CHUNK)):
        place = plan.index[first : first + CHUNK]
        noise = torch.randn(len(place), len(theta), generator=key.at(chunk=number).generator(), dtype=torch.float64)
        coefficient = objective.signal(ask(theta + sigma * noise, place), place) / sigma
        if antithetic:
            mirrored = objective.signal(ask(theta - sigma * noise, place), place) / sigma
            coefficient = (coefficient - mirrored) / 2
        known = coefficient.isfinite()
        place, noise, coefficient = place[known], noise[known], coefficient[known]
        sums.index_add_(0, place, coefficient[:, None] * noise)
        squares.index_add_(0, place, coefficient**2)
        good.index_add_(0, place, torch.ones_like(coefficient))
    seen = good > 0
    value = (sums[seen] / good[seen, None]).sum(0) / max(1, int(seen.sum()))
    rms = (squares / good.clamp(min=1)).sqrt()
    return Gradient(value, rms, len(plan.index) * (2 if antithetic else 1))
