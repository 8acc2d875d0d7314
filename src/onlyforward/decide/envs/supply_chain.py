"""Three echelons in series with lost sales and lead times, the hard environment of arXiv 2305.07248.

A period: every echelon orders by its position (stock, pipeline and what is still promised); shipments arrive; demand
falls on echelon 1 and each order on the echelon above; sales stop at the stock; what was sold travels for the buyer's
lead time. Reward: sum_n p_n S_n - p_{n+1} S_{n+1} - c_n U_n - h_n I_n, with S_4 the last echelon's own order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onlyforward.core.checks import check_choice, check_range
from onlyforward.core.errors import UsageError
from onlyforward.decide.envs.base import Array, Environment, Reference, Space, State
from onlyforward.decide.envs.kernels import MANY, compiled_trade


@dataclass(frozen=True)
class SupplyChainParameters:
    """Parameters, downstream echelon first.

    Attributes:
        leads: periods from shipment to arrival.
        lost: cost of one lost sale.
        holding: cost of one unit held at the end of a period.
        prices: selling prices, and last the price of the outside supplier.
        stock: initial stock of every echelon.
        initial_pipeline: units on the way in every slot at the start, paid for like any purchase.
        compat: "none", or "paper": 10 units arrive free in every period t <= lead, as in the authors' code.
        demand: "season" (U{0..6} + (t + 6) mod 15) or "merton" (jump diffusion, floor(10 exp J)).
        max_order: largest order of an echelon.
        periods: T.
    """

    leads: tuple[int, ...] = (2, 3, 5)
    lost: tuple[float, ...] = (0.125, 0.1, 0.075)
    holding: tuple[float, ...] = (0.2, 0.15, 0.1)
    prices: tuple[float, ...] = (2.0, 1.5, 1.0, 0.5)
    stock: float = 10.0
    initial_pipeline: float = 0.0
    compat: str = "none"
    demand: str = "season"
    max_order: int = 20
    periods: int = 100

    def __post_init__(self) -> None:
        echelons = len(self.leads)
        if not len(self.lost) == len(self.holding) == echelons == len(self.prices) - 1:
            raise UsageError(
                f"leads, lost and holding have {echelons}, {len(self.lost)} and {len(self.holding)} entries",
                "Give one per echelon, and one price more",
            )
        for lead in self.leads:
            check_range(lead, name="lead", low=1)
        check_range(self.periods, name="periods", low=1)
        check_choice(self.compat, ("none", "paper"), name="compat")
        check_choice(self.demand, ("season", "merton"), name="demand")


class SupplyChain(Environment):
    """The batched chain; observations are (stock, lost, shipped, ordered) of every echelon, the last five periods."""

    id = "SupplyChain"
    gamma, alpha = 0.99, 0.1
    history = 5

    def __init__(
        self, parameters: SupplyChainParameters | None = None, *, backend: str = "numpy", device: str = "cpu"
    ) -> None:
        super().__init__(backend=backend, device=device)
        self.parameters = parameters or SupplyChainParameters()
        self.echelons = len(self.parameters.leads)
        self.horizon = self.parameters.periods
        self.observation_size = 4 * self.echelons * self.history
        self.action = Space("multidiscrete", (self.parameters.max_order + 1,) * self.echelons)
        columns = [-np.array(costs, np.float32)[:, None] for costs in (self.parameters.lost, self.parameters.holding)]
        # Minus one number per echelon [echelons, 1], for either engine.
        self.charges = {self.xp: tuple(map(self.array, columns)), np: tuple(columns)}
        # In main memory numpy works on the tensors' own numbers, and a call costs it a third of what it costs torch.
        self.shared = self.xp is not np and device == "cpu"
        self.ends = (self.parameters.prices[0], -self.parameters.prices[-1])

    def draw(self, generator: np.random.Generator, episodes: int) -> dict[str, NDArray[Any]]:
        """Demand of every period: [episodes, T]."""
        time = np.arange(1, self.horizon + 1)
        if self.parameters.demand == "season":
            return {"demand": (generator.integers(0, 7, (episodes, self.horizon)) + (time + 6) % 15).astype(np.float32)}
        # Merton's jump diffusion of the log level: drift, diffusion, and Poisson many normal jumps a unit of time.
        step = 1.0 / self.horizon
        jumps = generator.poisson(15 * step, (episodes, self.horizon))
        moves = generator.standard_normal((episodes, self.horizon, 2))
        log_level = 5e-5 * step + 0.01 * np.sqrt(step) * moves[..., 0] + 0.01 * np.sqrt(jumps) * moves[..., 1]
        return {"demand": np.floor(10 * np.exp(np.cumsum(log_level, axis=1))).astype(np.float32)}

    def start(self, noise: Mapping[str, Array]) -> State:
        """Full shelves, and a pipeline that is empty, initial, or promised.

        An echelon's pipeline is the tuple of rows [B] that arrive next, after that, ...; rows are shared between
        periods and never written to, so that a period copies nothing.
        """
        p, demand = self.parameters, noise["demand"].numpy() if self.shared else noise["demand"]
        xp = np if self.shared else self.xp
        nothing = xp.zeros_like(demand[:1]) + self.charges[xp][0] * 0
        promised = nothing[0] + (10.0 if p.compat == "paper" else p.initial_pipeline)
        return {
            "t": 0,
            "demand": demand,
            "stock": nothing + p.stock,
            "pipeline": tuple((promised,) * lead for lead in p.leads),
            "seen": (xp.concatenate((nothing, nothing)), nothing, nothing) * self.history,
        }

    def position(self, state: State) -> Array:
        """Stock and pipeline of every echelon before it orders: [echelons, B]."""
        xp = engine_of(state["stock"])
        return self.shown(xp.stack([sum(p, s) for s, p in zip(state["stock"], state["pipeline"], strict=True)]))

    def observe(self, state: State) -> Array:
        """The last five periods, newest first: [B, 5 * 4 * echelons]."""
        seen = state["seen"]
        return self.shown(engine_of(seen[0]).concatenate(seen)).T

    def shown(self, array: Array) -> Array:
        """What callers see of an array of the state: a tensor on the torch backend, over the same memory."""
        return self.xp.from_numpy(array) if self.xp is not np and isinstance(array, np.ndarray) else array

    def advance(self, state: State, action: Array) -> tuple[State, Array]:
        """Arrivals, demand, sales, shipments; rewards [B]."""
        if not self.shared:
            return self.pass_period(state, action)
        if not recorded(action) and isinstance(state["stock"], np.ndarray):
            after, reward = self.pass_period(state, action.numpy())
            return after, self.shown(reward)
        # Gradients are recorded on tensors only.
        tensors = {name: nested(state[name], self.shown) for name in ("demand", "stock", "pipeline", "seen")}
        return self.pass_period({"t": state["t"], **tensors}, action)

    def pass_period(self, state: State, action: Array) -> tuple[State, Array]:
        """One period by the engine that holds the state."""
        orders, coming, t = self.rows(action), state["pipeline"], state["t"]
        trading = trade
        if isinstance(orders, np.ndarray) and orders.shape[1] >= MANY:
            trading = compiled_trade() or trade
        fees, keeping = self.charges[engine_of(orders)]
        both, sold, reward = trading(
            tuple(rows[0] for rows in coming), state["stock"], state["demand"][t], orders, fees, keeping, self.ends
        )
        bought = (*rows_of(sold)[1:], orders[-1])
        pipeline = tuple((*rows[1:], units) for rows, units in zip(coming, bought, strict=True))
        seen = (both, sold, orders, *state["seen"][:-3])
        stock = both[: self.echelons]
        return {"t": t + 1, "demand": state["demand"], "stock": stock, "pipeline": pipeline, "seen": seen}, reward

    def references(self) -> dict[str, Reference]:
        """Tuned base-stock levels; heuristics, not optima."""
        if self.parameters.compat == "paper":
            return {"base-stock": Reference(654.6, "heuristic", "base-stock (51, 42, 56), tuned for the 10 % quantile")}
        return {"base-stock": Reference(485.1, "heuristic", "base-stock, tuned for the 10 % quantile")}


def trade(
    arriving: tuple[Array, ...], stock: Array, demand: Array, orders: Array, fees: Array, keeping: Array,
    ends: tuple[float, float],
) -> tuple[Array, Array, Array]:  # fmt: skip
    """Goods and money of one period.

    Args:
        arriving: rows [B], what reaches each echelon now.
        stock: [echelons, B].
        demand: [B], the customers'.
        orders: [echelons, B].
        fees: minus the cost of a lost sale, [echelons, 1].
        keeping: minus the cost of holding a unit, [echelons, 1].
        ends: selling price of echelon 1, and minus the outside supplier's.

    Returns:
        Stock and lost sales after trade [2 echelons, B], sales [echelons, B], rewards [B]; all fresh.
    """
    xp, echelons = engine_of(orders), len(arriving)
    own = rows_of(orders)
    # What is there and what is asked for, in one piece: a period costs memory traffic above all.
    both = xp.stack((*arriving, demand, *own[:-1]))
    there, asked = both[:echelons], both[echelons:]
    there += stock
    sold = xp.minimum(there, asked)
    if recorded(sold):
        there, asked = there - sold, asked - sold
        both = xp.concatenate((there, asked))
    else:
        there -= sold
        asked -= sold
    # What an echelon pays for goods the next one earns: only the ends of the chain trade with the outside.
    each = there * keeping
    add_scaled(each, asked, fees)
    # Row by row: torch's sum over rows rounds differently for different B.
    reward, *others = rows_of(each)
    for row in others:
        reward = reward + row
    add_scaled(reward, sold[0], ends[0])
    add_scaled(reward, own[-1], ends[1])
    return both, sold, reward


def add_scaled(total: Array, value: Array, factor: Any) -> None:
    """Total += factor * value in place, in one call where the backend has one."""
    if isinstance(total, np.ndarray):
        total += value * factor
    elif isinstance(factor, float):
        total.add_(value, alpha=factor)
    else:
        total.addcmul_(value, factor)


def recorded(array: Array) -> bool:
    """Whether gradients are recorded: then nothing that went into `array` may be overwritten."""
    return not isinstance(array, np.ndarray) and array.requires_grad


def rows_of(array: Array) -> tuple[Array, ...]:
    """The rows [B] of an array [n, B], as views."""
    return tuple(array) if isinstance(array, np.ndarray) else array.unbind(0)


def engine_of(array: Array) -> Any:
    """The module that computes with an array."""
    if isinstance(array, np.ndarray):
        return np
    import torch

    return torch


def nested(value: Any, change: Callable[[Array], Array]) -> Any:
    """`change` of every array in tuples of tuples."""
    return tuple(nested(part, change) for part in value) if isinstance(value, tuple) else change(value)
