"""Feasibility surrogate: the expected cost of sorting jobs by independent random keys, in closed form (derived).

Keys tau_j ~ x_j over W windows; H_i(t) = P(tau_i < t) + P(tau_i = t) / 2. Given tau_j = t the completion time is about
normal with mean p_j + sum_{i != j} p_i H_i(t) and variance sum_{i != j} p_i^2 H_i(t) (1 - H_i(t)), so
S(x) = sum_j sum_t x_jt E f_j(normal). O(n W): totals minus a job's own term; no penalty, every x is feasible.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from onlyforward.schedule.problem import Problem

MOST_PIECES = 12
"""A cost of more pieces enters the surrogate thinned to so many; plans are always priced exactly."""


@dataclass(frozen=True)
class Terms:
    """A problem's costs as sums of steps, hinges and squared hinges.

    Attributes:
        p: [n].
        knots: [n, m].
        jumps: [n, m, 3], change of value, slope and curvature at each knot.
        start: time before which nothing runs.
        release: [n], at least `start`.
        released: whether releases matter.
        horizon: end of time.
    """

    p: Tensor
    knots: Tensor
    jumps: Tensor
    start: float
    release: Tensor
    released: bool
    horizon: float


def make_terms(problem: Problem, dtype: torch.dtype = torch.float32) -> Terms:
    """Differences of the pieces at the knots."""
    knots = problem.knots.astype(float)
    coef = problem.coef.astype(float)
    horizon = float(problem.horizon)
    if knots.shape[1] > MOST_PIECES:
        chosen = np.unique(np.linspace(0, knots.shape[1] - 1, MOST_PIECES).astype(int))
        knots, coef = knots[:, chosen], coef[:, chosen]
    used = knots < 2 * horizon
    knots = np.where(used, knots, 0.0)
    jumps = coef.copy()
    length = np.diff(knots, axis=1)
    jumps[:, 1:, 0] -= coef[:, :-1, 0] + length * (coef[:, :-1, 1] + length * coef[:, :-1, 2])
    jumps[:, 1:, 1] -= coef[:, :-1, 1] + 2 * length * coef[:, :-1, 2]
    jumps[:, 1:, 2] -= coef[:, :-1, 2]
    jumps *= used[..., None]
    p, k, j, r = (torch.tensor(array.astype(float), dtype=dtype) for array in (problem.p, knots, jumps, problem.r))
    return Terms(p, k, j, float(problem.start), r, problem.released, horizon)


def surrogate(x: Tensor, terms: Terms, kappa: float = 1.0) -> Tensor:
    """S(x), a scalar that is differentiable in x.

    Args:
        x: [n, W], rows sum to 1: probabilities of the jobs' windows.
        terms: of the problem.
        kappa: with releases, sharpness of the smooth maximum, in units of one over the mean processing time.
    """
    p = terms.p[:, None]
    below = x.cumsum(1) - x / 2
    work = p * below
    spread = p * work * (1 - below)
    if terms.released:
        mean = p + released_work(x, work, terms, kappa)
    else:
        mean = terms.start + p + work.sum(0) - work
    variance = (spread.sum(0) - spread).clamp(min=1e-6 * float(terms.p.mean()) ** 2)
    return (x * expected_cost(mean, variance, terms)).sum()


def expected_cost(mean: Tensor, variance: Tensor, terms: Terms) -> Tensor:
    """E f_j of a normal completion time: [n, W]."""
    root = variance.sqrt()
    knots, jumps = terms.knots, terms.jumps
    total = jumps[:, :1, 0] + mean * jumps[:, :1, 1] + (mean**2 + variance) * jumps[:, :1, 2]
    for k in range(1, knots.shape[1]):
        a = mean - knots[:, k : k + 1]
        z = a / root
        # Clamped so that no exponent underflows into slow denormal numbers.
        density = torch.exp(-(z**2 / 2).clamp(max=30)) / math.sqrt(2 * math.pi)
        below = (1 + torch.erf((z / math.sqrt(2)).clamp(-5, 5))) / 2
        step, hinge, square = (jumps[:, k : k + 1, q] for q in range(3))
        if bool((step != 0).any()):
            total = total + step * below
        if bool((hinge != 0).any()):
            total = total + hinge * (a * below + root * density)
        if bool((square != 0).any()):
            total = total + square * ((a**2 + variance) * below + a * root * density)
    return total


def released_work(x: Tensor, work: Tensor, terms: Terms, kappa: float) -> Tensor:
    """[n, W] when the work before job j's window ends: smooth maximum over s <= t of e_s + work from s to t.

    A job's own work is taken out to first order, through the weights of the maximum; it starts no earlier than r_j.
    """
    width = x.shape[1]
    starts = torch.linspace(terms.start, terms.horizon, width + 1, dtype=x.dtype)[:-1]
    before = x.cumsum(1) - x
    upto = work.sum(0)
    served = (terms.p[:, None] * before).sum(0)
    level = starts[None, :] + upto[:, None] - served[None, :]
    level = level.masked_fill(torch.ones(width, width, dtype=torch.bool).triu(1), -torch.inf)
    sharp = kappa / float(terms.p.mean())
    weights = torch.softmax(sharp * level, 1)
    peak = torch.logsumexp(sharp * level, 1) / sharp
    own = work - terms.p[:, None] * (before @ weights.T)
    return torch.maximum(peak - own, terms.release[:, None])
