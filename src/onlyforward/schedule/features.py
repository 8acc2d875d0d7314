"""What the network sees: costs at window ends, a few scale-free numbers per job, and the work released per window."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from onlyforward.schedule import rules
from onlyforward.schedule.problem import Problem


@dataclass(frozen=True)
class Features:
    """Network inputs; scaling all times or all costs changes nothing, permuting the jobs permutes the rows.

    Attributes:
        rows: [n, 2, W], f_j at the window ends over the mean cost at the horizon; log(1 + released work / width).
        scalars: [n, 4], p_j/P, (r_j - start)/T, log(p_j n/P), log of the mean cost rate relative to all jobs'.
        closed: [n, W], windows that end at or before the release.
        prior: [n], start of each job in the best dispatching rule's plan, as a share of the horizon.
    """

    rows: Tensor
    scalars: Tensor
    closed: Tensor
    prior: Tensor


def make_features(problem: Problem, windows: int) -> Features:
    """Features of the free jobs over [start, horizon]."""
    start, span = float(problem.start), float(problem.horizon - problem.start)
    ends = start + span * np.arange(1, windows + 1) / windows
    cost = cost_rows(problem, ends)
    mean = cost[:, -1].mean() or 1.0
    p, r = problem.p.astype(float), problem.r.astype(float) - start
    total = p.sum()
    work = np.bincount(np.minimum((r / span * windows).astype(int), windows - 1), weights=p, minlength=windows)
    released = np.log1p(work / (span / windows))
    rows = np.stack([cost / mean, np.broadcast_to(released, cost.shape)], 1)
    rate = np.log(np.maximum(cost[:, -1], 1e-4 * mean) / mean)
    scalars = np.stack([p / total, r / span, np.log(p * problem.n / total), rate], 1)
    closed = ends[None, :] - start <= r[:, None]
    numbers = (torch.tensor(array, dtype=torch.float32) for array in (rows, scalars, rule_starts(problem)))
    curves, few, prior = numbers
    return Features(curves, few, torch.tensor(closed), prior)


def rule_starts(problem: Problem) -> np.ndarray:
    """[n] starts in the best dispatching rule's plan, as shares of the horizon."""
    order = rules.starts(problem)[0][1]
    start = problem.completion(order) - problem.p[order] - problem.start
    found = np.empty(problem.n)
    found[order] = start.astype(float) / float(problem.horizon - problem.start)
    return found


def cost_rows(problem: Problem, times: np.ndarray) -> np.ndarray:
    """[n, W] f_j at increasing times, as floats; job by job, so that no [n, W, m] array is made."""
    found = np.empty((problem.n, len(times)))
    for j in range(problem.n):
        piece = np.maximum(np.searchsorted(problem.knots[j].astype(float), times, side="left") - 1, 0)
        x = times - problem.knots[j][piece]
        a, b, q = problem.coef[j, piece].astype(float).T
        found[j] = a + x * (b + x * q)
    return found
