"""Kernels of the bound: one exact evaluation of L(u) with its subgradient, and the smoothed dual."""

from __future__ import annotations

import math

import numpy as np

from onlyforward.schedule.compiled import jit


@jit
def bucket(edges, t):
    """The bucket [edges[k], edges[k + 1]) that holds t; the first or the last one beyond the ends."""
    low, high = 0, len(edges) - 2
    while low < high:
        middle = (low + high + 1) // 2
        if edges[middle] <= t:
            low = middle
        else:
            high = middle - 1
    return low


@jit
def priced(p, r, knots, coef, scale, edges, prices, horizon, cover, integers):
    """L(u): sum over jobs of min_t scale f(t + p) + U(t + p) - U(t), minus U(T), by running pointers.

    `cover [K]` gets the machine time that the minimisers use in every bucket.
    Breakpoints are edges, edges - p, knots - p and both ends; between them the function is quadratic, so a convex
    piece adds its vertex (whole neighbours for integers). Left limits need no care: a jump's lower value holds.
    """
    n, buckets = len(p), len(prices)
    whole = np.zeros(buckets + 1)
    integral = np.zeros(buckets + 1, prices.dtype)
    for k in range(buckets):
        integral[k + 1] = integral[k] + prices[k] * (edges[k + 1] - edges[k])
    vertex = np.zeros(1, p.dtype)
    answer = prices[0] - prices[0]
    for j in range(n):
        pj = p[j]
        t, last = r[j], horizon - pj
        a, b, piece = 0, 0, 0
        pieces = knots.shape[1]
        while a + 1 < buckets and edges[a + 1] <= t:
            a += 1
        while b + 1 < buckets and edges[b + 1] <= t + pj:
            b += 1
        while piece + 1 < pieces and knots[j, piece + 1] < t + pj:
            piece += 1
        x = t + pj - knots[j, piece]
        g = integral[b] + prices[b] * (t + pj - edges[b]) - integral[a] - prices[a] * (t - edges[a])
        f = coef[j, piece, 0] + x * (coef[j, piece, 1] + x * coef[j, piece, 2])
        least, where = scale * f + g, t
        while t < last:
            # The pieces that hold just after t.
            while a + 1 < buckets and edges[a + 1] <= t:
                a += 1
            while b + 1 < buckets and edges[b + 1] <= t + pj:
                b += 1
            while piece + 1 < pieces and knots[j, piece + 1] <= t + pj:
                piece += 1
            then = last
            if a + 1 < buckets and edges[a + 1] < then:
                then = edges[a + 1]
            if b + 1 < buckets and edges[b + 1] - pj < then:
                then = edges[b + 1] - pj
            if piece + 1 < pieces and knots[j, piece + 1] - pj < then:
                then = knots[j, piece + 1] - pj
            rate = prices[b] - prices[a]
            curve = coef[j, piece, 2]
            if curve > 0:
                x = t + pj - knots[j, piece]
                rise = scale * (coef[j, piece, 1] + 2 * curve * x) + rate
                near = -rise / (2.0 * scale * curve)
                for side in range(2):
                    vertex[0] = math.floor(near) + side if integers else near
                    v = t + vertex[0]
                    if t < v < then:
                        x = v + pj - knots[j, piece]
                        f = coef[j, piece, 0] + x * (coef[j, piece, 1] + x * curve)
                        h = scale * f + g + rate * (v - t)
                        if h < least:
                            least, where = h, v
            g += rate * (then - t)
            t = then
            x = t + pj - knots[j, piece]
            f = coef[j, piece, 0] + x * (coef[j, piece, 1] + x * curve)
            h = scale * f + g
            if h < least:
                least, where = h, t
        answer += least
        a, b = bucket(edges, where), bucket(edges, where + pj)
        # Difference array: full buckets between, partial ones at both ends.
        whole[a] += 1
        whole[b] -= 1
        cover[a] -= where - edges[a]
        cover[b] += where + pj - edges[b]
    run = 0.0
    for k in range(buckets):
        run += whole[k]
        cover[k] += run * (edges[k + 1] - edges[k])
    return answer - integral[buckets]


@jit
def smoothed(p, r, knots, coef, edges, prices, horizon, theta, gradient):
    """sum_j -theta log mean exp(-g_j(t) / theta) over the edges t that job j may start at, minus U(T); its gradient."""
    n, buckets = len(p), len(prices)
    integral = np.zeros(buckets + 1)
    width = np.empty(buckets)
    for k in range(buckets):
        width[k] = edges[k + 1] - edges[k]
        integral[k + 1] = integral[k] + prices[k] * width[k]
        gradient[k] = -width[k]
    beyond = np.zeros(buckets + 2)
    g, place = np.empty(buckets + 1), np.empty(buckets + 1, np.int64)
    answer = -integral[buckets]
    for j in range(n):
        pj = p[j]
        first, b, piece, many = 0, 0, 0, 0
        least = np.inf
        while first < buckets and edges[first] < r[j]:
            first += 1
        for k in range(first, buckets):
            t = edges[k]
            if t + pj > horizon:
                break
            while b + 1 < buckets and edges[b + 1] <= t + pj:
                b += 1
            while piece + 1 < knots.shape[1] and knots[j, piece + 1] < t + pj:
                piece += 1
            x = t + pj - knots[j, piece]
            h = coef[j, piece, 0] + x * (coef[j, piece, 1] + x * coef[j, piece, 2])
            h += integral[b] + prices[b] * (t + pj - edges[b]) - integral[k]
            g[many], place[many] = h, b
            many += 1
            if h < least:
                least = h
        if many == 0:
            continue
        total = 0.0
        for q in range(many):
            gap = (g[q] - least) / theta
            g[q] = math.exp(-gap) if gap < 30.0 else 0.0
            total += g[q]
        answer += least - theta * math.log(total / many)
        for q in range(many):
            if g[q] > 0.0:
                share = g[q] / total
                b = place[q]
                # U(t + p) - U(t): full buckets first+q .. b-1, and a part of b.
                beyond[first + q] += share
                beyond[b] -= share
                gradient[b] += share * (edges[first + q] + pj - edges[b])
    run = 0.0
    for k in range(buckets):
        run += beyond[k]
        gradient[k] += run * width[k]
    return answer


@jit
def soft_starts(p, r, knots, coef, edges, prices, horizon, theta, alphas, keys):
    """Keys [1 + A, n] under the prices: mean and quantiles of a job's start, drawn among the edges by exp(-g/theta)."""
    n, buckets = len(p), len(prices)
    integral = np.zeros(buckets + 1)
    for k in range(buckets):
        integral[k + 1] = integral[k] + prices[k] * (edges[k + 1] - edges[k])
    g = np.empty(buckets)
    for j in range(n):
        pj = p[j]
        first, b, piece, many = 0, 0, 0, 0
        least = np.inf
        while first < buckets - 1 and edges[first] < r[j]:
            first += 1
        for k in range(first, buckets):
            t = edges[k]
            if t + pj > horizon and many > 0:
                break
            while b + 1 < buckets and edges[b + 1] <= t + pj:
                b += 1
            while piece + 1 < knots.shape[1] and knots[j, piece + 1] < t + pj:
                piece += 1
            x = t + pj - knots[j, piece]
            h = coef[j, piece, 0] + x * (coef[j, piece, 1] + x * coef[j, piece, 2])
            g[many] = h + integral[b] + prices[b] * (t + pj - edges[b]) - integral[k]
            least = min(least, g[many])
            many += 1
        total, mean = 0.0, 0.0
        for q in range(many):
            gap = (g[q] - least) / theta
            g[q] = math.exp(-gap) if gap < 30.0 else 0.0
            total += g[q]
            mean += g[q] * edges[first + q]
        keys[0, j] = mean / total
        run, q = 0.0, 0
        for a in range(len(alphas)):
            while q < many - 1 and run + g[q] < alphas[a] * total:
                run += g[q]
                q += 1
            keys[1 + a, j] = edges[first + q]
