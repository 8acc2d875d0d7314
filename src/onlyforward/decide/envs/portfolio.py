"""Wealth from five correlated assets over a hundred steps, long only, with a cost of buying (arXiv 2305.07248)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onlyforward.core.checks import check_range, require
from onlyforward.core.errors import FileError, UsageError
from onlyforward.decide.envs.base import Array, Environment, Reference, Space, State

DRIFT = (0.01, 0.02, 0.03, 0.04, 0.05)
COVARIANCE = (
    (0.01, 0.0, 0.0, 0.0, 0.0),
    (0.0, 0.04, -0.055, 0.0, 0.0),
    (0.0, -0.055, 0.09, 0.0, 0.0),
    (0.0, 0.0, 0.0, 0.16, -0.19),
    (0.0, 0.0, 0.0, -0.19, 0.25),
)


@dataclass(frozen=True)
class PortfolioParameters:
    """Parameters.

    Attributes:
        drift: expected growth of every asset per unit of time.
        covariance: of the assets' returns per unit of time.
        cost: price of buying, as a share of the amount bought.
        periods: T steps of length 1 / T.
        wealth: at the start; the reward is the final wealth minus it.
        discount: per step; the paper's code uses 0.99.
        path: returns of a real market [T, assets], resampled in blocks, instead of the diffusion.
        prices: CSV file of prices, one row a day and one column a share, whose daily returns become `path`.
    """

    drift: tuple[float, ...] = DRIFT
    covariance: tuple[tuple[float, ...], ...] = COVARIANCE
    cost: float = 0.001
    periods: int = 100
    wealth: float = 100.0
    discount: float = 1.0
    path: tuple[tuple[float, ...], ...] = ()
    prices: str = ""

    def __post_init__(self) -> None:
        check_range(self.cost, name="cost", low=0.0, high=1.0)
        check_range(self.wealth, name="wealth", low=0.0, open_low=True)
        check_range(self.periods, name="periods", low=1)
        if self.prices:
            object.__setattr__(self, "path", returns_of(Path(self.prices)))
        if not self.path and len(self.covariance) != len(self.drift):
            raise UsageError(
                f"drift has {len(self.drift)} assets, covariance {len(self.covariance)}", "Give equal numbers"
            )


def returns_of(place: Path) -> tuple[tuple[float, ...], ...]:
    """Simple returns [T - 1][shares] of a CSV file of prices; columns without numbers, such as dates, are left out.

    Raises:
        FileError: no such file, fewer than 20 days, or a price that is missing or not positive.
    """
    pandas = require("pandas", "data")
    try:
        frame = pandas.read_csv(place).select_dtypes("number")
    except (OSError, ValueError) as error:
        raise FileError(
            f"{place} cannot be read as CSV: {str(error).splitlines()[0]}", "Give a file of prices"
        ) from error
    values = frame.to_numpy(dtype=np.float64)
    if values.shape[0] < 21 or not values.shape[1]:
        raise FileError(f"{place} has {values.shape[0]} days of {values.shape[1]} shares", "Give at least 21 days")
    bad = np.argwhere(~(values > 0))
    if len(bad):
        row, column = bad[0]
        raise FileError(f"{place}, line {row + 2}, column {frame.columns[column]}: no positive price", "Mend the file")
    return tuple(map(tuple, (values[1:] / values[:-1] - 1).tolist()))


class Portfolio(Environment):
    """The batched account; observations are time left, log wealth over the start, and the weights held: [B, 2 + n]."""

    id = "Portfolio"
    alpha = 0.1

    def __init__(
        self, parameters: PortfolioParameters | None = None, *, backend: str = "numpy", device: str = "cpu"
    ) -> None:
        super().__init__(backend=backend, device=device)
        self.parameters = parameters or PortfolioParameters()
        self.assets = len(self.parameters.path[0]) if self.parameters.path else len(self.parameters.drift)
        self.horizon = self.parameters.periods
        self.gamma = self.parameters.discount
        self.observation_size = 2 + self.assets
        self.action = Space("simplex", (self.assets,))

    def draw(self, generator: np.random.Generator, episodes: int) -> dict[str, NDArray[Any]]:
        """Simple returns of every asset in every step: [episodes, T, assets]."""
        p = self.parameters
        if p.path:
            market, block = np.array(p.path), 5
            starts = generator.integers(0, len(market) - block + 1, (episodes, -(-self.horizon // block)))
            days = (starts[..., None] + np.arange(block)).reshape(episodes, -1)[:, : self.horizon]
            return {"move": market[days].astype(np.float32)}
        step = 1.0 / self.horizon
        unit = generator.standard_normal((episodes, self.horizon, self.assets))
        root = np.linalg.cholesky(np.array(p.covariance))
        return {"move": (np.array(p.drift) * step + unit @ root.T * np.sqrt(step)).astype(np.float32)}

    def start(self, noise: Mapping[str, Array]) -> State:
        """All in cash: the first purchase costs too."""
        batch = noise["move"].shape[1]
        held = self.zeros(self.assets, batch)
        return {"t": 0, "move": noise["move"], "wealth": self.zeros(batch) + self.parameters.wealth, "held": held}

    def observe(self, state: State) -> Array:
        """Time left, log of wealth over the start, weights held: [B, 2 + n]."""
        wealth = self.xp.log(state["wealth"].clip(min=1e-6) / self.parameters.wealth)[None]
        left = wealth * 0 + (1 - state["t"] / self.horizon)
        return self.xp.concatenate((left, wealth, state["held"])).T

    def advance(self, state: State, action: Array) -> tuple[State, Array]:
        """Rebalance to the weights `action [B, n]` on the simplex, pay for what is bought, then one Euler step."""
        t, weights, move = state["t"], self.rows(action), self.rows(state["move"][state["t"]])
        bought = (weights - state["held"]).clip(min=0).sum(0)
        invested = state["wealth"] * (1 - self.parameters.cost * bought)
        gained = weights * move
        growth = 1 + gained.sum(0)
        wealth = (invested * growth).clip(min=1e-6)
        held = (weights + gained) / growth
        last = t + 1 == self.horizon
        reward = wealth - self.parameters.wealth if last else wealth * 0
        return {"t": t + 1, "move": state["move"], "wealth": wealth, "held": held}, reward

    def references(self) -> dict[str, Reference]:
        """The best constant mix, simulated, and the bound of dynamic long-only trading without cost."""
        if self.parameters.cost == 0:
            return {
                "constant mix": Reference(-1.914, "exact", "best constant long-only weights, closed form"),
                "dynamic bound": Reference(2.9, "heuristic", "dynamic program on log wealth"),
            }
        return {"constant mix": Reference(-2.17, "heuristic", "best constant long-only weights, simulated")}
