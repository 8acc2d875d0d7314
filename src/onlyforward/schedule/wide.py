"""Dynasearch passes for many jobs: every move in O(1), from sums of cost changes tabulated per shift of time.

A move on positions i < k shifts all jobs between by the same amount: -p_a, +p_b or p_b - p_a. With whole processing
times up to q there are 2 q + 1 such shifts, and G[k, s] = sum over positions < k of f(C + s) - f(C) gives the change
of any stretch as a difference. A full-span pass then costs O(n^2 + n q) instead of O(n^3).
"""

from __future__ import annotations

import numpy as np

from onlyforward.schedule.compiled import jit
from onlyforward.schedule.kernels import BACKWARD, FORWARD, SWAP, apply, complete, value


@jit
def tabulate(order, done, cost, knots, coef, longest, sums):
    """Fill sums [n + 1, 2 longest + 1]: column longest + s holds the running change under a shift by s."""
    for q in range(len(order)):
        j, c = order[q], done[q]
        piece, last = 0, knots.shape[1] - 1
        for column in range(2 * longest + 1):
            t = c + column - longest
            while piece < last and knots[j, piece + 1] < t:
                piece += 1
            x = t - knots[j, piece]
            f = coef[j, piece, 0] + x * (coef[j, piece, 1] + x * coef[j, piece, 2])
            sums[q + 1, column] = sums[q, column] + (f - cost[q])


@jit
def improve_wide(order, start, p, r, knots, coef, longest, sums):
    """One full-span pass without releases; returns the gain (0 at a local optimum) and changes `order`."""
    n = len(order)
    done, cost = np.empty_like(p[:n]), np.empty_like(p[:n])
    best, origin, kind = np.zeros(n + 1, p.dtype), np.zeros(n + 1, np.int64), np.zeros(n + 1, np.int8)
    complete(order, start, p, r, done)
    for i in range(n):
        cost[i] = value(knots, coef, order[i], done[i])
    tabulate(order, done, cost, knots, coef, longest, sums)
    for k in range(1, n):
        b = order[k]
        pb, end = p[b], done[k]
        most = cost[k] - value(knots, coef, b, start + pb)
        least = best[k]
        for i in range(k):
            a = order[i]
            shift = longest - p[a]
            loss = value(knots, coef, a, end) - cost[i]
            room = least - best[i]
            delta = loss + (sums[k + 1, shift] - sums[i + 1, shift])
            if delta < room:
                least = best[i] + delta
                origin[k + 1], kind[k + 1] = i, FORWARD
                room = delta
            if most <= 0:
                continue
            late = sums[k, longest + pb] - sums[i, longest + pb]
            swapped = loss + (sums[k, shift + pb] - sums[i + 1, shift + pb])
            if late - most >= room and swapped - most >= room:
                continue
            before = done[i - 1] if i > 0 else start
            gain = value(knots, coef, b, before + pb) - cost[k]
            if late + gain < room:
                room = late + gain
                least = best[i] + room
                origin[k + 1], kind[k + 1] = i, BACKWARD
            if swapped + gain < room:
                least = best[i] + swapped + gain
                origin[k + 1], kind[k + 1] = i, SWAP
        best[k + 1] = least
    if best[n] < 0:
        apply(order, origin, kind)
    return best[n]
