"""Results of `decide fit-demand` and `decide plan`: metrics, tables, figures and the files to hand on."""

from __future__ import annotations

import csv
import re
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onlyforward.core.checks import check_choice, check_range
from onlyforward.core.errors import UsageError
from onlyforward.core.keys import Key
from onlyforward.decide import demand, plan
from onlyforward.decide.series import Layout, Series, read_series
from onlyforward.decide.stock import Costs, operate, worst_decile

if TYPE_CHECKING:
    from onlyforward.decide.options import FitDemand, Plan, Table
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result

SHOWN = 12
"""Items whose rows are shown; the files hold all."""
DRAWN = 5
"""Items whose planned orders are drawn."""


def layout_of(options: Table) -> Layout:
    """The options that say how to read the table."""
    return Layout(**{field.name: getattr(options, field.name) for field in fields(Layout)})


def tag(name: str) -> str:
    """An item's name as part of a metric's: letters, digits and underscores."""
    return re.sub(r"\W+", "_", name.strip(), flags=re.ASCII).strip("_") or "item"


def divided(options: FitDemand) -> tuple[Series, Series, Series]:
    """The whole series, its fit part and its test part."""
    whole = read_series(options.csv, layout_of(options))
    periods = len(whole.demand)
    count = options.test_periods or max(periods // 5, 1)
    check_range(count, name="--test-periods", low=1)
    if periods - count < demand.LEAST_FIT:
        raise UsageError(
            f"{options.csv} has {periods} periods, {max(periods - count, 0)} of them before the test part",
            f"Give at least {demand.LEAST_FIT}, or fewer --test-periods",
        )
    return whole, whole.part(slice(0, -count)), whole.part(slice(periods - count, None))


def fit_demand(options: FitDemand, context: Context) -> Result:
    """`decide fit-demand`."""
    _, fit, test = divided(options)
    model = demand.fit_demand(fit)
    result = context.result(question=f"How well can the demand of {options.csv.name} be foretold?")
    result.metric("items", len(fit.items))
    result.metric("fit_periods", len(fit.demand))
    result.metric("test_periods", len(test.demand))
    for name, value in demand.summary(model, test).items():
        result.metric(name, value)
    if model.elasticity is not None:
        for item, value in zip(model.items, model.elasticity, strict=True):
            result.metric(f"elasticity_{tag(item)}", float(value))
    rows = [
        [item, model.level[i], model.dispersion[i], *([] if model.elasticity is None else [model.elasticity[i]])]
        for i, item in enumerate(model.items[:SHOWN])
    ]
    columns = ["item", "level [units a period]", "dispersion"] + ([] if model.elasticity is None else ["elasticity"])
    result.table(
        "Fitted demand", columns, rows, "Variance = rate + dispersion rate^2; level at the end of the fit part."
    )
    rate = model.rates(test)
    draw_forecast(result, test, rate)
    result.notes += list(model.repairs)
    result.answer = (
        f"One {test.period} ahead, {result.metrics['coverage_80']:.0%} of the demand in the last {len(test.demand)} "
        f"{test.period}s fell into the 80 % range; the season is {model.season}."
    )
    return result


def draw_forecast(result: Result, test: Series, rate: Any) -> None:
    """Demand of all items together beside its forecast."""
    x = list(range(1, len(test.demand) + 1))
    for label, values in (("demand", test.demand), ("forecast, one period ahead", rate)):
        result.curve(
            "All items together, test part",
            label,
            x,
            values.sum(1).tolist(),
            x_label=f"{test.period} of the test part",
            y_label="demand (units)",
        )


# Plan ----------------------------------------------------------------------------------------------------------------


def plan_orders(options: Plan, context: Context) -> Result:
    """`decide plan`: choose on the fit part, backtest on the test part, then plan ahead of the table's end."""
    begin = time.perf_counter()
    check_choice(options.policy, ("auto", *plan.POLICIES), name="policy")
    check_choice(options.objective, ("mean", "quantile"), name="objective")
    check_range(options.alpha, name="--alpha", low=0.0, high=1.0, open_low=True)
    check_range(options.horizon, name="--horizon", low=1, high=520)
    costs = Costs(
        options.price,
        options.cost,
        options.holding,
        options.penalty,
        options.salvage,
        options.fixed_cost,
        options.lead,
        options.review,
        options.perishable,
    )
    whole, fit, test = divided(options)
    result = context.result(question=f"How much of each item of {options.csv.name} should be ordered?")
    name, scores = options.policy, {}
    if name == "auto":
        name, scores = plan.choose(fit, costs, options.objective, options.alpha)
    levels = {key: policy(fit, test, costs) for key, policy in plan.POLICIES.items()}
    runs = {key: made.run(test.demand, costs) for key, made in levels.items()}
    runs["foresight"] = plan.foresight(test, costs).run(test.demand, costs)
    ours, base = runs[name].profit, runs["base-stock"].profit
    result.metric("items", len(whole.items))
    result.metric("backtest_profit", float(ours.sum(1).mean()))
    result.metric("backtest_worst_decile", worst_decile(ours))
    result.metric("base_stock_profit", float(base.sum(1).mean()))
    result.metric("base_stock_worst_decile", worst_decile(base))
    result.metric("ss_profit", float(runs["sS"].profit.sum(1).mean()))
    result.metric("seasonal_profit", float(runs["seasonal"].profit.sum(1).mean()))
    result.metric("foresight_profit", float(runs["foresight"].profit.sum(1).mean()))
    result.metric("profit_ratio", float(ours.sum() / base.sum()) if base.sum() > 0 else float("nan"))
    low = worst_decile(base)
    result.metric("worst_decile_ratio", worst_decile(ours) / low if low > 0 else float("nan"))
    result.metric("fill_rate", float(runs[name].sales.sum() / max(test.demand.sum(), 1e-9)))
    rows = [
        [
            f"{key} (chosen)" if key == name else key,
            float(run.profit.sum(1).mean()),
            worst_decile(run.profit),
            float(run.sales.sum() / max(test.demand.sum(), 1e-9)),
            float(run.stock.sum(1).mean()),
            scores.get(key),
        ]
        for key, run in runs.items()
    ]
    unit = f"a {whole.period}"
    result.table(
        f"Backtest on the last {len(test.demand)} {whole.period}s",
        [
            "policy",
            f"profit [money {unit}]",
            "worst decile",
            "fill rate",
            "left over [units]",
            "score on held-back periods",
        ],
        rows,
        "Policies were made and chosen before these periods; foresight knows the demand and is a bound, not a policy.",
    )
    ahead(result, context, whole, costs, name, options)
    draw_profit(result, {"chosen: " + name: ours, "constant base-stock": base}, whole.period)
    result.metric("plan_seconds", time.perf_counter() - begin, timing=True)
    result.notes += list(whole.repairs)
    gain = result.metrics["profit_ratio"]
    result.answer = (
        f"Order by the {name} policy: {result.metrics['backtest_profit']:,.1f} {unit} in the backtest"
        + (f", {gain - 1:+.1%} over the best constant levels" if gain is not None else "")
        + f"; one {whole.period} in ten earns {result.metrics['backtest_worst_decile']:,.1f} or less."
    )
    return result


def ahead(result: Result, context: Context, whole: Series, costs: Costs, name: str, options: Plan) -> None:
    """Orders for the periods after the table's end, on simulated demand; `plan.csv` and its first rows as a table."""
    model = demand.fit_demand(whole)
    future = plan.extended(whole, options.horizon).part(slice(len(whole.demand), None))
    known = plan.POLICIES[name](whole, future, costs)
    rate = model.level * model.effects(future)
    drawn = plan.simulate(model, rate, plan.PATHS, Key(run=options.seed, site="plan"))
    cap = known.cap
    reorder = None if known.reorder is None else known.reorder[:, None]
    run = operate(known.level[:, None], drawn, costs, reorder=reorder, cap=cap)
    profit = run.profit.sum(2)
    result.metric("simulated_profit", float(profit.mean()))
    result.metric("simulated_worst_decile", float(np.quantile(profit, options.alpha)))
    stock = np.quantile(run.stock, [0.1, 0.5, 0.9], axis=1)
    orders = np.median(run.orders, axis=1)
    rows = [
        [item, str(date), int(known.level[t, i]), float(orders[t, i]), *(float(q[t, i]) for q in stock)]
        for i, item in enumerate(whole.items)
        for t, date in enumerate(future.dates)
    ]
    columns = ["item", "date", "level", "order", "stock_p10", "stock_p50", "stock_p90"]
    write_csv(context.artefact("plan.csv"), columns, rows)
    first = [[item, int(known.level[0, i]), known.reason] for i, item in enumerate(whole.items[:SHOWN])]
    result.table("Order up to, and why", ["item", f"level of the next {whole.period} [units]", "reason"], first)
    for i, item in enumerate(whole.items[:DRAWN]):
        result.curve(
            f"Orders of the next {options.horizon} {whole.period}s",
            item,
            list(range(1, options.horizon + 1)),
            orders[:, i].tolist(),
            x_label=f"{whole.period}s after the table's end",
            y_label="order (units)",
        )
    note = (
        "plan.csv holds all of them. Orders are medians over simulated demand; the stock range is at the period's end."
    )
    result.table("Order plan", columns, rows[: 2 * SHOWN], note)


def write_csv(path: Path | None, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table as a CSV file that a spreadsheet opens; cells that a spreadsheet would take for a formula are quoted."""
    if path is None:
        return
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows([f"'{c}" if isinstance(c, str) and c[:1] in "=+-@" else c for c in row] for row in rows)


def draw_profit(result: Result, profits: dict[str, Any], period: str) -> None:
    """Profits of all periods, worst first: the left tenth is the worst decile."""
    for label, profit in profits.items():
        ordered = np.sort(profit.sum(1))
        share = (100 * (np.arange(len(ordered)) + 0.5) / len(ordered)).tolist()
        result.curve(
            "Profit in the backtest, worst periods first",
            label,
            share,
            ordered.tolist(),
            x_label=f"share of the {period}s (%)",
            y_label=f"profit (money a {period})",
        )
