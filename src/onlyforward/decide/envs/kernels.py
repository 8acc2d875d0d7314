"""The supply chain compiled: one period for any policy, and all periods where orders are known beforehand."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onlyforward.core.checks import require

if TYPE_CHECKING:
    from onlyforward.decide.envs.supply_chain import SupplyChainParameters

BLOCK = 1024
"""Episodes whose whole state stays in a core's cache while time passes."""

MANY = 256
"""Episodes from which a compiled period (the same bits) is worth compiling."""


@cache
def compiled_trade() -> Callable[..., Any] | None:
    """`supply_chain.trade` compiled for float32 numpy arrays: its arguments, returns and bits; None without numba."""
    if importlib.util.find_spec("numba") is None:
        return None

    # Without contraction to fused multiply-adds: the plain arrays' roundings.
    def trade(arriving, stock, demand, orders, fees, keeping, price, outside):  # type: ignore[no-untyped-def]
        echelons, batch = stock.shape
        both, sold = np.empty((2 * echelons, batch), np.float32), np.empty((echelons, batch), np.float32)
        reward = np.zeros(batch, np.float32)
        for n in range(echelons):
            wanted = demand if n == 0 else orders[n - 1]
            ring, shelf, there, asked, goes = arriving[n], stock[n], both[n], both[echelons + n], sold[n]
            fee, keep = fees[n, 0], keeping[n, 0]
            for b in range(batch):
                have, want = ring[b] + shelf[b], wanted[b]
                moved = have if have < want else want
                left, missed = have - moved, want - moved
                there[b], asked[b], goes[b] = left, missed, moved
                reward[b] += left * keep + missed * fee
        top, first = orders[echelons - 1], sold[0]
        for b in range(batch):
            reward[b] = (reward[b] + price * first[b]) + outside * top[b]
        return both, sold, reward

    kernel = kept(trade)

    def call(arriving, stock, demand, orders, fees, keeping, ends):  # type: ignore[no-untyped-def]
        return kernel(arriving, stock, demand, orders, fees, keeping, np.float32(ends[0]), np.float32(ends[1]))

    return call


def kept(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function compiled by numba, its machine code kept on disk where there is a folder for it."""
    import numba

    try:
        return numba.njit(cache=True)(function)  # type: ignore[no-any-return]
    except RuntimeError:
        return numba.njit(function)  # type: ignore[no-any-return]


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
                # What an echelon sells travels to the one below; the customer takes it at once.
                wanted, ring, shelf = demand[t, start:stop], pipe[0, t % leads[0]], stock[0]
                price, fee, keep = prices[0], lost[0], holding[0]
                for b in range(size):
                    there, asked = shelf[b] + ring[b], np.float32(wanted[b])
                    sold = min(there, asked)
                    shelf[b] = there - sold
                    gain[b] += price * sold - fee * (asked - sold) - keep * shelf[b]
                for n in range(1, echelons):
                    ordered, ring, shelf = orders[t, n - 1, start:stop], pipe[n, t % leads[n]], stock[n]
                    below, fee, keep = pipe[n - 1, t % leads[n - 1]], lost[n], holding[n]
                    for b in range(size):
                        there, asked = shelf[b] + ring[b], np.float32(ordered[b])
                        sold = min(there, asked)
                        left = there - sold
                        gain[b] -= fee * (asked - sold) + keep * left
                        shelf[b] = left
                        below[b] = sold
                top, ring = orders[t, echelons - 1, start:stop], pipe[echelons - 1, t % leads[echelons - 1]]
                for b in range(size):
                    ring[b] = np.float32(top[b])
                    gain[b] -= outside * ring[b]
        return total

    return simulate


def simulate(
    kernel: Any, parameters: SupplyChainParameters, demand: NDArray[Any], orders: NDArray[Any]
) -> NDArray[np.float32]:
    """Undiscounted returns [B] for demand [T, B] and orders [T, echelons, B], of any number type.

    Reading them is most of the work: whole orders as bytes (uint8) are read four times faster than as float32.
    """
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
