"""Re-check a lower bound with plain Python numbers: no kernel, no numpy arithmetic, nothing but the definition.

L(u) = cost(head) + sum_j min_{r_j <= t <= T - p_j} [f_j(t + p_j) + U(t + p_j) - U(t)] - U(T), U the integral of the
prices, is at most the cost of every schedule, for all prices u >= 0. Integers stay integers (scaled); floats are
taken as exact fractions.
"""

from __future__ import annotations

import itertools
import json
import math
from bisect import bisect_left, bisect_right
from fractions import Fraction
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from onlyforward.core.errors import UsageError

if TYPE_CHECKING:
    from onlyforward.schedule.jobs import Jobs

Certificate = dict[str, Any]
"""hash, scale, fixed, now, edges [K + 1], prices [K] (times scale), lower_bound, seal."""
SEALED = ("hash", "scale", "fixed", "now", "edges", "prices", "lower_bound")


def seal(certificate: Certificate) -> str:
    """SHA-256 over every number of a certificate, so that a change which proves the same bound is found as well."""
    text = json.dumps([certificate[name] for name in SEALED], separators=(",", ":"))
    return sha256(text.encode()).hexdigest()


def check_certificate(jobs: Jobs, certificate: Certificate) -> int | float:
    """The bound that the certificate proves.

    Raises:
        UsageError: it belongs to another instance, is malformed, or its value is not what its prices give.
    """
    try:
        if certificate["hash"] != jobs.hash:
            raise UsageError("The certificate belongs to another instance", "Give the instance that it was made for")
        if certificate["seal"] != seal(certificate):
            raise UsageError("A number of the certificate was changed", "Do not trust it")
        exact = recompute(jobs, certificate)
        claimed = certificate["lower_bound"]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError("The certificate is malformed", "Write it anew with schedule bound --certificate") from error
    value: int | float = max(0, math.ceil(exact)) if jobs.whole else max(0.0, float(exact))
    same = value == claimed if jobs.whole else claimed <= exact + 1e-12 and value - claimed <= 1e-6 * max(1.0, value)
    if not same:
        raise UsageError(f"The certificate claims {claimed} but its prices prove {value}", "Do not trust it")
    return claimed  # type: ignore[no-any-return]


def recompute(jobs: Jobs, certificate: Certificate) -> Fraction:
    """L(u) as an exact fraction."""
    number: Any = int if jobs.whole else Fraction
    scale = int(certificate["scale"])
    edges = [number(edge) for edge in certificate["edges"]]
    prices = [number(price) for price in certificate["prices"]]
    p, r = [number(x) for x in jobs.p.tolist()], [number(x) for x in jobs.r.tolist()]
    knots, coef = (array.tolist() for array in jobs.pieces)
    fixed, begin, total = list(certificate["fixed"]), number(0), Fraction(0)
    for j in fixed:
        begin = max(begin, r[j]) + p[j]
        total += value([number(k) for k in knots[j]], coef[j], begin, number)
    begin = max(begin, number(certificate["now"]))
    free = [j for j in range(jobs.n) if j not in set(fixed)]
    end = max([begin, *(r[j] for j in free)]) + sum(p[j] for j in free)
    if len(edges) != len(prices) + 1 or edges != sorted(set(edges)) or edges[0] > begin or edges[-1] < end:
        raise ValueError("edges")
    if any(price < 0 for price in prices):
        raise ValueError("prices")
    integral = [number(0)]
    for k, price in enumerate(prices):
        integral.append(integral[-1] + price * (edges[k + 1] - edges[k]))

    def paid(t: Any) -> Any:
        k = min(bisect_right(edges, t) - 1, len(prices) - 1)
        return integral[k] + prices[k] * (t - edges[k])

    for j in free:
        own = [number(k) for k in knots[j]]
        low, high = max(r[j], begin), end - p[j]
        points = {low, high, *edges, *(edge - p[j] for edge in edges), *(k - p[j] for k in own)}
        points = {t for t in points if low <= t <= high} | vertices(points, own, coef[j], p[j], paid, scale, low, high)
        total += (
            Fraction(min(scale * value(own, coef[j], t + p[j], number) + paid(t + p[j]) - paid(t) for t in points))
            / scale
        )
    return total - Fraction(paid(end) - paid(begin)) / scale


def value(knots: list[Any], coef: list[Any], c: Any, number: Any) -> Any:
    """f(c): the last knot strictly before c holds."""
    k = max(bisect_left(knots, c) - 1, 0)
    x = c - knots[k]
    a, b, q = (number(z) for z in coef[k])
    return a + x * (b + x * q)


def vertices(
    points: set[Any], knots: list[Any], coef: list[Any], p: Any, paid: Any, scale: int, low: Any, high: Any
) -> set[Any]:
    """Inner minima of the convex pieces, between neighbouring points; whole neighbours for integers."""
    if not any(abc[2] for abc in coef):
        return set()
    ordered = sorted(t for t in points if low <= t <= high)
    found = set()
    for a, b in itertools.pairwise(ordered):
        k = max(bisect_left(knots, b + p) - 1, 0)
        bend = 2 * Fraction(coef[k][2]) * scale
        if bend > 0:
            price = Fraction(paid(b + p) - paid(b) - paid(a + p) + paid(a)) / Fraction(b - a)
            rise = (
                scale * (Fraction(coef[k][1]) + 2 * Fraction(coef[k][2]) * (Fraction(a + p) - Fraction(knots[k])))
                + price
            )
            t = a - rise / bend
            if isinstance(a, int):
                found |= {x for x in (math.floor(t), math.ceil(t)) if a < x < b}
            elif a < t < b:
                found.add(t)
    return found
