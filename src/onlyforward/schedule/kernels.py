"""The search's inner loops, compiled by numba: one dynasearch pass is one dynamic program over all independent moves.

Moves on positions i < k: forward insertion (i behind k), backward insertion (k before i), swap. With F(0) = 0,
F(k + 1) = min(F(k), min_i F(i) + delta(i, k)); all chosen moves are applied at once. The program runs over k while
the insertions' sums are kept per i, so that no [n, n] matrix exists. Random numbers come from outside.
"""

from __future__ import annotations

import numpy as np

from onlyforward.schedule.compiled import jit

FORWARD, BACKWARD, SWAP = 1, 2, 3


@jit
def value(knots, coef, j, c):
    """f_j(c): the last knot strictly before c holds."""
    k = knots.shape[1] - 1
    if k > 6:
        low = 0
        while low < k:
            middle = (low + k + 1) // 2
            if knots[j, middle] < c:
                low = middle
            else:
                k = middle - 1
    else:
        while k > 0 and knots[j, k] >= c:
            k -= 1
    x = c - knots[j, k]
    return coef[j, k, 0] + x * (coef[j, k, 1] + x * coef[j, k, 2])


@jit
def fill(target, source):
    """target[:] = source; numba compiles a loop in a tenth of the time of that line."""
    for i in range(len(target)):
        target[i] = source[i]


@jit
def complete(order, start, p, r, done):
    """Completion times by position, in place."""
    t = start
    for i in range(len(order)):
        j = order[i]
        if r[j] > t:
            t = r[j]
        t += p[j]
        done[i] = t


@jit
def total(order, start, p, r, knots, coef):
    """Cost of an order."""
    t = start
    cost = start - start
    for i in range(len(order)):
        j = order[i]
        if r[j] > t:
            t = r[j]
        t += p[j]
        cost += value(knots, coef, j, t)
    return cost


@jit
def prepare(order, start, p, r, knots, coef, done, cost, save, saved):
    """Completions, costs, what each position could save at best, and the savings' prefix sums [n + 1]."""
    complete(order, start, p, r, done)
    for i in range(len(order)):
        j = order[i]
        first = start if start > r[j] else r[j]
        cost[i] = value(knots, coef, j, done[i])
        save[i] = cost[i] - value(knots, coef, j, first + p[j])
        saved[i + 1] = saved[i] + save[i]


@jit
def improve(order, start, p, r, knots, coef, insertion_span, swap_span):
    """One dynasearch pass without releases; returns the gain (0 at a local optimum) and changes `order`."""
    n = len(order)
    done, cost, save = np.empty(n, p.dtype), np.empty(n, p.dtype), np.empty(n, p.dtype)
    saved, best = np.zeros(n + 1, p.dtype), np.zeros(n + 1, p.dtype)
    forward = np.zeros(n, p.dtype)
    origin, kind = np.zeros(n + 1, np.int64), np.zeros(n + 1, np.int8)
    prepare(order, start, p, r, knots, coef, done, cost, save, saved)
    for k in range(1, n):
        b = order[k]
        pb = p[b]
        least = best[k]
        if save[k] > 0:
            for i in range(max(0, k - insertion_span), k):
                a = order[i]
                forward[i] += value(knots, coef, b, done[k] - p[a]) - cost[k]
                if best[i] + forward[i] < least:
                    new = best[i] + forward[i] + (value(knots, coef, a, done[k]) - cost[i])
                    if new < least:
                        least = new
                        origin[k + 1], kind[k + 1] = i, FORWARD
            late = p[0] - p[0]
            for i in range(k - 1, max(0, k - insertion_span) - 1, -1):
                late += value(knots, coef, order[i], done[i] + pb) - cost[i]
                if late >= save[k]:
                    break
                before = done[i - 1] if i > 0 else start
                new = best[i] + (late + (value(knots, coef, b, before + pb) - cost[k]))
                if new < least:
                    least = new
                    origin[k + 1], kind[k + 1] = i, BACKWARD
        for i in range(max(0, k - swap_span), k - 1):
            a = order[i]
            shift = pb - p[a]
            most = save[k] if shift >= 0 else save[k] + (saved[k] - saved[i + 1])
            room = least - best[i]
            if most + room <= 0:
                continue
            loss = value(knots, coef, a, done[k]) - cost[i]
            if loss - most >= room:
                continue
            before = done[i - 1] if i > 0 else start
            delta = (value(knots, coef, b, before + pb) - cost[k]) + loss
            if shift != 0:
                for q in range(i + 1, k):
                    # Left of q: what the jobs in between can still save, and nothing where they only move later.
                    if (delta if shift > 0 else delta - (saved[k] - saved[q])) >= room:
                        break
                    delta += value(knots, coef, order[q], done[q] + shift) - cost[q]
            if delta < room:
                least = best[i] + delta
                origin[k + 1], kind[k + 1] = i, SWAP
        best[k + 1] = least
    gain = best[n]
    if gain < 0:
        apply(order, origin, kind)
    return gain


@jit
def move(order, i, k, what):
    """Carry out one move in place."""
    if what == FORWARD:
        a = order[i]
        for q in range(i, k):
            order[q] = order[q + 1]
        order[k] = a
    elif what == BACKWARD:
        b = order[k]
        for q in range(k, i, -1):
            order[q] = order[q - 1]
        order[i] = b
    else:
        order[i], order[k] = order[k], order[i]


@jit
def apply(order, origin, kind):
    """Carry out the chosen moves, from the end backwards."""
    k = len(order)
    while k > 0:
        if kind[k] == 0:
            k -= 1
        else:
            move(order, origin[k], k - 1, kind[k])
            k = origin[k]


@jit
def at(order, i, k, what, q):
    """The job at position q after a move."""
    if q < i or q > k:
        return order[q]
    if what == FORWARD:
        return order[i] if q == k else order[q + 1]
    if what == BACKWARD:
        return order[k] if q == i else order[q - 1]
    if q == i:
        return order[k]
    return order[i] if q == k else order[q]


@jit
def change(order, i, k, what, p, r, knots, coef, start, done, cost, saved, room):
    """Cost change of one move with releases: recomputed until old and new completions coincide; >= room if hopeless."""
    n = len(order)
    t = done[i - 1] if i > 0 else start
    delta = p[0] - p[0]
    for q in range(i, n):
        j = at(order, i, k, what, q)
        if r[j] > t:
            t = r[j]
        t += p[j]
        if q > k and t == done[q]:
            break
        delta += value(knots, coef, j, t)
        delta -= cost[q]
        # Compare only where both orders have served the same jobs, or with all that is left to save.
        if q >= k and delta - (saved[n] - saved[q + 1]) >= room:
            return room
    return delta


@jit
def improve_released(order, start, p, r, knots, coef, insertion_span, swap_span):
    """One dynasearch pass with releases; moves that disturb one another through idle time are taken back."""
    n = len(order)
    done, cost, save = np.empty(n, p.dtype), np.empty(n, p.dtype), np.empty(n, p.dtype)
    saved, best = np.zeros(n + 1, p.dtype), np.zeros(n + 1, p.dtype)
    origin, kind = np.zeros(n + 1, np.int64), np.zeros(n + 1, np.int8)
    prepare(order, start, p, r, knots, coef, done, cost, save, saved)
    for k in range(1, n):
        least = best[k]
        for what in (FORWARD, BACKWARD, SWAP):
            span = swap_span if what == SWAP else insertion_span
            for i in range(max(0, k - span), k if what == FORWARD else k - 1 if what == SWAP else k):
                room = least - best[i]
                if room + (saved[n] - saved[i]) <= 0:
                    continue
                delta = change(order, i, k, what, p, r, knots, coef, start, done, cost, saved, room)
                if delta < room:
                    least = best[i] + delta
                    origin[k + 1], kind[k + 1] = i, what
        best[k + 1] = least
    if best[n] >= 0:
        return best[n]
    before = saved[0]
    for i in range(n):
        before += cost[i]
    kept = order.copy()
    while True:
        fill(order, kept)
        apply(order, origin, kind)
        gain = total(order, start, p, r, knots, coef) - before
        if gain < 0:
            return gain
        k = n
        while kind[k] == 0:
            k -= 1
        kind[k] = 0


@jit
def descend(order, start, p, r, knots, coef, released, insertion_span, swap_span, passes):
    """At most `passes` passes; returns the last one's gain, 0 at a local optimum.

    `released` may be None for False: numba then leaves the pass with releases uncompiled.
    """
    gain = p[0] - p[0]
    for _ in range(passes):
        if released is None:
            gain = improve(order, start, p, r, knots, coef, insertion_span, swap_span)
        elif released:
            gain = improve_released(order, start, p, r, knots, coef, insertion_span, swap_span)
        else:
            gain = improve(order, start, p, r, knots, coef, insertion_span, swap_span)
        if gain >= 0:
            break
    return gain


@jit
def iterate(current, best, costs, counts, start, p, r, knots, coef, released, spans, picks, sizes, patience, goal):
    """Iterated dynasearch: kick, descend, accept if not worse; back to the best after `patience` kicks without gain.

    current, best: [n] orders, changed in place. costs: [2] their costs. counts: [2] kicks since the last gain, kicks
    since the last return. picks: [kicks, 10, 2] random numbers in [0, 1). sizes: [kicks] swaps per kick. Stops early
    at a cost of `goal`. Returns the kicks made.
    """
    n = len(current)
    trial = np.empty(n, current.dtype)
    for kick in range(len(sizes)):
        if costs[1] <= goal:
            return kick
        fill(trial, current)
        for q in range(sizes[kick]):
            i = int(picks[kick, q, 0] * n)
            k = i + 1 + int(picks[kick, q, 1] * 8)
            if k < n:
                trial[i], trial[k] = trial[k], trial[i]
        descend(trial, start, p, r, knots, coef, released, spans[0], spans[1], 10000)
        cost = total(trial, start, p, r, knots, coef)
        counts[0] += 1
        counts[1] += 1
        if cost <= costs[0]:
            costs[0] = cost
            fill(current, trial)
        if cost < costs[1]:
            costs[1] = cost
            fill(best, trial)
            counts[0] = 0
            counts[1] = 0
        elif counts[1] >= patience:
            fill(current, best)
            costs[0] = costs[1]
            counts[1] = 0
    return len(sizes)
