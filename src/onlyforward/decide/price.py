"""Prices from sales: log demand per item as a curve in log price, with promotion, and the price that earns most.

ln sales = a_i(ln p) + promo b_i(ln p), polynomials of a degree that cross-validation chooses. Of degree 1 with a slope
e < -1 the best price is cost e / (e + 1). No price outside the observed 5-95 % range is proposed, and one that sits on
its edge is flagged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onlyforward.core.errors import FileError, UsageError
from onlyforward.core.keys import Key
from onlyforward.decide.series import Layout, Reals, column, item_names, numbers, read_table

LEAST_ROWS = 20
REPLICATES = 60
"""Resampled fits behind a proposal's caution."""
DEGREES = (1, 2, 3)
FOLDS = 5
GRID = 801
"""Prices tried between the 5 % and the 95 % quantile of those seen."""


@dataclass(frozen=True)
class Sales:
    """Rows of sales: item [N] as an index into `items`, quantity [N], price [N], promotion [N] from 0 to 1."""

    items: tuple[str, ...]
    item: NDArray[np.int64]
    quantity: Reals
    price: Reals
    promo: Reals
    repairs: tuple[str, ...] = ()

    def rows(self, chosen: NDArray[np.int64]) -> Sales:
        """Some of the rows."""
        return Sales(self.items, self.item[chosen], self.quantity[chosen], self.price[chosen], self.promo[chosen])


def read_sales(path: Path, layout: Layout) -> Sales:
    """Rows of item, sales and price; dates are not needed.

    Raises:
        FileError: a missing column, or a cell that cannot be used, by line and column.
    """
    table = read_table(path)
    if not layout.price_column:
        raise UsageError("--price-column is missing", "Name the column that holds the price")
    names = item_names(path, table, layout)
    quantity = numbers(path, column(path, table, layout.demand_column, "--demand-column"), layout.demand_column)
    price = numbers(path, column(path, table, layout.price_column, "--price-column"), layout.price_column)
    promo = np.zeros(len(price))
    if layout.promo_column:
        promo = numbers(path, column(path, table, layout.promo_column, "--promo-column"), layout.promo_column)
    free = np.flatnonzero(price <= 0)
    if len(free):
        raise FileError(
            f"{path}, line {int(free[0]) + 2}, column {layout.price_column!r}: the price is 0", "Remove the row"
        )
    repairs = []
    sold = quantity > 0
    if not sold.all():
        repairs.append(f"{int((~sold).sum())} rows without sales are left out: they have no logarithm.")
    items = tuple(dict.fromkeys(n for n, s in zip(names, sold, strict=True) if s and n not in layout.drop_items))
    if layout.items and not layout.items.startswith("top:"):
        from onlyforward.core.checks import check_choice

        wanted = tuple(check_choice(n.strip(), items, name="item") for n in layout.items.split(","))
        items = wanted
    place = {name: i for i, name in enumerate(items)}
    kept = np.array([name in place and s for name, s in zip(names, sold, strict=True)])
    item = np.array([place[name] for name, k in zip(names, kept, strict=True) if k], dtype=np.int64)
    made = Sales(items, item, quantity[kept], price[kept], promo[kept], tuple(repairs))
    if layout.items.startswith("top:"):
        totals = np.bincount(item, weights=made.quantity, minlength=len(items))
        best = list(np.argsort(-totals, kind="stable")[: int(layout.items.removeprefix("top:") or 0)])
        rows = np.flatnonzero(np.isin(item, best))
        moved = np.array([best.index(i) for i in item[rows]], dtype=np.int64)
        made = Sales(
            tuple(items[i] for i in best), moved, made.quantity[rows], made.price[rows], made.promo[rows], made.repairs
        )
    return made


@dataclass(frozen=True)
class PriceModel:
    """The fitted demand: ln sales = curve_i(x) + promo curve'_i(x), polynomials in x = ln(price / today).

    Attributes:
        items: names [n].
        curve: [n, degree + 1] without promotion, constant first.
        lift: [n, degree + 1] what a promotion adds.
        elasticity: [n], the slope of a straight line (degree 1) without promotion; NaN where the price does not vary.
        noise: [n] standard deviation of log sales.
        low: [n] 5 % quantile of the prices seen.
        high: [n] 95 % quantile.
        today: [n] median price.
    """

    items: tuple[str, ...]
    curve: Reals
    lift: Reals
    elasticity: Reals
    noise: Reals
    low: Reals
    high: Reals
    today: Reals

    @property
    def degree(self) -> int:
        """Of the polynomials."""
        return self.curve.shape[1] - 1

    def log_sales(self, sales: Sales) -> Reals:
        """Predicted log sales [N]."""
        x = powers(np.log(sales.price / self.today[sales.item]), self.degree)
        return np.asarray((x * (self.curve[sales.item] + sales.promo[:, None] * self.lift[sales.item])).sum(1))

    def quantity(self, i: int, price: Reals) -> Reals:
        """Expected sales of an item at prices, without promotion: exp of the mean log plus half its variance."""
        x = powers(np.log(price / self.today[i]), self.degree)
        return np.asarray(np.exp(x @ self.curve[i] + self.noise[i] ** 2 / 2))


def powers(x: Reals, degree: int) -> Reals:
    """1, x, ..., x^degree: [..., degree + 1]."""
    return x[..., None] ** np.arange(degree + 1)


def fit_prices(sales: Sales, *, seed: int = 0) -> PriceModel:
    """Least squares per item; the degree, 1 to 3, is the one of the least error in five-fold cross-validation.

    An item whose price does not vary gets its mean and no elasticity.

    Raises:
        UsageError: an item with fewer than 20 rows.
    """
    for i, name in enumerate(sales.items):
        count = int((sales.item == i).sum())
        if count < LEAST_ROWS:
            raise UsageError(f"The item {name!r} has {count} rows", f"Give at least {LEAST_ROWS}, or leave it out")
    fold = Key(run=seed, site="folds").numpy().permutation(len(sales.item)) % FOLDS
    errors = []
    for degree in DEGREES:
        error = 0.0
        for k in range(FOLDS):
            inside, outside = sales.rows(np.flatnonzero(fold != k)), sales.rows(np.flatnonzero(fold == k))
            model = fitted_as(inside, degree)
            error += float(((np.log(outside.quantity) - model.log_sales(outside)) ** 2).sum())
        errors.append(error)
    return fitted_as(sales, DEGREES[int(np.argmin(errors))])


def fitted_as(sales: Sales, degree: int) -> PriceModel:
    """The polynomials of one degree."""
    n = len(sales.items)
    curve, lift = np.zeros((n, degree + 1)), np.zeros((n, degree + 1))
    elasticity, noise = np.full(n, np.nan), np.zeros(n)
    low, today, high = np.ones(n), np.ones(n), np.ones(n)
    for i in range(n):
        rows = sales.item == i
        price, y, promo = sales.price[rows], np.log(sales.quantity[rows]), sales.promo[rows]
        if not len(y):
            continue
        low[i], today[i], high[i] = np.quantile(price, [0.05, 0.5, 0.95])
        varies = bool(np.log(price).std() > 1e-6)
        used = powers(np.log(price / today[i]), degree if varies else 0)
        beta = np.linalg.lstsq(np.concatenate([used, promo[:, None] * used], axis=1), y, rcond=None)[0]
        size = used.shape[1]
        curve[i, :size], lift[i, :size] = beta[:size], beta[size:]
        noise[i] = float(np.sqrt(((y - used @ curve[i, :size] - promo * (used @ lift[i, :size])) ** 2).mean()))
        if varies:
            line = powers(np.log(price / today[i]), 1)
            elasticity[i] = np.linalg.lstsq(np.concatenate([line, promo[:, None] * line], axis=1), y, rcond=None)[0][1]
    return PriceModel(sales.items, curve, lift, elasticity, noise, low, high, today)


def r_squared(model: PriceModel, sales: Sales) -> float:
    """1 - squared error of log sales over their variance around the mean of all rows."""
    y = np.log(sales.quantity)
    return 1.0 - float(((y - model.log_sales(sales)) ** 2).sum()) / max(float(((y - y.mean()) ** 2).sum()), 1e-12)


def kept_out(sales: Sales, share: float, seed: int) -> tuple[Sales, Sales]:
    """Rows to fit on and a random share kept out of the fit."""
    order = Key(run=seed, site="kept out").numpy().permutation(len(sales.item))
    cut = round(share * len(order))
    return sales.rows(np.sort(order[cut:])), sales.rows(np.sort(order[:cut]))


@dataclass(frozen=True)
class Offer:
    """The proposal for one item.

    Attributes:
        price: proposed.
        today: median price.
        edge: "", low or high: the optimum sits on that edge of the prices seen, and the truth may lie beyond.
        profit: expected profit at the proposal over that at today's price.
        cautious: the alpha quantile of that ratio over resampled rows.
    """

    price: float
    today: float
    edge: str
    profit: float
    cautious: float


def resampled(sales: Sales, degree: int, *, seed: int) -> list[PriceModel]:
    """The same curves fitted to rows drawn with replacement: what another sample could have said."""
    generator = Key(run=seed, site="bootstrap").numpy()
    count = len(sales.item)
    return [fitted_as(sales.rows(generator.integers(0, count, count)), degree) for _ in range(REPLICATES)]


def propose(model: PriceModel, others: Sequence[PriceModel], i: int, cost: float, *, alpha: float) -> Offer:
    """The price of item i that earns most within the observed range, at a unit cost.

    Args:
        model: fitted to all rows.
        others: see `resampled`.
        i: index of the item.
        cost: of a unit.
        alpha: level of the cautious ratio.

    Raises:
        UsageError: the cost is not below the highest price seen.
    """
    if cost >= model.high[i]:
        raise UsageError(
            f"--cost {cost:g} is not below the highest price seen of {model.items[i]!r} ({model.high[i]:g})", "Lower it"
        )
    today = float(model.today[i])
    if np.isnan(model.elasticity[i]):
        return Offer(today, today, "", 1.0, 1.0)
    grid = np.linspace(model.low[i], model.high[i], GRID)
    best = int(((grid - cost) * model.quantity(i, grid)).argmax())
    price = float(grid[best])
    edge = {0: "low", GRID - 1: "high"}.get(best, "")
    both = np.array([price, today])
    ratios = []
    for one in (model, *others):
        earned = (both - cost) * one.quantity(i, both)
        ratios.append(float(earned[0] / earned[1]))
    return Offer(price, today, edge, ratios[0], float(np.quantile(ratios[1:], alpha)))
