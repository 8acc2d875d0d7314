"""Exact gradients of the expected cost of a random order, by enumerating every choice: tiny problems only."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

from onlyforward.schedule.problem import Problem


def exact_gradient(problem: Problem, logits: Tensor, scale: float = 1.0) -> Tensor:
    """d/dlogits of E[cost of sort(tau)] / scale, ties broken uniformly: [n, W]; W^n choices times tied orders."""
    leaf = logits.clone().requires_grad_()
    x = leaf.softmax(1)
    total = torch.zeros((), dtype=logits.dtype)
    rows = range(problem.n)
    memo: dict[tuple[int, ...], float] = {}
    for choice in itertools.product(range(logits.shape[1]), repeat=problem.n):
        groups = [[j for j in rows if choice[j] == t] for t in sorted(set(choice))]
        orders = [sum(parts, ()) for parts in itertools.product(*(itertools.permutations(group) for group in groups))]
        for order in orders:
            if order not in memo:
                memo[order] = float(problem.cost(np.array(order)))
        mean = sum(memo[order] for order in orders) / len(orders) / scale
        total = total + mean * torch.stack([x[j, t] for j, t in zip(rows, choice, strict=True)]).prod()
    (found,) = torch.autograd.grad(total, leaf)
    return found


def exact_order_gradient(problem: Problem, scores: Tensor, scale: float = 1.0) -> Tensor:
    """d/dscores of E[cost of a Plackett-Luce order] / scale: [n]; n! orders."""
    leaf = scores.clone().requires_grad_()
    orders = torch.tensor(list(itertools.permutations(range(problem.n))))
    ranked = leaf[orders]
    logs = (ranked - ranked.flip(-1).logcumsumexp(-1).flip(-1)).sum(-1)
    costs = torch.tensor([float(problem.cost(order)) for order in orders.numpy()], dtype=scores.dtype) / scale
    (found,) = torch.autograd.grad((logs.exp() * costs).sum(), leaf)
    return found
