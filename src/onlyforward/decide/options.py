"""Options of the manager's commands: your own table in, a plan, a price list, weights or a slate out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from onlyforward.run.bounds import Count, Natural, NotNegative, Positive, Share
from onlyforward.run.context import Common


@dataclass(frozen=True, kw_only=True)
class Table(Common):
    """What every command that reads sales has in common."""

    csv: Path
    """The table: CSV or TSV with a header."""
    layout: Literal["long", "wide", "transactions"] = "long"
    """long (a row per date and item), wide (a row per item, a column per period) or transactions (a row per unit)."""
    date_column: str = "date"
    """Column of the dates."""
    item_column: str = "item"
    """Column of the items; empty where there is one item."""
    demand_column: str = "demand"
    """Column of the demand, in units."""
    price_column: str = ""
    """Column of the price, if there is one."""
    promo_column: str = ""
    """Column of the promotion, a number from 0 to 1, if there is one."""
    stock_column: str = ""
    """Column of the stock before demand, if there is one: demand that reaches it may have been larger."""
    value_columns: str = ""
    """First and last period column of a wide table, as M01:M24 (default: all but the item's)."""
    date_format: str = ""
    """Format of the dates, as %d/%m/%y (default: the one that fits the whole column)."""
    period: Literal["day", "week"] = "day"
    """day or week."""
    unit: NotNegative = 0.0
    """Demand is divided by this and rounded to whole units (0: it is in units)."""
    items: str = ""
    """top:5 for the five most sold, or names separated by commas (default: all)."""
    drop_items: tuple[str, ...] = ()
    """Names that are no items."""
    closed_days: Literal["skip", "zero"] = "skip"
    """Days without any row: skip leaves them out, zero counts them as days without demand."""


@dataclass(frozen=True, kw_only=True)
class FitDemand(Table):
    """Fit demand to a table and say how well it foretells the last periods."""

    test_periods: Natural = 0
    """Periods at the end that are kept out of the fit (default: a fifth)."""


@dataclass(frozen=True, kw_only=True)
class Plan(FitDemand):
    """Plan orders from a table of demand, backtested on its last periods beside simple rules."""

    price: Positive
    """Money per unit sold."""
    cost: NotNegative
    """Money per unit ordered."""
    holding: NotNegative = 0.0
    """Money per unit left at the end of a period."""
    penalty: NotNegative = 0.0
    """Money per unit of lost demand, beyond its margin."""
    salvage: float = 0.0
    """Money per perishable unit left at the end of its period."""
    fixed_cost: NotNegative = 0.0
    """Money per order."""
    lead: Natural = 0
    """Periods from order to arrival."""
    review: Count = 1
    """Periods between orders."""
    perishable: bool = False
    """Nothing is carried over to the next period."""
    objective: str = "quantile"
    """What the choice of a policy looks at on held-back periods: quantile (the worst decile of the profit) or mean."""
    alpha: Share = 0.1
    """Level of the quantile."""
    policy: str = "auto"
    """auto (the best on held-back periods), base-stock, seasonal, capped, sS or linear."""
    horizon: Count = 14
    """Periods to plan ahead of the table's end."""


@dataclass(frozen=True, kw_only=True)
class Price(Table):
    """Propose prices from a table of sales and prices."""

    cost: NotNegative
    """Money per unit."""
    alpha: Share = 0.1
    """Level of the cautious profit ratio over resampled rows."""
    test_share: Share = 0.2
    """Share of the rows, at random, kept out of the fit."""


@dataclass(frozen=True, kw_only=True)
class Portfolio(Common):
    """Learn long-only weights whose worst decile of returns is best."""

    csv: Path
    """Table of prices: a row a day, a column an asset."""
    date_column: str = "date"
    """Column of the dates."""
    date_format: str = ""
    """Format of the dates (default: the one that fits the whole column)."""
    drop: tuple[str, ...] = ()
    """Columns that are no assets."""
    horizon: Count = 20
    """Days of a return."""
    train_until: str = ""
    """First day of the test part, as 2014-01-01 (default: the last third)."""
    alpha: Share = 0.1
    """Level of the quantile."""
    cost: Share = 0.001
    """Share of the turnover that daily rebalancing costs."""


@dataclass(frozen=True, kw_only=True)
class Recommend(Common):
    """Recommend slates in a simulator of clicking users that is fitted to ratings."""

    ratings: Path
    """Table of user, item and rating."""
    user_column: str = "userId"
    """Column of the users."""
    item_column: str = "movieId"
    """Column of the items."""
    rating_column: str = "rating"
    """Column of the ratings."""
    slate: Count = 5
    """Items shown at a time."""
    factors: Count = 16
    """Dimension of taste."""
    users: Natural = 0
    """Simulated users (default: half of those in the table; the other half is known)."""
