"""Lost sales with a lead time: optimal average cost by value iteration, heuristics by their stationary chain.

State at the start of a period, after the arrival: stock x and the orders (q_1, ..., q_{L-1}) that arrive in the next
periods. An order z placed now arrives L periods later; then demand D falls and costs h (x - D)+ + p (D - x)+; the next
stock is (x - D)+ + q_1. (Zipkin 2008, Operations Research 56(4); derived here from the definition.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onlyforward.core.checks import check_range
from onlyforward.decide.exact.distributions import Vector, demand


@dataclass(frozen=True)
class Optimum:
    """An optimal average cost.

    Attributes:
        value: cost per period; the truth lies within `span` of it.
        policy: order for every state [X + 1, Q + 1, ..., Q + 1].
        span: width of the bounds at which iteration stopped.
        iterations: sweeps made.
        ahead: relative cost of every order in every state [X + 1, Q + 1, ..., Q + 1], the order last.
    """

    value: float
    policy: NDArray[np.int64]
    span: float
    iterations: int
    ahead: NDArray[np.float64]


@dataclass(frozen=True)
class LostSales:
    """The problem.

    Attributes:
        lead: L >= 1, periods from order to arrival.
        penalty: p, cost of one lost unit.
        holding: h, cost of one unit held at the end of a period.
        law: "poisson" or "geometric".
        mean: mean demand per period.
    """

    lead: int
    penalty: float
    holding: float = 1.0
    law: str = "poisson"
    mean: float = 5.0

    def __post_init__(self) -> None:
        check_range(self.lead, name="lead", low=1, high=6)
        check_range(self.penalty, name="penalty", low=0.0, open_low=True)
        check_range(self.holding, name="holding", low=0.0, open_low=True)

    @property
    def demand(self) -> Vector:
        """Probabilities of demand 0, 1, ...: [k]."""
        return demand(self.law, self.mean)

    @property
    def bounds(self) -> tuple[int, int]:
        """Largest stock X and largest order Q of the state space, generous for mean demand 5."""
        scale = self.mean / 5.0
        wide = 1 if self.law == "poisson" else 3
        return int(np.ceil((30 + 4 * (self.lead - 1)) * scale * wide)), int(np.ceil(15 * scale * wide))

    def cost(self, stock: int) -> Vector:
        """Expected cost of a period that starts with x = 0..stock after arrival: [stock + 1]."""
        levels = np.arange(stock + 1)[:, None]
        fell = np.arange(len(self.demand))[None, :]
        paid = self.holding * np.maximum(levels - fell, 0) + self.penalty * np.maximum(fell - levels, 0)
        return paid @ self.demand


def transitions(problem: LostSales, stock: int, order: int) -> NDArray[np.float64]:
    """T [Q + 1, X + 1, X + 1]: probability that stock x becomes x' = min((x - D)+ + q, X)."""
    matrix = np.zeros((order + 1, stock + 1, stock + 1))
    for fell, probability in enumerate(problem.demand):
        left = np.maximum(np.arange(stock + 1) - fell, 0)
        for arriving in range(order + 1):
            matrix[arriving, np.arange(stock + 1), np.minimum(left + arriving, stock)] += probability
    return matrix


def solve(problem: LostSales, *, tolerance: float = 1e-4, limit: int = 5000) -> Optimum:
    """Relative value iteration until the bounds on the average cost are within `tolerance`.

    One sweep: V(x, q) <- c(x) + min_z E V((x - D)+ + q_1, q_2, ..., q_{L-1}, z), as Q + 1 matrix products.
    """
    stock, order = problem.bounds
    matrix = transitions(problem, stock, order)
    cost = problem.cost(stock)
    value = np.zeros((stock + 1,) + (order + 1,) * (problem.lead - 1))
    span, average, ahead = np.inf, np.nan, value
    sweep = 0
    while span > tolerance and sweep < limit:
        ahead = expected(value, matrix, problem.lead)
        new = cost.reshape(-1, *(1,) * (problem.lead - 1)) + ahead.min(axis=-1)
        change = new - value
        span, average = float(np.ptp(change)), float((change.max() + change.min()) / 2)
        value = new - new.flat[0]
        sweep += 1
    return Optimum(average, ahead.argmin(axis=-1).astype(np.int64), span, sweep, ahead)


def expected(value: NDArray[np.float64], matrix: NDArray[np.float64], lead: int) -> NDArray[np.float64]:
    """E V of the next state for every state and order: [X + 1, Q + 1, ..., Q + 1], the order last."""
    if lead == 1:
        return np.einsum("qxy,y->xq", matrix, value)
    flat = value.reshape(value.shape[0], -1)
    return np.moveaxis(matrix @ flat, 0, 1).reshape(value.shape[0], matrix.shape[0], *value.shape[1:])


def capped_base_stock_cost(problem: LostSales, level: int, cap: int | None = None) -> float:
    """Average cost of ordering min(cap, (level - x - q_1 - ... - q_{L-1})+), by its stationary chain."""
    most = np.inf if cap is None else cap
    return policy_cost(problem, lambda state: int(min(most, max(level - sum(state), 0))))


def policy_cost(problem: LostSales, order: Callable[[tuple[int, ...]], int]) -> float:
    """Average cost of any rule from the state (x, q_1, ..., q_{L-1}) to an order, by its stationary chain.

    Only the states that the rule reaches from an empty system are built.
    """
    probabilities = problem.demand
    states = np.zeros((1, problem.lead), dtype=np.int64)
    index = {tuple(states[0]): 0}
    sources, targets, chances = [], [], []
    todo = [tuple(states[0])]
    while todo:
        state = todo.pop()
        coming = (*state[1:], order(state))
        stock = state[0]
        for left in range(max(0, stock - len(probabilities) + 1), stock + 1):
            after = (left + coming[0], *coming[1:])
            if after not in index:
                index[after] = len(index)
                todo.append(after)
            sources.append(index[state])
            targets.append(index[after])
            chances.append(probabilities[stock - left] if left else probabilities[stock:].sum())
    stocks = [state[0] for state in index]
    return float(stationary(sources, targets, chances, len(index)) @ problem.cost(max(stocks))[stocks])


def stationary(sources: list[int], targets: list[int], chances: list[float], size: int) -> Vector:
    """The stationary distribution of a chain with one recurrent class, by damped power iteration: [size]."""
    from scipy.sparse import csr_array

    step = csr_array((chances, (targets, sources)), shape=(size, size))
    now = np.full(size, 1.0 / size)
    for _ in range(100_000):
        new = 0.9 * (step @ now) + 0.1 * now
        if np.abs(new - now).sum() < 1e-12:
            break
        now = new
    return new / new.sum()


def best_base_stock(problem: LostSales) -> tuple[float, int]:
    """Cost and level of the best base-stock policy; its cost is unimodal in the level."""
    return descend(lambda level: capped_base_stock_cost(problem, level), int(problem.mean * (problem.lead + 1)))


def best_capped(problem: LostSales) -> tuple[float, int, int]:
    """Cost, level and cap of the best capped base-stock policy: caps near the mean, levels by descent."""
    start = int(problem.mean * (problem.lead + 1))
    best = (np.inf, 0, 0)
    for cap in range(max(1, int(problem.mean)), int(2.5 * problem.mean) + 2):
        cost, level = descend(lambda s, cap=cap: capped_base_stock_cost(problem, s, cap), best[1] or start)
        if cost >= best[0] and cap > problem.mean + 1:
            break
        best = min(best, (cost, level, cap))
    return best


def descend(cost, start: int) -> tuple[float, int]:  # type: ignore[no-untyped-def]
    """Integer minimum of a unimodal function, walking downhill from `start`."""
    here, value = start, cost(start)
    for step in (1, -1):
        while here + step >= 0 and (other := cost(here + step)) < value:
            here, value = here + step, other
    return value, here
