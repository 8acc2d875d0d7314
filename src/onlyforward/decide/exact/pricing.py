"""Pricing n items over a horizon, demand rate a e^-p: the closed form of Gallego and van Ryzin (1994, Management Sci.).

J(n, t) = ln sum_{i <= n} (a t / e)^i / i!, and the optimal price is 1 + J(n, t) - J(n - 1, t).
"""

from __future__ import annotations

import math


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
