"""Other beds for case `allocate`: what the gains owe to the network that was trained, and what to the allocator."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from onlyforward.core.allocate import Neyman
from onlyforward.tune.bed import GOAL, SHIFTS, B, Q, make_bed
from onlyforward.tune.gains import exact, gain_of

if TYPE_CHECKING:
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result

BATCHES = 20
BEDS = (*(("sgd", seed) for seed in range(5)), *((name, seed) for name in ("sgd-plain", "adam") for seed in range(2)))
"""Recipe and seed of training; the first is the bed of every other table."""


def beds(context: Context, result: Result) -> None:
    """Neyman by residuals and the exact optimum on networks of other seeds and optimisers, all trained to GOAL."""
    rows: list[list[object]] = []
    found: dict[str, dict[str, list[float]]] = {}
    shares: list[float] = []
    with context.progress(len(BEDS), label="beds") as tick:
        for recipe, seed in BEDS:
            bed = make_bed(seed, recipe)
            cells: list[object] = []
            for shift in SHIFTS:
                pairs = []
                for number in range(BATCHES):
                    x, y = bed.batch(shift, number)
                    size = bed.gradients(x, y).norm(dim=1)
                    plan = Neyman().plan(B * Q, bed.features(x, y))
                    pairs.append((gain_of(plan.counts, size), gain_of(exact(size).counts, size)))
                gain, optimum = (statistics.fmean(pair[i] for pair in pairs) for i in (0, 1))
                found.setdefault(recipe, {}).setdefault(shift, []).append(gain)
                shares += [pair[0] / pair[1] for pair in pairs]
                cells += [gain, optimum]
            rows.append([f"{recipe}, seed {seed}", bed.accuracy, *cells, min(shares[-BATCHES * len(SHIFTS) :])])
            tick()
    for shift in SHIFTS:
        result.metric(f"allocate_beds_{shift}_gain", statistics.fmean(found["sgd"][shift]))
        result.metric(f"allocate_beds_{shift}_least_gain", min(v for gains in found.values() for v in gains[shift]))
    result.metric("allocate_beds_oracle_share", min(shares))
    result.metric("allocate_beds_mean_oracle_share", statistics.fmean(shares))
    result.table(
        f"The same on other networks, all trained until an epoch ends at {GOAL:.2f}: gain and optimum",
        ["bed", "accuracy", *(f"{shift}{word}" for shift in SHIFTS for word in ("", ", optimum")), "least share"],
        rows,
        "How large the optimum is belongs to the network: a sure one has few data with large gradients. What the "
        "allocator answers for is its share of the optimum. The first row is the bed of every other table.",
    )
