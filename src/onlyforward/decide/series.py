"""A manager's CSV as demand per period and item: three layouts, every repair said, every fault named by its line."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onlyforward.core.checks import check_choice, require
from onlyforward.core.errors import FileError, UsageError

if TYPE_CHECKING:
    import pandas as pd

Reals = NDArray[np.float64]

LAYOUTS = ("long", "wide", "transactions")
FORMATS = (
    "%Y-%m-%d",
    "%Y/%m/%d",
    "%Y%m%d",
    "%d/%m/%Y",
    "%m/%d/%Y",
    "%d.%m.%Y",
    "%d-%m-%Y",
    "%m-%d-%Y",
    "%d/%m/%y",
    "%m/%d/%y",
)
"""Date formats that are tried on a whole column; a time of day after the date is ignored."""
DAYS = {"day": 1, "week": 7}


@dataclass(frozen=True)
class Layout:
    """How to read a file; the names are those of the command's options.

    Attributes:
        layout: long (a row per date and item), wide (a row per item, a column per period) or transactions (a row
            per unit).
        date_column: name of the dates (long, transactions).
        item_column: name of the items; "" where there is one item.
        demand_column: name of the demand (long).
        price_column: name of the price (long), or "".
        promo_column: name of the promotion, a number from 0 to 1 (long), or "".
        stock_column: name of the stock before demand (long), or "": demand that reaches it is censored.
        value_columns: "FIRST:LAST" of the period columns (wide), or "" for all but the item's.
        date_format: of `datetime.strptime`; "" infers it from the whole column.
        period: day or week.
        unit: demand is divided by it and rounded to whole units; 0 keeps it as it is.
        items: "top:K" or names; "" is all.
        drop_items: names that are no items.
        closed_days: skip leaves days without any row out, zero counts them as days without demand.
    """

    layout: str = "long"
    date_column: str = "date"
    item_column: str = "item"
    demand_column: str = "demand"
    price_column: str = ""
    promo_column: str = ""
    stock_column: str = ""
    value_columns: str = ""
    date_format: str = ""
    period: str = "day"
    unit: float = 0.0
    items: str = ""
    drop_items: tuple[str, ...] = ()
    closed_days: str = "skip"


@dataclass(frozen=True)
class Series:
    """Demand of n items in T periods.

    Attributes:
        items: names [n], the most sold first for "top:K", else in the order of the file.
        dates: [T] days (the first of a period), or period numbers for a wide file whose headings are no dates.
        demand: [T, n] units.
        price: [T, n], or None.
        promo: [T, n], or None.
        censored: [T, n] bool: demand reached the stock and may have been larger; None without a stock column.
        period: day or week.
        repairs: sentences that say what was mended.
    """

    items: tuple[str, ...]
    dates: NDArray[Any]
    demand: Reals
    price: Reals | None = None
    promo: Reals | None = None
    censored: NDArray[np.bool_] | None = None
    period: str = "day"
    repairs: tuple[str, ...] = field(default=())

    def part(self, periods: slice) -> Series:
        """Some of the periods."""
        cut = {name: getattr(self, name) for name in ("price", "promo", "censored")}
        own = {name: None if value is None else value[periods] for name, value in cut.items()}
        return replace(self, dates=self.dates[periods], demand=self.demand[periods], **own)


def read_series(path: Path, layout: Layout) -> Series:
    """Read a file.

    Raises:
        FileError: no such file, a column that is missing, or a cell that cannot be used, by line and column.
        UsageError: an ambiguous date format, or items that are not there.
    """
    check_choice(layout.layout, LAYOUTS, name="layout")
    check_choice(layout.period, DAYS, name="period")
    check_choice(layout.closed_days, ("skip", "zero"), name="closed-days")
    table = read_table(path)
    made = {"long": long, "wide": wide, "transactions": transactions}[layout.layout](path, table, layout)
    made = chosen_items(path, made, layout)
    if layout.unit > 0:
        made = replace(made, demand=np.rint(made.demand / layout.unit))
    return made


def read_table(path: Path) -> pd.DataFrame:
    """The cells of a CSV or TSV as text; the separator is the one that its first line holds most."""
    pandas = require("pandas", "data")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            head = file.readline()
        if not head.strip():
            raise FileError(f"{path} has no header", "Give a first line with the names of the columns")
        separator = max(",;\t|", key=head.count)
        table: pd.DataFrame = pandas.read_csv(
            path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig", quoting=csv.QUOTE_MINIMAL
        )
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror}", "Check the name and the rights") from error
    except UnicodeDecodeError as error:
        raise FileError(f"{path} is not UTF-8 text at byte {error.start}", "Save it as UTF-8") from error
    except ValueError as error:
        raise FileError(f"{path} is no table: {' '.join(str(error).split())}", "Mend that line") from error
    if table.empty:
        raise FileError(f"{path} has a header and no rows", "Give at least one row")
    table.columns = [str(name).strip() for name in table.columns]
    return table


def column(path: Path, table: pd.DataFrame, name: str, option: str) -> pd.Series:
    """A column by name.

    Raises:
        FileError: it is not there; the message names those that are.
    """
    if name not in table.columns:
        raise FileError(
            f"{path} has no column {name!r}", f"It has {', '.join(map(repr, table.columns))}: choose with {option}"
        )
    return table[name].str.strip()


def numbers(path: Path, cells: pd.Series, name: str, *, low: float | None = 0.0) -> Reals:
    """A column as finite numbers, at least `low`.

    Raises:
        FileError: with line and column of the first cell that is none.
    """
    pandas = require("pandas", "data")
    values = pandas.to_numeric(cells, errors="coerce").to_numpy(dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        row = int(bad[0])
        raise FileError(
            f"{path}, line {row + 2}, column {name!r}: {cells.iloc[row]!r} is no number", "Mend or remove it"
        )
    below = np.flatnonzero(values < low) if low is not None else []
    if len(below):
        row = int(below[0])
        raise FileError(f"{path}, line {row + 2}, column {name!r}: {values[row]:g} is negative", "Mend or remove it")
    return values


def days(path: Path, cells: Sequence[str], name: str, given: str) -> NDArray[Any]:
    """A column of dates as days; its format must fit the whole column.

    Raises:
        FileError: no format fits, or the given one does not, by line.
        UsageError: several formats fit and mean different days.
    """
    words = [re.split(r"[ T]", cell, maxsplit=1)[0] if not given else cell for cell in cells]
    distinct = sorted(set(words))
    if given:
        return np.array([parsed(path, i, word, name, given) for i, word in enumerate(words)], dtype="datetime64[D]")
    fitting: dict[str, dict[str, datetime]] = {}
    for form in FORMATS:
        try:
            fitting[form] = {word: datetime.strptime(word, form) for word in distinct}
        except ValueError:
            continue
    meanings = list(fitting.values())
    if not meanings:
        line = next((i + 2 for i, word in enumerate(words) if not re.search(r"\d", word)), 2)
        raise FileError(
            f"{path}, line {line}, column {name!r}: no date format fits the whole column", "Name one with --date-format"
        )
    if any(meaning != meanings[0] for meaning in meanings[1:]):
        word = next(word for word in distinct if len({meaning[word] for meaning in meanings}) > 1)
        raise UsageError(
            f"{path}, column {name!r}: {word!r} can be {' or '.join(fitting)}", "Say which with --date-format"
        )
    return np.array([meanings[0][word] for word in words], dtype="datetime64[D]")


def parsed(path: Path, row: int, word: str, name: str, form: str) -> datetime:
    """One date in a given format."""
    try:
        return datetime.strptime(word, form)
    except ValueError:
        raise FileError(
            f"{path}, line {row + 2}, column {name!r}: {word!r} is not of the form {form}", "Mend it"
        ) from None


def transactions(path: Path, table: pd.DataFrame, layout: Layout) -> Series:
    """Rows counted per date and item."""
    when = days(
        path, list(column(path, table, layout.date_column, "--date-column")), layout.date_column, layout.date_format
    )
    names = item_names(path, table, layout)
    return grid(when, names, np.ones(len(when)), {}, layout, counted=True)


def long(path: Path, table: pd.DataFrame, layout: Layout) -> Series:
    """One row per date and item."""
    when = days(
        path, list(column(path, table, layout.date_column, "--date-column")), layout.date_column, layout.date_format
    )
    names = item_names(path, table, layout)
    amount = numbers(path, column(path, table, layout.demand_column, "--demand-column"), layout.demand_column)
    seen: dict[tuple[Any, str], int] = {}
    for row, pair in enumerate(zip(when.tolist(), names, strict=True)):
        if pair in seen:
            raise FileError(
                f"{path}, line {row + 2}: {pair[1]!r} on {pair[0]} is there already in line {seen[pair] + 2}",
                "Add the two rows up, or take --layout transactions",
            )
        seen[pair] = row
    more = {}
    for key in ("price", "promo", "stock"):
        name = getattr(layout, f"{key}_column")
        if name:
            more[key] = numbers(path, column(path, table, name, f"--{key}-column"), name)
    return grid(when, names, amount, more, layout, counted=False)


def item_names(path: Path, table: pd.DataFrame, layout: Layout) -> list[str]:
    """The item of every row; one name where the file has no items."""
    if not layout.item_column:
        return ["all"] * len(table)
    return list(column(path, table, layout.item_column, "--item-column"))


def grid(
    when: NDArray[Any], names: list[str], amount: Reals, more: dict[str, Reals], layout: Layout, *, counted: bool
) -> Series:
    """Rows as [T, n] arrays; says what was filled and what was left out."""
    step = DAYS[layout.period]
    items = list(dict.fromkeys(name for name in names if name not in layout.drop_items))
    place = {name: i for i, name in enumerate(items)}
    kept = np.array([name in place for name in names])
    first = when[kept].min()
    index = ((when - first).astype(np.int64) // step)[kept]
    who = np.array([place[name] for name in names if name in place])
    size = int(index.max()) + 1
    demand = np.zeros((size, len(items)))
    np.add.at(demand, (index, who), amount[kept])
    present = np.zeros((size, len(items)), dtype=bool)
    present[index, who] = True
    arrays: dict[str, Reals] = {}
    for key, values in more.items():
        arrays[key] = np.full((size, len(items)), np.nan)
        arrays[key][index, who] = values[kept]
    opened = present.any(1)
    repairs = []
    if not opened.all():
        count = int((~opened).sum())
        if layout.closed_days == "skip":
            repairs.append(
                f"{count} {layout.period}s without any row are left out as closed (--closed-days zero keeps them)."
            )
        else:
            repairs.append(f"{count} {layout.period}s without any row count as {layout.period}s without demand.")
    rows = opened if layout.closed_days == "skip" else np.ones(size, dtype=bool)
    missing = int((~present[rows & opened]).sum())
    if missing and not counted:
        repairs.append(
            f"{missing} rows of a date and an item are missing: they count as no demand at the item's last price."
        )
    dates = first + np.arange(size)[rows] * np.timedelta64(step, "D")
    for key in ("price", "promo", "stock"):
        if key in arrays:
            arrays[key] = carried(arrays[key][rows], 0.0 if key == "promo" else None)
    stock = arrays.get("stock")
    censored = None if stock is None else (demand[rows] >= stock) & (demand[rows] > 0)
    return Series(
        tuple(items),
        dates,
        demand[rows],
        arrays.get("price"),
        arrays.get("promo"),
        censored,
        layout.period,
        tuple(repairs),
    )


def carried(values: Reals, fill: float | None) -> Reals:
    """Gaps filled with the last value of the item, those before its first with that one; or with `fill`."""
    if fill is not None:
        return np.where(np.isnan(values), fill, values)
    pandas = require("pandas", "data")
    return np.asarray(pandas.DataFrame(values).ffill().bfill().to_numpy())


def wide(path: Path, table: pd.DataFrame, layout: Layout) -> Series:
    """One row per item, one column per period, in the order of the file."""
    names = item_names(path, table, layout)
    again = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if again is not None:
        raise FileError(f"{path} has two rows of the item {again!r}", "Add them up")
    columns = [name for name in table.columns if name != layout.item_column]
    if layout.value_columns:
        first, _, last = layout.value_columns.partition(":")
        for name in (first, last or first):
            column(path, table, name, "--value-columns")
        columns = list(table.columns)[list(table.columns).index(first) : list(table.columns).index(last or first) + 1]
    demand = np.stack([numbers(path, table[name].str.strip(), name) for name in columns])
    kept = [i for i, name in enumerate(names) if name not in layout.drop_items]
    try:
        dates = days(path, columns, "heading", layout.date_format)
        repairs: tuple[str, ...] = ()
    except (FileError, UsageError):
        dates = np.arange(len(columns))
        repairs = ("The headings are no dates: periods are numbered and no season is fitted.",)
    return Series(tuple(names[i] for i in kept), dates, demand[:, kept], period=layout.period, repairs=repairs)


def chosen_items(path: Path, series: Series, layout: Layout) -> Series:
    """The items that were asked for: the K most sold, or by name."""
    if not layout.items:
        return series
    if layout.items.startswith("top:"):
        try:
            count = int(layout.items.removeprefix("top:"))
        except ValueError:
            raise UsageError(f"--items is {layout.items!r}", "Give top:5, or names separated by commas") from None
        order = list(np.argsort(-series.demand.sum(0), kind="stable")[:count])
    else:
        wanted = [name.strip() for name in layout.items.split(",")]
        order = [series.items.index(check_choice(name, series.items, name="item")) for name in wanted]
    own = {name: getattr(series, name) for name in ("price", "promo", "censored")}
    cut = {name: None if value is None else value[:, order] for name, value in own.items()}
    return replace(series, items=tuple(series.items[i] for i in order), demand=series.demand[:, order], **cut)
