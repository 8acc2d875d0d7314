"""Online learning on a single instance: one location per job, moved along the surrogate's gradient (arXiv 2501.04253).

x_jt = softmax_t(-(tau_t - mu_j)^2 / (2 sigma^2)) with sigma annealed; the order by mu is priced exactly at every step.
`control` adds the likelihood-ratio gradient of the exact cost with the surrogate's linearisation as control variate.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from onlyforward.core.estimate import gradient
from onlyforward.core.keys import Key
from onlyforward.core.perturb.choices import Choices
from onlyforward.core.weigh.baselines import LeaveOneOut
from onlyforward.core.weigh.control import ControlVariate
from onlyforward.schedule import rules
from onlyforward.schedule.problem import Problem
from onlyforward.schedule.surrogate import make_terms, surrogate

if TYPE_CHECKING:
    from onlyforward.schedule.search import Clock

WINDOWS = 96
STEPS = 300
RATE = 0.03
LAST = 0.008
COLD, WARM = 0.15, 0.05
COPIES = 8


def learned_starts(
    problem: Problem, pool: list[np.ndarray], clock: Clock, key: Key, *, method: str = "auto"
) -> Iterator[tuple[np.ndarray, int]]:
    """Learned orders with the steps each took: from EDD, then from the best rule, as long as there is time."""
    for step, (order, sigma) in enumerate(((rules.edd(problem), COLD), (pool[0], WARM))):
        if clock.over or clock.left < 0.3 * clock.limit:
            return
        yield learn(problem, order, sigma, clock, key.at(site="online", step=step), control=method == "control")


def learn(
    problem: Problem, order: np.ndarray, sigma: float, clock: Clock, key: Key, *, control: bool = False
) -> tuple[np.ndarray, int]:
    """The best order met on the way from `order`, and the steps made."""
    n = problem.n
    terms = make_terms(problem)
    tau = torch.linspace(-0.1, 1.1, WINDOWS)
    location = torch.empty(n)
    location[torch.from_numpy(order.copy())] = (torch.arange(n) + 0.5) / n
    location.requires_grad_()
    optimiser = torch.optim.Adam([location], lr=RATE)
    best, least = order.copy(), problem.cost(order)
    scale = float(least) or 1.0
    made = 0
    for step in range(STEPS):
        if clock.over:
            break
        width = sigma * (LAST / sigma) ** (step / (STEPS - 1))
        optimiser.param_groups[0]["lr"] = RATE * (width / sigma) ** 0.7
        logits = -((tau - location[:, None]) ** 2).clamp(max=60 * width**2) / (2 * width**2)
        optimiser.zero_grad()
        if control:
            estimate = likelihood_ratio(problem, logits.detach(), terms, key.at(step=step), scale=scale)
            logits.backward(estimate)
        else:
            (surrogate(logits.softmax(1), terms, kappa=4.0) / scale).backward()
        optimiser.step()
        made = step + 1
        candidate = np.argsort(location.detach().numpy(), kind="stable")
        cost = problem.cost(candidate)
        if cost < least:
            best, least = candidate, cost
    return best, made


def likelihood_ratio(
    problem: Problem,
    logits: Tensor,
    terms: Any,
    key: Key,
    *,
    scale: float = 1.0,
    copies: int = COPIES,
    control: bool = True,
) -> Tensor:
    """Unbiased gradient [n, W] of E[cost of the drawn order] / scale with respect to the logits.

    With D = dS/dx held constant, c(tau) = sum_j D_j,tau_j has expectation sum D x, whose gradient is exactly that of S:
    g = grad S + LR gradient of (F - c), unbiased whatever the quality of S. Without `control` the plain LR gradient.
    """
    picks: list[Tensor] = []

    def run(params: Any, draw: Key) -> Tensor:
        chosen = params["windows"]
        picks.append(chosen)
        ties = torch.rand(len(chosen), generator=draw.at(site="ties").generator())
        order = np.argsort((chosen + ties).numpy(), kind="stable")
        # One signal for all jobs together: every job's choice shares the order's cost.
        return torch.full((len(chosen),), float(problem.cost(order)) / scale, dtype=logits.dtype)

    if not control:
        found = gradient(
            run, {"windows": logits}, perturb=Choices(parameter="windows"), weigh=LeaveOneOut(), key=key, copies=copies
        )
        return found.value["windows"]
    leaf = logits.clone().requires_grad_()
    x = leaf.softmax(1)
    x.retain_grad()
    (surrogate(x, terms, kappa=4.0) / scale).backward()
    assert x.grad is not None
    assert leaf.grad is not None
    slope = x.grad

    def linearised(signal: Tensor) -> Tensor:
        chosen = torch.stack(picks)
        totals = slope.gather(1, chosen.T).sum(0)
        return totals[:, None].expand_as(signal)

    expectation = (slope * x.detach()).sum().expand(len(logits))
    weigh = ControlVariate(LeaveOneOut(), linearised, expectation, beta=1.0)
    found = gradient(
        run, {"windows": logits}, perturb=Choices(parameter="windows"), weigh=weigh, key=key, copies=copies
    )
    return leaf.grad + found.value["windows"]
