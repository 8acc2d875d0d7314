"""An order plan: levels from a demand model, chosen before the test part, backtested on it beside simple rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from onlyforward.core.errors import UsageError
from onlyforward.core.keys import Key
from onlyforward.decide.demand import DemandModel, fit_demand, quantile, seasons
from onlyforward.decide.series import DAYS, Reals, Series
from onlyforward.decide.stock import Costs, Ledger, best_levels, best_reorder, operate

SAFETY = np.linspace(-1.5, 4.5, 49)
"""Safety factors that the linear policy chooses from."""
PATHS = 400


@dataclass(frozen=True)
class Levels:
    """A policy's numbers for a stretch of periods.

    Attributes:
        level: [T, n] order up to.
        reorder: [T, n], or None.
        cap: largest order [n], or infinity.
        reason: why the levels are what they are, for a reader.
    """

    level: Reals
    reorder: Reals | None = None
    cap: Reals | float = np.inf
    reason: str = ""

    def run(self, demand: Reals, costs: Costs) -> Ledger:
        """On demand [T, n] or [T, paths, n]."""
        if demand.ndim == 2:
            return operate(self.level, demand, costs, reorder=self.reorder, cap=self.cap)
        reorder = None if self.reorder is None else self.reorder[:, None]
        return operate(self.level[:, None], demand, costs, reorder=reorder, cap=self.cap)


Policy = Callable[[Series, Series, Costs], Levels]
"""(what is known, the periods to order for, costs) -> levels; level t uses demand before t alone."""


def forecast(model: DemandModel, series: Series, protection: int) -> tuple[Reals, Reals]:
    """Mean and variance of the demand of `protection` periods from each period on: [T, n] each, online."""
    periods = len(series.demand)
    effect = model.effects(extended(series, protection - 1))
    levels = model.levels(series, effect)[:-1]
    mean, variance = np.zeros_like(levels), np.zeros_like(levels)
    for ahead in range(protection):
        rate = levels * effect[ahead : ahead + periods]
        mean += rate
        variance += rate + model.dispersion * rate**2
    return mean, variance


def extended(series: Series, more: int) -> Series:
    """A series with further periods whose demand is 0, at the last price, without promotion."""
    if not more:
        return series
    last = series.dates[-1]
    step = DAYS[series.period] if series.dates.dtype.kind == "M" else 1
    dates = np.concatenate([series.dates, last + np.arange(1, more + 1) * step])
    rows = np.zeros((more, series.demand.shape[1]))
    price = None if series.price is None else np.concatenate([series.price, np.repeat(series.price[-1:], more, 0)])
    promo = None if series.promo is None else np.concatenate([series.promo, rows])
    censored = None if series.censored is None else np.concatenate([series.censored, rows > 0])
    demand = np.concatenate([series.demand, rows])
    return replace(series, dates=dates, demand=demand, price=price, promo=promo, censored=censored)


# Policies ------------------------------------------------------------------------------------------------------------


def base_stock(known: Series, ahead: Series, costs: Costs) -> Levels:
    """The constant level of each item that earned most so far."""
    best = best_levels(known.demand, costs)
    return Levels(np.broadcast_to(best, ahead.demand.shape), reason="the constant level that earned most in the past")


def capped(known: Series, ahead: Series, costs: Costs) -> Levels:
    """Base-stock whose orders are cut at a cap; both are chosen on the past (a good rule where sales are lost)."""
    best = best_levels(known.demand, costs)
    top = np.maximum(known.demand.max(0), 1.0)
    shares = np.concatenate([np.linspace(0.5, 1.0, 11), [np.inf]])
    level = np.broadcast_to(best, known.demand.shape)
    earned = np.stack([operate(level, known.demand, costs, cap=np.ceil(share * top)).profit.sum(0) for share in shares])
    cap = np.ceil(shares[earned.argmax(0)] * top)
    return Levels(
        np.broadcast_to(best, ahead.demand.shape), cap=cap, reason="the level and cap that earned most in the past"
    )


def reorder_point(known: Series, ahead: Series, costs: Costs) -> Levels:
    """The (s, S) of each item that earned most so far."""
    low, high = best_reorder(known.demand, costs)
    shape = ahead.demand.shape
    reason = "the reorder point and level that earned most in the past"
    return Levels(np.broadcast_to(high, shape), np.broadcast_to(low, shape), reason=reason)


def seasonal(known: Series, ahead: Series, costs: Costs) -> Levels:
    """Days: the best level of each weekday. Weeks: last year's demand of the same weeks, and a safety stock."""
    if known.period == "day" and known.dates.dtype.kind == "M":
        before, after = seasons(known, "weekday"), seasons(ahead, "weekday")
        whole = best_levels(known.demand, costs)
        table = {s: best_levels(known.demand[before == s], costs) for s in np.unique(before)}
        if costs.protection > 1:  # a level covers several days: only its share moves with the weekday
            mean = np.maximum(known.demand.mean(0), 1e-9)
            table = {s: np.rint(whole * known.demand[before == s].mean(0) / mean) for s in np.unique(before)}
        return Levels(np.stack([table.get(s, whole) for s in after]), reason="the level of the weekday")
    year = 52
    if len(known.demand) < year + costs.protection:
        return base_stock(known, ahead, costs)
    past = np.concatenate([known.demand, ahead.demand])
    start = len(known.demand)
    need = np.stack([past[t - year : t - year + costs.protection].sum(0) for t in range(year, len(past))])
    trained, wanted = need[: start - year], need[start - year :]
    grid = np.linspace(-0.2, 1.0, 25)[:, None, None] * known.demand.mean(0)
    levels = np.maximum(np.rint(trained[:, None] + grid[:, 0][None]), 0)
    earned = operate(levels, known.demand[year:, None], costs).profit.sum(0)
    safety = grid[earned.argmax(0), 0, np.arange(past.shape[1])]
    return Levels(np.maximum(np.rint(wanted + safety), 0), reason="last year's same weeks and a safety stock")


def linear(known: Series, ahead: Series, costs: Costs) -> Levels:
    """Forecast of the demand to cover + z standard deviations, z of each item learned in the fitted simulator."""
    model = fit_demand(known)
    z = learned_safety(model, known, costs)
    return from_model(model, ahead, costs, z)


def from_model(model: DemandModel, ahead: Series, costs: Costs, z: Reals) -> Levels:
    """Levels of the linear policy for given safety factors [n]."""
    mean, variance = forecast(model, ahead, costs.protection)
    if costs.perishable:  # one period: the negative binomial's own quantile is the optimum
        return Levels(quantile(mean, model.dispersion, costs.ratio), reason="the quantile of the day's forecast demand")
    level = np.maximum(np.rint(mean + z * np.sqrt(variance)), 0)
    return Levels(level, reason="the forecast of the demand to cover, and a safety stock learned by simulation")


def learned_safety(model: DemandModel, known: Series, costs: Costs) -> Reals:
    """The factor z of each item that earns most on simulated demand: [n]."""
    horizon = min(len(known.demand), 52)
    recent = known.part(slice(len(known.demand) - horizon, None))
    rate = model.level * model.effects(recent)
    demand = simulate(model, rate, 32, Key(site="safety"))
    mean = np.stack([rate[np.minimum(np.arange(t, t + costs.protection), horizon - 1)].sum(0) for t in range(horizon)])
    spread = np.sqrt(mean + model.dispersion * mean**2 / costs.protection)
    earned = []
    for z in SAFETY:
        level = np.maximum(np.rint(mean + z * spread), 0)[:, None]
        earned.append(operate(level, demand, costs).profit.sum((0, 1)))
    return SAFETY[np.stack(earned).argmax(0)]


def simulate(model: DemandModel, rate: Reals, paths: int, key: Key) -> Reals:
    """Demand [T, paths, n] around a rate [T, n]; each path draws its own level from the bootstrap."""
    generator = key.numpy()
    level = model.uncertainty[generator.integers(0, len(model.uncertainty), paths)]
    mean = rate[:, None] * level
    size = 1.0 / np.maximum(model.dispersion, 1e-6)
    return np.asarray(generator.poisson(generator.gamma(size, np.maximum(mean, 1e-9) / size)), dtype=np.float64)


def foresight(ahead: Series, costs: Costs) -> Levels:
    """Perfect knowledge of the demand to come: an upper bound, not a policy."""
    padded = np.concatenate([ahead.demand, np.zeros((costs.protection, ahead.demand.shape[1]))])
    periods = len(ahead.demand)
    return Levels(np.stack([padded[t : t + costs.protection].sum(0) for t in range(periods)]))


POLICIES: dict[str, Policy] = {
    "base-stock": base_stock,
    "seasonal": seasonal,
    "capped": capped,
    "sS": reorder_point,
    "linear": linear,
}


def choose(known: Series, costs: Costs, objective: str, alpha: float = 0.1) -> tuple[str, dict[str, float]]:
    """The policy that does best on the last fifth of what is known, each made without it; and all their scores."""
    periods = len(known.demand)
    cut = periods - max(periods // 5, costs.protection + 4)
    if cut < 20:
        raise UsageError(f"{periods} periods are too few to choose a policy", "Name one with --policy")
    before, after = known.part(slice(0, cut)), known.part(slice(cut, None))
    names = [n for n in POLICIES if not (n == "sS" and not costs.fixed) and not (n == "capped" and costs.perishable)]
    scores = {}
    for name in names:
        profit = POLICIES[name](before, after, costs).run(after.demand, costs).profit.sum(1)
        scores[name] = float(np.quantile(profit, alpha) if objective == "quantile" else profit.mean())
    return max(scores, key=lambda name: scores[name]), scores
