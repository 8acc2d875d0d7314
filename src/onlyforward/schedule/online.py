"""Online learning on a single instance (arXiv 2501.04253): the order of the jobs moves along a gradient of its cost.

What is learned: `locations`, one number per job with x_jt = softmax_t(-(tau_t - mu_j)^2 / (2 sigma^2)) and sigma
annealed (default, measured best); `logits`, a free x; `weights`, the start network itself (the paper's form). Which
gradient: of the surrogate, by likelihood ratio, of both (`control`), or Plackett-Luce. The rounded order is priced
exactly at every step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from onlyforward.core.keys import Key
from onlyforward.schedule import rules
from onlyforward.schedule.problem import Problem
from onlyforward.schedule.ratio import KAPPA, Price, likelihood_ratio, plackett_luce
from onlyforward.schedule.surrogate import Terms, make_terms, surrogate

if TYPE_CHECKING:
    from onlyforward.schedule.network import Network
    from onlyforward.schedule.search import Clock

WINDOWS, FINE = 96, 384
STEPS = 300
RATE = 0.03
LAST, FINEST = 0.008, 0.002
COLD, WARM = 0.15, 0.05
METHODS = ("surrogate", "lr", "control", "plackett-luce")
FORMS = ("locations", "logits", "weights")


@dataclass(frozen=True)
class Plan:
    """How to learn.

    Attributes:
        method: surrogate, lr, control or plackett-luce.
        form: locations, logits or weights.
        sigma: first width of a location, as a share of the horizon.
        last: the last one.
        windows: W.
        steps: of the optimiser.
        logarithm: minimise log S instead of S (instances with tiny optima).
    """

    method: str = "surrogate"
    form: str = "locations"
    sigma: float = WARM
    last: float = LAST
    windows: int = WINDOWS
    steps: int = STEPS
    logarithm: bool = False


class Locations:
    """One number mu_j per job, on the axis tau in [-0.1, 1.1] of the horizon."""

    def __init__(self, start: Tensor, windows: int) -> None:
        self.tau = torch.linspace(-0.1, 1.1, windows)
        self.mu = start.clone().requires_grad_()
        self.parameters, self.rate = [self.mu], RATE

    def logits(self, width: float) -> Tensor:
        """[n, W]."""
        return -((self.tau - self.mu[:, None]) ** 2).clamp(max=60 * width**2) / (2 * width**2)

    def keys(self, logits: Tensor) -> Tensor:
        """[n], what the jobs are sorted by."""
        return self.mu.detach()


class Logits:
    """A free x, begun as locations of the first width."""

    def __init__(self, start: Tensor, windows: int, width: float) -> None:
        self.tau = torch.linspace(-0.1, 1.1, windows)
        first = -((self.tau - start[:, None]) ** 2).clamp(max=60 * width**2) / (2 * width**2)
        self.free = first.clone().requires_grad_()
        self.parameters, self.rate = [self.free], 0.3

    def logits(self, width: float) -> Tensor:
        """[n, W]."""
        return self.free

    def keys(self, logits: Tensor) -> Tensor:
        """[n] expected windows."""
        return logits.softmax(1) @ self.tau


class Weights:
    """The network itself, fine-tuned on this instance: the paper's form."""

    def __init__(self, problem: Problem, network: Network) -> None:
        from copy import deepcopy

        from onlyforward.schedule.features import make_features

        self.network = deepcopy(network)
        self.features = make_features(problem, network.windows)
        self.parameters, self.rate = list(self.network.parameters()), 3e-4

    def logits(self, width: float) -> Tensor:
        """[n, W]."""
        return self.network.logits(self.features)

    def keys(self, logits: Tensor) -> Tensor:
        """[n] expected windows."""
        return logits.softmax(1) @ torch.linspace(0, 1, logits.shape[1])


def first_width(problem: Problem) -> float:
    """Width to leave the network's order with: beyond 200 jobs it is far from good, and a narrow one stays near it."""
    return COLD if problem.n > 200 else WARM


def places(problem: Problem, order: np.ndarray) -> Tensor:
    """[n] where on the axis each job is in an order: its position, or with releases its start, as a share."""
    share = (np.arange(problem.n) + 0.5) / problem.n
    if problem.released:
        start = problem.completion(order) - problem.p[order] - problem.start
        share = start.astype(float) / float(problem.horizon - problem.start)
    found = torch.empty(problem.n)
    found[torch.from_numpy(order.copy())] = torch.tensor(share, dtype=torch.float32)
    return found


def learned_starts(
    problem: Problem, pool: list[np.ndarray], clock: Clock, key: Key, *, method: str = "surrogate",
    form: str = "locations", network: Network | None = None, first: np.ndarray | None = None,
) -> Iterator[tuple[str, np.ndarray, int]]:  # fmt: skip
    """Name, learned order and steps: from the network's order `first`, EDD's and the best rule's, as time permits."""
    begins = [("network", first, first_width(problem))] if first is not None else []
    begins += [("edd", rules.edd(problem), COLD), ("rule", pool[0], WARM)]
    for step, (name, order, sigma) in enumerate(begins[:1] if form == "weights" else begins):
        if clock.over or clock.left < 0.3 * clock.limit:
            return
        plan = Plan(method=method, form=form, sigma=sigma)
        found, made = learn(problem, order, plan, clock, key.at(site="online", step=step), network=network)
        yield name, found, made


def learn(
    problem: Problem,
    order: np.ndarray,
    plan: Plan,
    clock: Clock,
    key: Key,
    *,
    network: Network | None = None,
    price: Price | None = None,
) -> tuple[np.ndarray, int]:
    """The best order met on the way from `order`, and the steps made.

    Args:
        problem: the instance; its costs make the surrogate.
        order: [n] to begin with.
        plan: how to learn.
        clock: ends the learning.
        key: of the draws.
        network: for the form `weights`.
        price: exact cost of an order (default: the problem's); any black box.
    """
    pay: Price = (lambda trial: float(problem.cost(trial))) if price is None else price
    terms = make_terms(problem)
    form = form_of(problem, order, plan, network)
    optimiser = torch.optim.Adam(form.parameters, lr=form.rate)
    best, least = order.copy(), pay(order)
    scale, made, last = float(least) or 1.0, 0, order.tobytes()
    for step in range(plan.steps):
        if clock.over:
            break
        width = plan.sigma * (plan.last / plan.sigma) ** (step / max(1, plan.steps - 1))
        optimiser.param_groups[0]["lr"] = form.rate * (width / plan.sigma) ** 0.7
        optimiser.zero_grad()
        logits = form.logits(width)
        backward(form, logits, terms, plan, pay, key.at(step=step), width, scale)
        optimiser.step()
        made = step + 1
        candidate = np.argsort(form.keys(logits.detach()).numpy(), kind="stable")
        if candidate.tobytes() != last:
            last = candidate.tobytes()
            cost = pay(candidate)
            if cost < least:
                best, least = candidate, cost
    return best, made


def form_of(problem: Problem, order: np.ndarray, plan: Plan, network: Network | None) -> Locations | Logits | Weights:
    """The parameters that are learned."""
    if plan.form == "weights" and network is not None:
        return Weights(problem, network)
    if plan.form == "logits":
        return Logits(places(problem, order), plan.windows, plan.sigma)
    return Locations(places(problem, order), plan.windows)


def backward(
    form: Locations | Logits | Weights, logits: Tensor, terms: Terms, plan: Plan, pay: Price, key: Key, width: float,
    scale: float,
) -> None:  # fmt: skip
    """Fill the gradients of the form's parameters by the plan's method."""
    if plan.method == "surrogate":
        value = surrogate(logits.softmax(1), terms, kappa=KAPPA) / scale
        (value.clamp(min=1e-9).log() if plan.logarithm else value).backward()  # type: ignore[no-untyped-call]
        return
    if plan.method == "plackett-luce":
        # Scores -mu / width: the width of a window is the temperature of the order.
        keys = form.keys(logits) if isinstance(form, Locations) else form.keys(logits.detach())
        slope = -plackett_luce(pay, -keys / width, key, scale=scale) / width
        if isinstance(form, Locations):
            form.mu.grad = slope
            return
        x = logits.softmax(1)
        tau = torch.linspace(0, 1, x.shape[1])
        (x @ tau).backward(slope)  # type: ignore[no-untyped-call]
        return
    control = terms if plan.method == "control" else None
    logits.backward(likelihood_ratio(pay, logits.detach(), control, key, scale=scale))  # type: ignore[no-untyped-call]


def refine(problem: Problem, order: np.ndarray, clock: Clock, key: Key, *, method: str = "surrogate") -> np.ndarray:
    """A second stage with four times finer windows, on the logarithm of the surrogate: no local search."""
    plan = Plan(method=method, sigma=LAST, last=FINEST, windows=FINE, steps=STEPS // 2, logarithm=True)
    return learn(problem, order, plan, clock, key)[0]
