"""The supply chain as one compiled loop, for random or precomputed orders, where no policy is in between."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onlyforward.core.checks import require
from onlyforward.decide.envs.supply_chain import SupplyChainParameters


def compiled() -> Any:
    """The kernel, compiled on first use and cached on disk by numba."""
    numba = require("numba", "rl")

    @numba.njit(fastmath=False)
    def simulate(demand, orders, leads, lost, holding, prices, stock0, slots):  # type: ignore[no-untyped-def]
        horizon, batch = demand.shape
        echelons = len(leads)
        total = np.zeros(batch, dtype=np.float32)
        sales = np.zeros((echelons, batch), dtype=np.float32)
        stock = np.full((echelons, batch), stock0, dtype=np.float32)
        pipe = np.full((echelons, leads.max(), batch), slots, dtype=np.float32)
        # Periods outside, episodes inside: every inner loop runs over contiguous rows and vectorises.
        for t in range(horizon):
            for m in range(echelons):
                n = echelons - 1 - m
                ring, shelf = pipe[n, t % leads[n]], stock[n]
                wanted = demand[t] if n == 0 else orders[t, n - 1]
                bought = orders[t, n] if m == 0 else sales[n + 1]
                sale = sales[n]
                price, cost, fee, keep = prices[n], prices[n + 1], lost[n], holding[n]
                for b in range(batch):
                    units = bought[b]
                    there = shelf[b] + ring[b]
                    asked = wanted[b]
                    sold = min(there, asked)
                    left = there - sold
                    total[b] += price * sold - cost * units - fee * (asked - sold) - keep * left
                    shelf[b] = left
                    ring[b] = units
                    sale[b] = sold
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
