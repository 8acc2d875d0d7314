"""Likelihood-ratio gradients of the exact cost of a random order, with the surrogate as control variate (derived).

Orders come from windows (every job draws a start window; sort) or from Plackett-Luce scores. Both go through
`core.gradient`: perturb the choices, run forward, weigh the costs that come back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onlyforward.core.estimate import gradient
from onlyforward.core.keys import Key
from onlyforward.core.perturb.choices import Choices
from onlyforward.core.weigh.baselines import LeaveOneOut
from onlyforward.core.weigh.control import ControlVariate
from onlyforward.schedule.surrogate import Terms, surrogate

COPIES = 8
KAPPA = 4.0
Price = Callable[[np.ndarray], float]
"""An order of the free jobs -> its cost: the instance's own, or any black box."""


def likelihood_ratio(
    price: Price,
    logits: Tensor,
    terms: Terms | None,
    key: Key,
    *,
    scale: float = 1.0,
    copies: int = COPIES,
) -> Tensor:
    """Unbiased gradient [n, W] of E[price of the drawn order] / scale with respect to the logits.

    With D = dS/dx held constant, c(tau) = sum_j D_j,tau_j has expectation sum D x, whose gradient is exactly that of S:
    g = grad S + LR gradient of (F - c), unbiased whatever the quality of S.

    Args:
        price: cost of an order; ties between windows are broken by uniform draws.
        logits: [n, W] of the start windows.
        terms: of the surrogate S; None gives the plain likelihood ratio.
        key: of the draws.
        scale: divides costs and gradient.
        copies: orders drawn.
    """
    picks: list[Tensor] = []

    def run(params: Any, draw: Key) -> Tensor:
        chosen = params["windows"]
        picks.append(chosen)
        ties = torch.rand(len(chosen), generator=draw.at(site="ties").generator())
        order = np.argsort((chosen + ties).numpy(), kind="stable")
        # One signal for all jobs together: every job's choice shares the order's cost.
        return torch.full((len(chosen),), float(price(order)) / scale, dtype=logits.dtype)

    perturb = Choices(parameter="windows")
    if terms is None:
        plain = gradient(run, {"windows": logits}, perturb=perturb, weigh=LeaveOneOut(), key=key, copies=copies)
        return plain.value["windows"]
    leaf = logits.clone().requires_grad_()
    x = leaf.softmax(1)
    x.retain_grad()
    (surrogate(x, terms, kappa=KAPPA) / scale).backward()
    assert x.grad is not None
    assert leaf.grad is not None
    slope = x.grad

    def linearised(signal: Tensor) -> Tensor:
        chosen = torch.stack(picks)
        totals = slope.gather(1, chosen.T).sum(0)
        return totals[:, None].expand_as(signal)

    expectation = (slope * x.detach()).sum().expand(len(logits))
    weigh = ControlVariate(LeaveOneOut(), linearised, expectation, beta=1.0)
    found = gradient(run, {"windows": logits}, perturb=perturb, weigh=weigh, key=key, copies=copies)
    return leaf.grad + found.value["windows"]


def surrogate_gradient(logits: Tensor, terms: Terms, *, scale: float = 1.0) -> Tensor:
    """Gradient [n, W] of S / scale: no draw, no variance, and the bias of the normal approximation."""
    leaf = logits.clone().requires_grad_()
    (found,) = torch.autograd.grad(surrogate(leaf.softmax(1), terms, kappa=KAPPA) / scale, leaf)
    return found


def plackett_luce(price: Price, scores: Tensor, key: Key, *, scale: float = 1.0, copies: int = COPIES) -> Tensor:
    """Unbiased gradient [n] of E[price of a Plackett-Luce order] / scale with respect to the scores [n]."""

    def run(params: Any, draw: Key) -> Tensor:
        return torch.tensor([float(price(params["scores"][0].numpy())) / scale], dtype=scores.dtype)

    perturb = Choices("plackett-luce", parameter="scores")
    found = gradient(run, {"scores": scores[None]}, perturb=perturb, weigh=LeaveOneOut(), key=key, copies=copies)
    return found.value["scores"][0]
