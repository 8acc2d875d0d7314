"""The supply chain as one compiled loop, for random or precomputed orders, where no policy is in between."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onlyforward.core.checks import require
from onlyforward.decide.envs.supply_chain import SupplyChainParameters

BLOCK = 1024
"""Episodes whose whole state stays in a core's cache while time passes."""


@cache
def compiled() -> Any:
    """The kernel, compiled once per process."""
    numba = require("numba", "rl")

    @numba.njit(fastmath={"contract"})
    def simulate(demand, orders, leads, lost, holding, prices, stock0, slots):  # type: ignore[no-untyped-def]
        horizon, batch = demand.shape
        echelons = len(leads)
        outside = prices[echelons]
        total = np.zeros(batch, dtype=np.float32)
        # Blocks outside, then periods, then echelons: every inner loop runs over short contiguous rows and vectorises.
        for start in range(0, batch, BLOCK):
            stop = min(start + BLOCK, batch)
            size = stop - start
            gain = total[start:stop]
            stock = np.full((echelons, size), stock0, dtype=np.float32)
            pipe = np.full((echelons, leads.max(), size), slots, dtype=np.float32)
            for t in range(horizon):
                wanted, price = demand[t, start:stop], prices[0]
                for n in range(echelons):
                    ring, shelf = pipe[n, t % leads[n]], stock[n]
                    # What this echelon sells travels to the one below; the customer takes it at once.
                    below = pipe[n - 1, t % leads[n - 1]]
                    fee, keep = lost[n], holding[n]
                    if n == 0:
                        for b in range(size):
                            there = shelf[b] + ring[b]
                            sold = min(there, wanted[b])
                            left = there - sold
                            gain[b] += price * sold - fee * (wanted[b] - sold) - keep * left
                            shelf[b] = left
                    else:
                        for b in range(size):
                            there = shelf[b] + ring[b]
                            sold = min(there, wanted[b])
                            left = there - sold
                            gain[b] -= fee * (wanted[b] - sold) + keep * left
                            shelf[b] = left
                            below[b] = sold
                    wanted = orders[t, n, start:stop]
                last = pipe[echelons - 1, t % leads[echelons - 1]]
                for b in range(size):
                    last[b] = wanted[b]
                    gain[b] -= outside * wanted[b]
        return total

    return simulate


def simulate(
    kernel: Any, parameters: SupplyChainParameters, demand: NDArray[np.float32], orders: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Undiscounted returns [B] for demand [T, B] and orders [T, echelons, B]."""
    single = np.float32
    return kernel(
        demand,
        orders,
        np.array(parameters.leads, dtype=np.int64),
        np.array(parameters.lost, dtype=single),
        np.array(parameters.holding, dtype=single),
        np.array(parameters.prices, dtype=single),
        single(parameters.stock),
        single(10.0 if parameters.compat == "paper" else parameters.initial_pipeline),
    )
