"""Pricing n items over a horizon, demand rate a e^-p: the closed form of Gallego and van Ryzin (1994, Management Sci.).

J(n, t) = ln sum_{i <= n} (a t / e)^i / i!, and the optimal price is 1 + J(n, t) - J(n - 1, t).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray


def value(items: int, expected: float) -> float:
    """Expected revenue J of `items` left when a t = `expected` customers would come at price 0."""
    terms = [i * math.log(expected / math.e) - math.lgamma(i + 1) for i in range(items + 1)] if expected > 0 else [0.0]
    largest = max(terms)
    return largest + math.log(sum(math.exp(term - largest) for term in terms))


def price(items: int, expected: float) -> float:
    """The optimal price 1 + J(n) - J(n - 1) with n >= 1 items left."""
    return 1.0 + value(items, expected) - value(items - 1, expected)


def fixed_price_revenue(items: int, expected: float, level: float) -> float:
    """Expected revenue at one price all season: p E min(n, Poisson(a t e^-p))."""
    rate = expected * math.exp(-level)
    below = [math.exp(k * math.log(rate) - rate - math.lgamma(k + 1)) for k in range(items)]
    sold = sum(k * chance for k, chance in enumerate(below)) + items * (1.0 - sum(below))
    return level * sold


def best_fixed_price(items: int, expected: float) -> tuple[float, float]:
    """The best single price and its expected revenue."""
    from scipy.optimize import minimize_scalar

    low, high = 0.01, 2.0 + math.log(max(expected, math.e))
    found = minimize_scalar(
        lambda level: -fixed_price_revenue(items, expected, level),
        bounds=(low, high),
        method="bounded",
        options={"xatol": 1e-9},
    )
    return float(found.x), float(-found.fun)


def deterministic_bound(items: int, expected: float) -> float:
    """Revenue of the fluid problem, an upper bound: a t / e at price 1, or n (ln(a t / n)) when stock binds."""
    return expected / math.e if items >= expected / math.e else items * math.log(expected / items)


def slotted(
    items: int,
    rate: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    prices: NDArray[np.float64],
) -> float:
    """Expected revenue where a price holds for a slot in which a Poisson number of customers buys.

    Args:
        items: n, units to sell.
        rate: expected buyers of one slot at each price, elementwise.
        prices: [k, slots, items + 1] prices to choose from in each slot at each stock; k = 1 evaluates a rule.
    """
    counts = np.arange(items + 1)
    log_factorial = np.array([math.lgamma(j + 1) for j in counts])
    value = np.zeros(items + 1)
    for slot in reversed(range(prices.shape[1])):
        price = prices[:, slot, :, None]
        mean = np.maximum(rate(price), 1e-300)
        chance = np.exp(counts * np.log(mean) - mean - log_factorial)
        # What is wanted beyond the stock sells the stock: the chances of the rest of the tail sit on the last unit.
        chance[..., -1] += 1.0 - chance.sum(-1)
        sold = np.minimum(counts[None, :], counts[:, None])
        gain = price * sold + value[counts[:, None] - sold]
        value = (chance * gain).sum(-1).max(axis=0)
    return float(value[items])


def best_slotted(
    items: int, rate: Callable[[NDArray[np.float64]], NDArray[np.float64]], slots: int, grid: NDArray[np.float64]
) -> float:
    """The optimum of `slotted` with prices from a grid [k]."""
    return slotted(items, rate, np.broadcast_to(grid[:, None, None], (len(grid), slots, items + 1)))
