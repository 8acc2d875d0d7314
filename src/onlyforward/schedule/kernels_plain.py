"""The numpy twin of `kernels` and `wide`: written anew with whole arrays, same signatures, same bits.

Every pass looks at all moves as arrays and takes the first of the cheapest in the order in which the kernels meet
them, so that equal random numbers give equal sequences. It serves without numba, and the tests hold the kernels to it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from onlyforward.schedule.cost import evaluate

FORWARD, BACKWARD, SWAP = 1, 2, 3
Array = np.ndarray


def complete(order: Array, start: Any, p: Array, r: Array) -> Array:
    """[n] completion times by position."""
    # With S the running work, C_i = S_i + max over q <= i of (r_q - S_{q-1}): a running maximum instead of a loop.
    if p.dtype != np.int64:
        done, t = np.empty_like(p[: len(order)]), start
        for i, j in enumerate(order):
            t = max(t, r[j]) + p[j]
            done[i] = t
        return done
    work = np.cumsum(p[order])
    return work + np.maximum(np.maximum.accumulate(r[order] - (work - p[order])), start)


def total(order: Array, start: Any, p: Array, r: Array, knots: Array, coef: Array) -> Any:
    """Cost of an order, added from the first job to the last."""
    return np.cumsum(evaluate(knots, coef, order, complete(order, start, p, r)))[-1]


def choose(best: Array, k: int, places: Array, found: Array, kinds: Array, origin: Array, kind: Array) -> None:
    """One step of the dynamic program: of the totals `found` the first of the cheapest, if it pays."""
    best[k + 1] = best[k]
    if len(places):
        first = int(np.argmin(found))
        if found[first] < best[k]:
            best[k + 1], origin[k + 1], kind[k + 1] = found[first], places[first], kinds[first]


def improve(
    order: Array, start: Any, p: Array, r: Array, knots: Array, coef: Array, insertion_span: int, swap_span: int
) -> Any:
    """One dynasearch pass without releases; returns the gain (0 at a local optimum) and changes `order`."""
    n = len(order)
    done = complete(order, start, p, r)
    cost = evaluate(knots, coef, order, done)
    before = np.concatenate([[start], done[:-1]]).astype(p.dtype)
    best, origin, kind = np.zeros(n + 1, p.dtype), np.zeros(n + 1, np.int64), np.zeros(n + 1, np.int8)
    forward = np.zeros(n, p.dtype)
    for k in range(1, n):
        b, low = order[k], max(0, k - insertion_span)
        rows = np.arange(low, k)
        forward[rows] += evaluate(knots, coef, b, done[k] - p[order[rows]]) - cost[k]
        loss = evaluate(knots, coef, order[:k], done[k]) - cost[:k]
        own = evaluate(knots, coef, b, before[:k] + p[b]) - cost[k]
        late = np.cumsum((evaluate(knots, coef, order[rows], done[rows] + p[b]) - cost[rows])[::-1])
        swaps = np.arange(max(0, k - swap_span), k - 1)
        between = np.zeros((len(swaps), k + 1), p.dtype)
        between[:, 0] = own[swaps] + loss[swaps]
        shift = p[b] - p[order[swaps]]
        moved = evaluate(knots, coef, order[None, :k], done[None, :k] + shift[:, None]) - cost[None, :k]
        inside = (np.arange(k)[None] > swaps[:, None]) & (shift != 0)[:, None]
        between[:, 1:] = np.where(inside, moved, 0)
        places = np.concatenate([rows, rows[::-1], swaps])
        # Added in the kernel's order, so that fractions round alike.
        found = [
            best[rows] + forward[rows] + loss[rows],
            (best[rows] + (late[::-1] + own[rows]))[::-1],
            best[swaps] + np.cumsum(between, 1)[:, -1],
        ]
        kinds = np.repeat([FORWARD, BACKWARD, SWAP], [len(rows), len(rows), len(swaps)])
        choose(best, k, places, np.concatenate(found), kinds, origin, kind)
    if best[n] < 0:
        apply(order, origin, kind)
    return best[n]


def improve_wide(
    order: Array, start: Any, p: Array, r: Array, knots: Array, coef: Array, longest: int, sums: Array
) -> Any:
    """One full-span pass by tabulated sums, without releases; returns the gain and changes `order`."""
    n = len(order)
    done = complete(order, start, p, r)
    cost = evaluate(knots, coef, order, done)
    before = np.concatenate([[start], done[:-1]]).astype(p.dtype)
    shifts = np.arange(-longest, longest + 1)
    for q in range(n):
        sums[q + 1] = sums[q] + (evaluate(knots, coef, order[q], done[q] + shifts) - cost[q])
    best, origin, kind = np.zeros(n + 1, p.dtype), np.zeros(n + 1, np.int64), np.zeros(n + 1, np.int8)
    for k in range(1, n):
        b, rows = order[k], np.arange(k)
        shift = longest - p[order[:k]]
        loss = evaluate(knots, coef, order[:k], done[k]) - cost[:k]
        own = evaluate(knots, coef, b, before[:k] + p[b]) - cost[k]
        swap_shift = shift + p[b]
        changes = np.stack([
            loss + (sums[k + 1, shift] - sums[rows + 1, shift]),
            (sums[k, longest + p[b]] - sums[rows, longest + p[b]]) + own,
            loss + (sums[k, swap_shift] - sums[rows + 1, swap_shift]) + own,
        ], 1)  # fmt: skip
        kinds = np.tile([FORWARD, BACKWARD, SWAP], k)
        choose(best, k, np.repeat(rows, 3), (best[:k, None] + changes).ravel(), kinds, origin, kind)
    if best[n] < 0:
        apply(order, origin, kind)
    return best[n]


def moved(order: Array, i: int, k: int, what: int) -> Array:
    """A copy of the order after one move."""
    trial = order.copy()
    if what == FORWARD:
        trial[i : k + 1] = np.roll(order[i : k + 1], -1)
    elif what == BACKWARD:
        trial[i : k + 1] = np.roll(order[i : k + 1], 1)
    else:
        trial[[i, k]] = order[[k, i]]
    return trial


def apply(order: Array, origin: Array, kind: Array) -> None:
    """Carry out the chosen moves, from the end backwards."""
    k = len(order)
    while k > 0:
        if kind[k] == 0:
            k -= 1
        else:
            order[:] = moved(order, int(origin[k]), k - 1, int(kind[k]))
            k = origin[k]


def improve_released(
    order: Array, start: Any, p: Array, r: Array, knots: Array, coef: Array, insertion_span: int, swap_span: int
) -> Any:
    """One dynasearch pass with releases: every move priced on the whole order; disturbing moves are taken back."""
    n = len(order)
    done = complete(order, start, p, r)
    cost = evaluate(knots, coef, order, done)
    best, origin, kind = np.zeros(n + 1, p.dtype), np.zeros(n + 1, np.int64), np.zeros(n + 1, np.int8)
    for k in range(1, n):
        places, kinds, changes = [], [], []
        for what, span in ((FORWARD, insertion_span), (BACKWARD, insertion_span), (SWAP, swap_span)):
            for i in range(max(0, k - span), k - 1 if what == SWAP else k):
                trial = moved(order, i, k, what)
                change = evaluate(knots, coef, trial, complete(trial, start, p, r)) - cost
                # Both orders serve the same jobs up to k: what each position gains is added pair by pair, as there.
                places.append(i)
                kinds.append(what)
                changes.append(change.sum())
        rows = np.array(places, np.int64)
        choose(best, k, rows, best[rows] + np.array(changes, p.dtype), np.array(kinds), origin, kind)
    if best[n] >= 0:
        return best[n]
    kept = order.copy()
    before = np.cumsum(cost)[-1]
    while True:
        order[:] = kept
        apply(order, origin, kind)
        gain = total(order, start, p, r, knots, coef) - before
        if gain < 0:
            return gain
        kind[np.flatnonzero(kind)[-1]] = 0


def descend(
    order: Array, start: Any, p: Array, r: Array, knots: Array, coef: Array, released: bool | None, insertion_span: int,
    swap_span: int, passes: int,
) -> Any:  # fmt: skip
    """At most `passes` passes; returns the last one's gain, 0 at a local optimum."""
    step = improve_released if released else improve
    gain = p[0] - p[0]
    for _ in range(passes):
        gain = step(order, start, p, r, knots, coef, insertion_span, swap_span)
        if gain >= 0:
            break
    return gain


def iterate(
    current: Array, best: Array, costs: Array, counts: Array, start: Any, p: Array, r: Array, knots: Array, coef: Array,
    released: bool | None, spans: Array, picks: Array, sizes: Array, patience: int, goal: Any,
) -> int:  # fmt: skip
    """Iterated dynasearch, as `kernels.iterate`."""
    n = len(current)
    for kick in range(len(sizes)):
        if costs[1] <= goal:
            return kick
        trial = current.copy()
        for first, second in picks[kick, : sizes[kick]]:
            i = int(first * n)
            k = i + 1 + int(second * 8)
            if k < n:
                trial[[i, k]] = trial[[k, i]]
        descend(trial, start, p, r, knots, coef, released, spans[0], spans[1], 10_000)
        cost = total(trial, start, p, r, knots, coef)
        counts += 1
        if cost <= costs[0]:
            costs[0], current[:] = cost, trial
        if cost < costs[1]:
            costs[1], best[:], counts[:] = cost, trial, 0
        elif counts[1] >= patience:
            current[:], costs[0], counts[1] = best, costs[1], 0
    return len(sizes)
