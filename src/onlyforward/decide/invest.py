"""Long-only weights from a table of prices: the quantile of the return over a horizon, learned by running the past.

The wealth of weights w, rebalanced every day, grows by w'(1 + r_t) less `cost` times the turnover that puts the weights
back. The learned weights ascend the alpha-quantile of all overlapping windows of the fit part by antithetic noise on
their logits (`core.gradient`), from the mean - z sd weights on, and keep the best that the fit part saw.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from onlyforward.core.errors import FileError, UsageError
from onlyforward.core.estimate import gradient
from onlyforward.core.keys import Key
from onlyforward.core.perturb.parameters import Parameters
from onlyforward.core.weigh.antithetic import Antithetic
from onlyforward.decide.series import Layout, Reals, column, days, numbers, read_table

STEPS = 120
COPIES = 32
REPLICATES = 400


@dataclass(frozen=True)
class Prices:
    """Assets [n], dates [T], prices [T, n]."""

    assets: tuple[str, ...]
    dates: NDArray[np.datetime64]
    price: Reals

    @property
    def returns(self) -> Reals:
        """Simple daily returns [T - 1, n]."""
        return np.asarray(self.price[1:] / self.price[:-1] - 1)


def read_prices(path: Path, layout: Layout, drop: tuple[str, ...]) -> Prices:
    """One row a day, one column an asset.

    Raises:
        FileError: a missing column or a price that is no positive number, by line and column.
        UsageError: fewer than two assets.
    """
    table = read_table(path)
    when = days(
        path, list(column(path, table, layout.date_column, "--date-column")), layout.date_column, layout.date_format
    )
    for name in drop:
        column(path, table, name, "--drop")
    assets = tuple(name for name in table.columns if name not in (layout.date_column, *drop))
    if len(assets) < 2:
        raise UsageError(f"{path} has {len(assets)} assets", "Give a column for each of at least two")
    price = np.stack([numbers(path, column(path, table, name, "--drop"), name) for name in assets], axis=1)
    free = np.argwhere(price <= 0)
    if len(free):
        row, which = free[0]
        raise FileError(f"{path}, line {row + 2}, column {assets[which]!r}: the price is 0", "Mend or drop it")
    order = np.argsort(when, kind="stable")
    if (np.diff(when[order]) == np.timedelta64(0, "D")).any():
        raise FileError(f"{path} has two rows of one date", "Keep one")
    return Prices(assets, when[order], price[order])


def growth(weights: Reals, returns: Reals, cost: float) -> Reals:
    """Log growth of each day for daily rebalanced weights [..., n]: [..., T]."""
    gross = (1 + returns) @ np.swapaxes(np.atleast_2d(weights), 0, 1)
    drift = np.abs(np.atleast_2d(weights)[:, None] * ((1 + returns)[None] / gross.T[..., None] - 1)).sum(-1)
    made = np.log(gross.T) + np.log1p(-cost * drift)
    return made if weights.ndim > 1 else made[0]


def windows(log_growth: Reals, horizon: int) -> Reals:
    """Returns of all overlapping windows of `horizon` days: [..., T - horizon + 1]."""
    total = np.concatenate([np.zeros((*log_growth.shape[:-1], 1)), np.cumsum(log_growth, axis=-1)], axis=-1)
    return np.expm1(total[..., horizon:] - total[..., :-horizon])


def value(weights: Reals, returns: Reals, *, horizon: int, cost: float, alpha: float) -> Reals:
    """The alpha-quantile of the window returns of weights [..., n]."""
    return np.asarray(np.quantile(windows(growth(weights, returns, cost), horizon), alpha, axis=-1))


def markowitz(returns: Reals, horizon: int, alpha: float) -> Reals:
    """Long-only weights of the largest mean - z sd of a window, moments from days, z of the normal alpha-quantile."""
    from scipy.stats import norm

    z = -float(norm.ppf(alpha))
    mean, cov = horizon * returns.mean(0), horizon * np.cov(returns.T)
    return long_only(lambda w: -(w @ mean - z * np.sqrt(w @ cov @ w)), len(mean))


def minimum_variance(returns: Reals) -> Reals:
    """Long-only weights of the least variance."""
    cov = np.cov(returns.T)
    return long_only(lambda w: 1e4 * float(w @ cov @ w), len(cov))


def long_only(loss, n: int) -> Reals:  # type: ignore[no-untyped-def]
    """The minimiser of a smooth loss on the simplex."""
    from scipy.optimize import minimize

    found = minimize(
        loss,
        np.full(n, 1 / n),
        bounds=[(0, 1)] * n,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        method="SLSQP",
    )
    weights = np.maximum(found.x, 0)
    return np.asarray(weights / weights.sum())


def learn(returns: Reals, start: Reals, *, horizon: int, cost: float, alpha: float, seed: int) -> Reals:
    """Ascend the quantile of the fit part from a start; the best weights seen."""

    def run(params: dict[str, torch.Tensor], key: Key) -> torch.Tensor:
        weights = torch.softmax(params["logits"].double(), -1).numpy()
        return torch.as_tensor(100 * value(weights, returns, horizon=horizon, cost=cost, alpha=alpha))[:, None]

    logits = torch.tensor(np.log(np.maximum(start, 1e-3)))
    logits.requires_grad_(False)
    optimizer = torch.optim.Adam([logits], lr=0.05, maximize=True)
    best, found = float("-inf"), start
    for step in range(STEPS):
        estimate = gradient(
            run,
            {"logits": logits},
            perturb=Parameters(sigma=0.2 * 0.975**step, antithetic=True, batched=True),
            weigh=Antithetic(),
            key=Key(run=seed, step=step, site="invest"),
            copies=COPIES,
        )
        logits.grad = estimate.value["logits"]
        optimizer.step()
        weights = torch.softmax(logits, -1).numpy()
        now = float(value(weights, returns, horizon=horizon, cost=cost, alpha=alpha))
        if now > best:
            best, found = now, weights
    return np.asarray(found)


def interval(
    ours: Reals, theirs: Reals, returns: Reals, *, horizon: int, cost: float, alpha: float, seed: int
) -> tuple[float, float]:
    """95 % interval of the difference of two quantiles, by resampling blocks of twice the horizon."""
    paths = [windows(growth(w, returns, cost), horizon) for w in (ours, theirs)]
    generator = Key(run=seed, site="blocks").numpy()
    length = 2 * horizon
    count = max(len(paths[0]) // length, 1)
    gaps = []
    for _ in range(REPLICATES):
        first = generator.integers(0, max(len(paths[0]) - length, 1), count)
        rows = (first[:, None] + np.arange(min(length, len(paths[0])))).ravel()
        gaps.append(np.quantile(paths[0][rows], alpha) - np.quantile(paths[1][rows], alpha))
    low, high = np.quantile(gaps, [0.025, 0.975])
    return float(low), float(high)
