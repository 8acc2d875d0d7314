"""Results of `decide price`, `portfolio` and `recommend`: metrics, tables, figures and the files to hand on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onlyforward.core.checks import check_range
from onlyforward.core.errors import UsageError
from onlyforward.core.keys import Key
from onlyforward.decide import invest, price, recommend
from onlyforward.decide.management import layout_of, tag, write_csv
from onlyforward.decide.series import Layout

if TYPE_CHECKING:
    from onlyforward.decide.options import Portfolio, Price, Recommend
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result


def propose_prices(options: Price, context: Context) -> Result:
    """`decide price`: elasticities and a price list, with the fit judged on rows kept out of it."""
    check_range(options.alpha, name="--alpha", low=0.0, high=1.0, open_low=True)
    check_range(options.test_share, name="--test-share", low=0.05, high=0.5)
    sales = price.read_sales(options.csv, layout_of(options))
    inside, outside = price.kept_out(sales, options.test_share, options.seed)
    trial = price.fit_prices(inside, seed=options.seed)
    model = price.fitted_as(sales, trial.degree)
    others = price.resampled(sales, model.degree, seed=options.seed)
    result = context.result(question=f"Which prices should the items of {options.csv.name} have?")
    result.metric("r2_test", price.r_squared(trial, outside))
    rows, ratios, edges = [], [], 0
    for i, item in enumerate(model.items):
        offer = price.propose(model, others, i, options.cost, alpha=options.alpha)
        result.metric(f"elasticity_{tag(item)}", float(model.elasticity[i]))
        result.metric(f"price_{tag(item)}", offer.price)
        edges += bool(offer.edge)
        ratios.append(offer.profit)
        remark = {
            "": "within the prices seen",
            "low": "AT THE LOWEST price seen: the best may lie below, try before you trust",
            "high": "AT THE HIGHEST price seen: the best may lie above, try before you trust",
        }[offer.edge]
        if np.isnan(model.elasticity[i]):
            remark = "the price never varied: nothing can be said"
        rows.append([item, offer.today, offer.price, model.elasticity[i], offer.profit, offer.cautious, remark])
        grid = np.linspace(model.low[i], model.high[i], 60)
        result.curve(
            "Expected profit at each price seen",
            item,
            grid.tolist(),
            ((grid - options.cost) * model.quantity(i, grid)).tolist(),
            x_label="price (money)",
            y_label="profit (money per row of the table)",
        )
    result.metric("profit_ratio", float(np.mean(ratios)))
    result.metric("edge", edges)
    columns = [
        "item",
        "today",
        "proposed",
        "elasticity",
        "profit ratio",
        f"{options.alpha:.0%} of resamples below",
        "remark",
    ]
    note = f"Ratios to today's median price. Curves of degree {model.degree} in log price, chosen by cross-validation."
    result.table("Price list", columns, rows, note)
    write_csv(context.artefact("prices.csv"), columns, rows)
    result.notes += list(sales.repairs)
    result.answer = (
        f"The proposed prices earn {result.metrics['profit_ratio']:.2f} times today's profit by the fitted demand "
        f"(R2 {result.metrics['r2_test']:.3f} on rows kept out); {edges} of {len(rows)} sit on the range's edge."
    )
    return result


def portfolio(options: Portfolio, context: Context) -> Result:
    """`decide portfolio`: weights learned on the first part, judged on the rest."""
    check_range(options.alpha, name="--alpha", low=0.0, high=0.5, open_low=True)
    layout = Layout(date_column=options.date_column, date_format=options.date_format)
    prices = invest.read_prices(options.csv, layout, options.drop)
    count = len(prices.dates)
    cut = 2 * count // 3
    if options.train_until:
        try:
            cut = int(np.searchsorted(prices.dates, np.datetime64(options.train_until)))
        except ValueError as error:
            raise UsageError(f"--train-until is {options.train_until!r}", "Give a day such as 2014-01-01") from error
    check_range(options.horizon, name="--horizon", low=1, high=260)
    if min(cut, count - cut) < 5 * options.horizon:
        raise UsageError(
            f"{cut} days to learn from and {count - cut} to test on", f"Give at least {5 * options.horizon} of each"
        )
    train, test = prices.returns[: cut - 1], prices.returns[cut - 1 :]
    setting = {"horizon": options.horizon, "cost": options.cost, "alpha": options.alpha}
    start = invest.markowitz(train, options.horizon, options.alpha)
    weights = {
        "learned": invest.learn(train, start, seed=options.seed, **setting),
        "equal_weight": np.full(len(prices.assets), 1 / len(prices.assets)),
        "minimum_variance": invest.minimum_variance(train),
        "markowitz": start,
    }
    found = {n: [100 * float(invest.value(w, part, **setting)) for part in (train, test)] for n, w in weights.items()}
    result = context.result(question=f"Which weights of the assets of {options.csv.name} hold in the worst decile?")
    result.metric("test_q_alpha", found["learned"][1])
    result.metric("train_q_alpha", found["learned"][0])
    mean = invest.windows(invest.growth(weights["learned"], test, options.cost), options.horizon).mean()
    result.metric("test_mean", 100 * float(mean))
    for name in ("equal_weight", "minimum_variance", "markowitz"):
        result.metric(f"{name}_test_q_alpha", found[name][1])
    result.metric("advantage_equal_weight", found["learned"][1] - found["equal_weight"][1])
    result.metric("advantage_markowitz", found["learned"][1] - found["markowitz"][1])
    low, high = invest.interval(weights["learned"], start, test, seed=options.seed, **setting)
    result.metric("advantage_markowitz_low", 100 * low)
    result.metric("advantage_markowitz_high", 100 * high)
    rows = [[name, *values] for name, values in found.items()]
    columns = ["weights", f"{options.alpha:.0%} quantile, fit part [%]", f"{options.alpha:.0%} quantile, test part [%]"]
    note = f"Returns of {options.horizon} days, overlapping; daily rebalancing at {options.cost:g} of the turnover."
    result.table("Worst returns", columns, rows, note)
    table = [[a, *(float(w[i]) for w in weights.values())] for i, a in enumerate(prices.assets)]
    result.table("Weights", ["asset", *weights], table)
    write_csv(context.artefact("weights.csv"), ["asset", *weights], table)
    sure = "the interval holds 0: no difference is shown" if low <= 0 <= high else "the interval does not hold 0"
    result.answer = (
        f"In the test part one window in {1 / options.alpha:.0f} loses {-found['learned'][1]:.2f} % or more with the "
        f"learned weights, {-found['markowitz'][1]:.2f} % with Markowitz's (95 % interval of the gain {100 * low:+.2f} "
        f"to {100 * high:+.2f} points: {sure})."
    )
    return result


def recommend_slates(options: Recommend, context: Context) -> Result:
    """`decide recommend`: factors judged on ratings kept out, policies judged on simulated users."""
    check_range(options.slate, name="--slate", low=1, high=50)
    check_range(options.factors, name="--factors", low=1, high=256)
    ratings = recommend.read_ratings(options.ratings, options.user_column, options.item_column, options.rating_column)
    order = Key(run=options.seed, site="test").numpy().permutation(len(ratings.rating))
    cut = len(order) // 10
    inside, outside = ratings.rows(np.sort(order[cut:])), ratings.rows(np.sort(order[:cut]))
    model = recommend.fit_ratings(inside, factors=options.factors, seed=options.seed)
    result = context.result(question=f"What should the users of {options.ratings.name} be shown?")
    result.metric("rmse_test", recommend.rmse(model, outside))
    result.metric("rmse_bias", recommend.rmse(recommend.biases(inside), outside))
    users = Key(run=options.seed, site="half").numpy().permutation(len(ratings.users))
    simulated = users[: min(options.users or len(users) // 2, len(users) // 2)]
    known = np.ones(len(users), dtype=bool)
    known[users[: len(users) // 2]] = False
    rehearsal = recommend.market(inside, model, known=known, users=np.flatnonzero(known)[:200])
    explore = recommend.chosen_exploration(rehearsal, slate=options.slate, seed=options.seed + 1)
    market = recommend.market(inside, model, known=known, users=simulated)
    policies = {
        "random": recommend.random,
        "popular": recommend.popular,
        "knn": recommend.neighbours,
        "learned": recommend.learned(explore),
        "optimum": recommend.optimum,
    }
    clicks = {n: recommend.play(market, s, slate=options.slate, seed=options.seed) for n, s in policies.items()}
    rows = []
    for name, found in clicks.items():
        result.metric(f"clicks_{name}", float(found.mean()))
        gap = found - clicks["popular"]
        rows.append([name, float(found.mean()), float(gap.mean()), 1.96 * float(gap.std(ddof=1)) / np.sqrt(len(gap))])
    gap = clicks["learned"] - clicks["popular"]
    result.metric("learned_minus_popular_low", float(gap.mean() - 1.96 * gap.std(ddof=1) / np.sqrt(len(gap))))
    result.table(
        f"Clicks in {recommend.SLATES} slates of {options.slate}, {len(simulated)} simulated users",
        ["policy", "clicks a session", "more than popular", "95 % half width"],
        rows,
        "A simulator fitted to ratings, not a live result. Policies see clicks alone; the optimum knows every taste.",
    )
    result.answer = (
        f"Ratings kept out: RMSE {result.metrics['rmse_test']:.3f}, {result.metrics['rmse_bias']:.3f} by biases; "
        f"in the fitted simulator learned slates get {clicks['learned'].mean():.2f} clicks a session, popular items "
        f"{clicks['popular'].mean():.2f}, a policy that knows every taste {clicks['optimum'].mean():.2f}."
    )
    return result
