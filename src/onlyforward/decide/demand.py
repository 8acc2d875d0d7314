"""Demand fitted to a series: negative-binomial counts around level x season x price effect, one step ahead.

rate[t, i] = level[t, i] factor[season(t), i] (price[t, i] / reference[i])^elasticity[i] exp(promotion[i] promo[t, i]),
variance = rate + dispersion[i] rate^2. The level is the mean so far or an exponentially smoothed one; factors are
shrunk to those of all items together. Smoothing and shrinkage are chosen by the predictive score of the last fifth of
the fit part: the smoothest model within one standard error of the best (Hastie, Tibshirani, Friedman 2009, 7.10).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onlyforward.core.errors import UsageError
from onlyforward.core.keys import Key
from onlyforward.decide.series import Reals, Series

SMOOTHING = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3)
"""Weights of the newest period in the level, smoothest first; 0 is the mean so far."""
SHRINKAGE = (1e6, 30.0, 10.0, 3.0, 1.0, 0.0)
"""Periods that the pooled season counts for, in each item's own factors; strongest first."""
LEAST_FIT = 20
BLOCK = 7
"""Periods of a block of the bootstrap."""
REPLICATES = 200
ROUNDS = 60
SMALL = 1e-6


@dataclass(frozen=True)
class DemandModel:
    """What was fitted.

    Attributes:
        items: names [n].
        season: weekday, week-of-year or none.
        smoothing: weight of the newest period in the level; 0 is the mean so far.
        shrinkage: periods that the pooled season counts for.
        factors: [seasons, n], mean 1 over the fit part.
        level: [n] units per period after the fit part.
        seen: periods behind the level.
        dispersion: [n], variance = rate + dispersion rate^2; 0 is Poisson.
        elasticity: [n], or None where no price varies.
        promotion: [n] effect on the log rate, or None.
        reference: [n] median price of the fit part, or None.
        uncertainty: [REPLICATES, n] factors of the level, from a block bootstrap.
        repairs: sentences on the data.
    """

    items: tuple[str, ...]
    season: str
    smoothing: float
    shrinkage: float
    factors: Reals
    level: Reals
    seen: int
    dispersion: Reals
    elasticity: Reals | None
    promotion: Reals | None
    reference: Reals | None
    uncertainty: Reals
    repairs: tuple[str, ...] = ()

    def effects(self, series: Series) -> Reals:
        """What season, price and promotion make of the level: [T, n]."""
        made: Reals = self.factors[seasons(series, self.season)]
        if self.elasticity is not None and self.reference is not None and series.price is not None:
            made = made * (series.price / self.reference) ** self.elasticity
        if self.promotion is not None and series.promo is not None:
            made = made * np.exp(self.promotion * series.promo)
        return made

    def rates(self, series: Series) -> Reals:
        """One-step-ahead rates [T, n] over periods that follow the fit part, each made before its demand is seen."""
        effect = self.effects(series)
        return self.levels(series, effect)[:-1] * effect

    def levels(self, series: Series, effect: Reals) -> Reals:
        """The level before each period of a series that follows the fit part, and after its last one: [T + 1, n]."""
        found = np.empty((len(series.demand) + 1, len(self.items)))
        found[0] = self.level
        for t in range(len(series.demand)):
            now = series.part(slice(t, t + 1))
            seen = uncensored(now, found[t : t + 1] * effect[t : t + 1])[0] / np.maximum(effect[t], SMALL)
            found[t + 1] = found[t] + (self.smoothing or 1.0 / (self.seen + t + 1)) * (seen - found[t])
        return found


def seasons(series: Series, kind: str) -> NDArray[np.int64]:
    """The season of every period: [T]."""
    if kind == "none":
        return np.zeros(len(series.dates), dtype=np.int64)
    dates = series.dates.astype("datetime64[D]")
    if kind == "weekday":
        return (dates.astype(np.int64) + 3) % 7  # 1970-01-01 was a Thursday; Monday is 0
    return (dates - dates.astype("datetime64[Y]")).astype(np.int64) // 7


def season_of(series: Series) -> str:
    """The season that a series can show: weekday, week-of-year (from 80 weeks on) or none."""
    if series.dates.dtype.kind != "M":
        return "none"
    if series.period == "day":
        return "weekday" if len(series.dates) >= 28 else "none"
    return "week-of-year" if len(series.dates) >= 80 else "none"


def fit_demand(series: Series) -> DemandModel:
    """Fit on a whole series (cut the test part off before).

    Raises:
        UsageError: fewer than 20 periods.
    """
    periods = len(series.demand)
    if periods < LEAST_FIT:
        raise UsageError(f"The fit part has {periods} periods", f"Give at least {LEAST_FIT} before the test part")
    repairs = list(series.repairs)
    kind = season_of(series)
    price = price_effects(series, kind, repairs)
    smoothing, shrinkage = chosen(series, kind, price)
    model = fitted(series, kind, smoothing, shrinkage, price)
    ahead = one_step(series, periods // 2, kind, smoothing, shrinkage, price)
    later = uncensored(series.part(slice(periods // 2, None)), ahead)
    dispersion = moments(later, ahead)
    return replace(
        model,
        dispersion=dispersion,
        uncertainty=bootstrap(later, ahead, periods),
        repairs=tuple(repairs),
    )


@dataclass(frozen=True)
class PriceEffects:
    """Elasticity [n], promotion effect [n] and reference price [n]; None where there is nothing to fit."""

    elasticity: Reals | None = None
    promotion: Reals | None = None
    reference: Reals | None = None


def fitted(series: Series, kind: str, smoothing: float, shrinkage: float, price: PriceEffects) -> DemandModel:
    """Factors and level of a model whose choices are made."""
    n = len(series.items)
    blank = DemandModel(
        series.items,
        kind,
        smoothing,
        shrinkage,
        np.ones((54, n)),
        np.ones(n),
        0,
        np.zeros(n),
        price.elasticity,
        price.promotion,
        price.reference,
        np.ones((1, n)),
    )
    plain = np.maximum(blank.effects(series), SMALL)
    demand = uncensored(series, None)
    for _ in range(ROUNDS):  # expectation and maximisation; one round where nothing is censored
        factors = season_factors(demand / plain, seasons(series, kind), shrinkage)
        model = replace(blank, factors=factors)
        effect = np.maximum(model.effects(series), SMALL)
        level = level_of(demand / effect, smoothing)
        before, demand = demand, uncensored(series, level * effect)
        if np.abs(demand - before).max(initial=0.0) <= 1e-2:
            break
    return replace(model, level=level, seen=len(demand))


def uncensored(series: Series, rate: Reals | None) -> Reals:
    """Demand, its censored entries replaced by the mean of a Poisson of the given rate from the stock up: [T, n]."""
    if series.censored is None or rate is None or not series.censored.any():
        return series.demand
    from scipy.stats import poisson

    # E[D | D >= s] = rate P(D >= s - 1) / P(D >= s)
    above = np.maximum(poisson.sf(series.demand - 1, rate), 1e-12)
    mean = rate * poisson.sf(series.demand - 2, rate) / above
    return np.where(series.censored, np.maximum(mean, series.demand), series.demand)


def season_factors(demand: Reals, season: NDArray[np.int64], shrinkage: float) -> Reals:
    """[54, n]: each item's factor of a season, shrunk to the factor of all items together, which is shrunk to 1."""
    mean = np.maximum(demand.mean(0), SMALL)
    total, factors = mean.sum(), np.ones((54, demand.shape[1]))
    for s in np.unique(season):
        rows = demand[season == s]
        pooled = (rows.sum() + total) / (total * (len(rows) + 1))
        factors[s] = (rows.sum(0) + shrinkage * mean * pooled) / (mean * (len(rows) + shrinkage))
    return factors / np.maximum(factors[season].mean(0), SMALL)


def level_of(demand: Reals, smoothing: float) -> Reals:
    """The level after a series of demand without season: [n]."""
    if not smoothing:
        return np.asarray(demand.mean(0))
    level = demand[:14].mean(0)
    for row in demand[14:]:
        level = level + smoothing * (row - level)
    return np.asarray(level)


def one_step(series: Series, start: int, kind: str, smoothing: float, shrinkage: float, price: PriceEffects) -> Reals:
    """Rates of the periods from `start` on, by a model of those before: [T - start, n]."""
    base = fitted(series.part(slice(0, start)), kind, smoothing, shrinkage, price)
    return base.rates(series.part(slice(start, None)))


def moments(demand: Reals, rate: Reals) -> Reals:
    """Dispersion [n] from errors one step ahead: sum((d - r)^2 - r) / sum(r^2), not below 0."""
    return np.asarray(np.maximum(((demand - rate) ** 2 - rate).sum(0) / np.maximum((rate**2).sum(0), SMALL), 0.0))


def log_score(series: Series, rate: Reals, dispersion: Reals) -> Reals:
    """Log probability of demand rounded to whole units, or of that much and more where it is censored: [T, n]."""
    from scipy.stats import nbinom

    size = 1.0 / np.maximum(dispersion, SMALL)
    chance = size / (size + np.maximum(rate, SMALL))
    demand = np.rint(series.demand)
    exact = nbinom.logpmf(demand, size, chance)
    return np.asarray(
        exact if series.censored is None else np.where(series.censored, nbinom.logsf(demand - 1, size, chance), exact)
    )


def chosen(series: Series, kind: str, price: PriceEffects) -> tuple[float, float]:
    """Smoothing and shrinkage: the smoothest pair whose score is within one standard error of the best."""
    periods = len(series.demand)
    start = periods - max(periods // 5, 4)
    scores: dict[tuple[float, float], Reals] = {}
    for smoothing, shrinkage in product(SMOOTHING, SHRINKAGE if kind != "none" else (1e6,)):
        rate = one_step(series, start, kind, smoothing, shrinkage, price)
        inner = one_step(series.part(slice(0, start)), start // 2, kind, smoothing, shrinkage, price)
        dispersion = moments(uncensored(series.part(slice(start // 2, start)), inner), inner)
        # Items of one period share its shocks: a period is one observation.
        scores[smoothing, shrinkage] = log_score(series.part(slice(start, None)), rate, dispersion).mean(1)
    best = max(scores, key=lambda pair: float(scores[pair].mean()))
    for pair in scores:  # in the order of smoothness
        gap = scores[best] - scores[pair]
        if float(gap.mean()) <= float(gap.std(ddof=1)) / np.sqrt(len(gap)):
            return pair
    return best


def price_effects(series: Series, kind: str, repairs: list[str]) -> PriceEffects:
    """Elasticity and promotion by least squares of log demand per item, pooled over items by empirical Bayes."""
    if series.price is None and series.promo is None:
        return PriceEffects()
    base = fitted(series, kind, 0.0, 1e6, PriceEffects())
    y = np.log(series.demand + 0.5) - np.log(np.maximum(base.level * base.effects(series), SMALL))
    columns: list[tuple[str, Reals]] = []
    if series.price is not None and (series.price <= 0).any():
        repairs.append("Prices of zero or less: no elasticity is fitted.")
    elif series.price is not None:
        columns.append(("price", np.log(series.price / np.median(series.price, axis=0))))
    if series.promo is not None:
        columns.append(("promo", series.promo))
    found: dict[str, Reals] = {}
    for name, x in columns:
        still = x.std(0) < 1e-9
        if still.all():
            repairs.append(f"The {name} does not vary: its effect is not fitted.")
            continue
        found[name] = pooled(*slopes(y, [c for _, c in columns], x, still))
    reference = None if series.price is None else np.median(series.price, axis=0)
    return PriceEffects(found.get("price"), found.get("promo"), reference)


def slopes(y: Reals, columns: list[Reals], x: Reals, still: NDArray[np.bool_]) -> tuple[Reals, Reals]:
    """Slope of y on x beside the other columns, and its standard error, per item; infinite error where x is still."""
    slope, error = np.zeros(y.shape[1]), np.full(y.shape[1], np.inf)
    at = next(i for i, c in enumerate(columns) if c is x)
    for i in np.flatnonzero(~still):
        design = np.column_stack([np.ones(len(y)), *(c[:, i] for c in columns)])
        gram = np.linalg.pinv(design.T @ design)
        beta = gram @ design.T @ y[:, i]
        noise = float(((y[:, i] - design @ beta) ** 2).sum()) / max(len(y) - design.shape[1], 1)
        slope[i], error[i] = beta[at + 1], np.sqrt(max(noise * gram[at + 1, at + 1], 1e-12))
    return slope, error


def pooled(slope: Reals, error: Reals) -> Reals:
    """Slopes shrunk to their precision-weighted mean (DerSimonian-Laird variance between items)."""
    sure = np.isfinite(error)
    weight = 1.0 / error[sure] ** 2
    mean = float((weight * slope[sure]).sum() / weight.sum())
    if sure.sum() > 1:
        spread = float((weight * (slope[sure] - mean) ** 2).sum()) - (int(sure.sum()) - 1)
        between = max(spread / float(weight.sum() - (weight**2).sum() / weight.sum()), 0.0)
        weight = 1.0 / (error[sure] ** 2 + between)
        mean = float((weight * slope[sure]).sum() / weight.sum())
    else:
        between = np.inf
    made = np.full(len(slope), mean)
    trust = 1.0 if np.isinf(between) else between / (between + error[sure] ** 2)
    made[sure] = mean + trust * (slope[sure] - mean)
    return made


def bootstrap(demand: Reals, rate: Reals, periods: int) -> Reals:
    """Factors of the level [REPLICATES, n]: means of demand over rate in resampled blocks, for a fit of `periods`."""
    ratio = demand / np.maximum(rate, SMALL)
    blocks = max(len(ratio) // BLOCK, 1)
    means = np.stack([part.mean(0) for part in np.array_split(ratio, blocks)])
    drawn = Key(site="bootstrap").numpy().integers(0, blocks, (REPLICATES, max(periods // BLOCK, 1)))
    made = means[drawn].mean(1)
    return np.asarray(made / np.maximum(made.mean(0), SMALL))


def summary(model: DemandModel, test: Series) -> dict[str, Any]:
    """How well the model foretells a test part, one step ahead.

    Returns:
        test_log_score (nats per item and period), coverage_80 (share of demand within the 10 % and 90 % quantiles),
        r2_test (against each item's mean of the test part).
    """
    rate = model.rates(test)
    score = log_score(test, rate, model.dispersion)
    inside = (test.demand >= quantile(rate, model.dispersion, 0.1)) & (
        test.demand <= quantile(rate, model.dispersion, 0.9)
    )
    total = float(((test.demand - test.demand.mean(0)) ** 2).sum())
    return {
        "test_log_score": float(score.mean()),
        "coverage_80": float(inside.mean()),
        "r2_test": 1.0 - float(((test.demand - rate) ** 2).sum()) / max(total, SMALL),
    }


def quantile(rate: Reals, dispersion: Reals, level: Any) -> Reals:
    """Whole-unit quantiles of the negative binomial, same shape as `rate`."""
    from scipy.stats import nbinom

    size = 1.0 / np.maximum(dispersion, SMALL)
    return np.asarray(nbinom.ppf(level, size, size / (size + np.maximum(rate, SMALL))))
