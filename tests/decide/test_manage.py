import csv
import datetime

import numpy as np
import pytest

from onlyforward.core.errors import FileError, UsageError
from onlyforward.decide.demand import fit_demand, pooled, seasons, summary
from onlyforward.decide.invest import growth, markowitz, windows
from onlyforward.decide.plan import POLICIES, extended, forecast
from onlyforward.decide.price import Sales, fit_prices, propose, r_squared, resampled
from onlyforward.decide.recommend import Ratings, biases, factorise, rmse
from onlyforward.decide.series import Layout, Series, read_series
from onlyforward.decide.stock import Costs, best_levels, operate

START = np.datetime64("2024-01-01")


def series(periods=140, items=2, seed=0, rate=20.0):
    """Poisson demand that is half as large again on Saturdays and Sundays."""
    generator = np.random.default_rng(seed)
    weekend = np.where(np.arange(periods) % 7 >= 5, 1.5, 1.0)[:, None]
    demand = generator.poisson(rate * weekend * np.ones(items)).astype(float)
    return Series(tuple(f"item {i}" for i in range(items)), START + np.arange(periods), demand)


def written(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def days(count):
    return [(datetime.date(2024, 1, 1) + datetime.timedelta(d)).isoformat() for d in range(count)]


# Reading -------------------------------------------------------------------------------------------------------------


def test_three_layouts_of_one_series_are_the_same(tmp_path):
    demand = [[3, 1], [0, 2], [4, 5]]
    long = [["date", "item", "demand"]]
    single = [["date", "item"]]
    for day, row in zip(days(3), demand, strict=True):
        for name, count in zip("ab", row, strict=True):
            long.append([day, name, count])
            single += [[day, name]] * count
    wide = [["item", *days(3)], ["a", 3, 0, 4], ["b", 1, 2, 5]]
    found = [
        read_series(written(tmp_path / f"{name}.csv", rows), Layout(layout=name))
        for name, rows in (("long", long), ("transactions", single), ("wide", wide))
    ]
    for one in found:
        assert one.items == ("a", "b")
        assert one.demand.tolist() == demand
        assert (one.dates == found[0].dates).all()


def test_a_mark_of_bytes_semicolons_and_line_ends_are_read(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes("\ufeffdate;item;demand\r\n01.02.2024;a;3\r\n13.02.2024;a;4\r\n".encode())
    found = read_series(path, Layout())
    assert found.dates.astype(str).tolist() == ["2024-02-01", "2024-02-13"]
    assert "11 days" in found.repairs[0]


@pytest.mark.parametrize(
    ("rows", "layout", "error", "words"),
    [
        ([["day", "item", "demand"], ["2024-01-01", "a", 1]], {}, FileError, "'day', 'item', 'demand'"),
        ([["date", "item", "demand"], ["2024-01-01", "a", "many"]], {}, FileError, "line 2, column 'demand': 'many'"),
        ([["date", "item", "demand"], ["2024-01-01", "a", -1]], {}, FileError, "-1 is negative"),
        ([["date", "item", "demand"], ["2024-01-01", "a", ""]], {}, FileError, "line 2"),
        ([["date", "item", "demand"], *[["2024-01-01", "a", 1]] * 2], {}, FileError, "line 3.*line 2"),
        ([["date", "item", "demand"], ["05/02/10", "a", 1]], {}, UsageError, "--date-format"),
        ([["date", "item", "demand"], ["soon", "a", 1]], {}, FileError, "no date format"),
        ([["date", "item", "demand"]], {}, FileError, "no rows"),
        ([["date", "item", "demand"], ["2024-01-01", "a", 1]], {"items": "b"}, UsageError, "item"),
    ],
)
def test_a_broken_table_is_one_sentence(tmp_path, rows, layout, error, words):
    with pytest.raises(error, match=words):
        read_series(written(tmp_path / "a.csv", rows), Layout(**layout))


def test_a_date_format_is_inferred_from_the_whole_column(tmp_path):
    rows = [["date", "item", "demand"], ["05/02/10", "a", 1], ["19/02/10", "a", 1]]
    found = read_series(written(tmp_path / "a.csv", rows), Layout(period="week"))
    assert found.dates[0] == np.datetime64("2010-02-05")


# Demand --------------------------------------------------------------------------------------------------------------


def test_a_weekday_season_is_recovered_and_foretells():
    whole = series(280, items=3)
    model = fit_demand(whole.part(slice(0, 210)))
    assert model.season == "weekday"
    assert seasons(whole, "weekday")[0] == 0  # a Monday
    ratio = model.factors[5:7].mean(0) / model.factors[0:5].mean(0)
    assert np.allclose(ratio, 1.5, atol=0.1)
    found = summary(model, whole.part(slice(210, None)))
    assert abs(found["coverage_80"] - 0.8) < 0.12
    assert found["r2_test"] > 0.3


def test_a_known_elasticity_is_recovered_and_pooled():
    generator = np.random.default_rng(1)
    price = np.exp(generator.normal(0, 0.2, (200, 4)))
    demand = generator.poisson(80 * price**-2.0).astype(float)
    model = fit_demand(Series(tuple("abcd"), START + np.arange(200), demand, price=price))
    assert np.allclose(model.elasticity, -2.0, atol=0.15)
    slope = np.array([-2.0, -2.2, 5.0])
    made = pooled(slope, np.array([0.1, 0.1, np.inf]))
    assert made[2] == pytest.approx(made[:2].mean(), abs=0.05)


def test_censored_demand_is_made_up_for():
    generator = np.random.default_rng(2)
    true = generator.poisson(20.0, (400, 1)).astype(float)
    seen = np.minimum(true, 20.0)
    plain = fit_demand(Series(("a",), START + np.arange(400), seen))
    aware = fit_demand(Series(("a",), START + np.arange(400), seen, censored=seen >= 20))
    assert plain.level[0] < 18.8
    assert abs(aware.level[0] - 20) < 0.7
    assert aware.smoothing == 0.0


def test_no_decision_before_a_period_depends_on_it():
    whole = series(160)
    known, future = whole.part(slice(0, 110)), whole.part(slice(110, None))
    changed = Series(future.items, future.dates, future.demand.copy())
    changed.demand[20:] = 500.0
    costs = Costs(10, 6, holding=0.2, lead=1)
    for name, policy in POLICIES.items():
        assert np.array_equal(policy(known, future, costs).level[:21], policy(known, changed, costs).level[:21]), name


def test_a_forecast_covers_the_periods_of_protection():
    model = fit_demand(series(210))
    later = series(280).part(slice(210, None))
    mean, variance = forecast(model, later, 7)
    assert np.allclose(mean[0], 7 * 20 * 8 / 7, rtol=0.08)
    assert (variance >= mean).all()
    assert len(extended(later, 3).dates) == len(later.dates) + 3


# Stock ---------------------------------------------------------------------------------------------------------------


def test_perishable_profit_is_the_newsvendors_and_its_best_level_the_quantile():
    demand = np.array([[1.0], [2.0], [3.0], [4.0], [5.0], [6.0]])
    costs = Costs(3, 1, perishable=True)
    run = operate(np.full((6, 1), 4.0), demand, costs)
    assert run.profit[:, 0].tolist() == [3 * min(4, d) - 4 for d in (1, 2, 3, 4, 5, 6)]
    assert best_levels(np.tile(demand, (50, 1)), costs)[0] == pytest.approx(4.0)


@pytest.mark.parametrize("lead", [0, 1, 3])
def test_stock_is_conserved_through_the_pipeline(lead):
    demand = series(60).demand
    levels = np.full(demand.shape, 45.0 * (lead + 1))
    run = operate(levels, demand, Costs(10, 6, holding=0.2, lead=lead))
    arrived = run.orders[: len(demand) - lead].sum(0)
    assert np.allclose(levels[0] + arrived, run.sales.sum(0) + run.stock[-1])
    assert (run.stock >= 0).all()


def test_an_order_waits_for_its_lead_time():
    run = operate(np.full((4, 1), 5.0), np.array([[5.0], [1.0], [1.0], [1.0]]), Costs(10, 6, lead=2))
    assert run.sales[:, 0].tolist() == [5, 0, 0, 1]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"cost": 12}, "not below --price"),
        ({"perishable": True, "lead": 1}, "--lead 0"),
        ({"perishable": True, "salvage": 7}, "--salvage"),
        ({"holding": -1}, "--holding"),
    ],
)
def test_impossible_costs_are_refused(more, words):
    with pytest.raises(UsageError, match=words):
        Costs(**({"price": 10, "cost": 6} | more))


# Prices, weights, ratings --------------------------------------------------------------------------------------------


def sales(slope, rows=3000, spread=0.3):
    generator = np.random.default_rng(3)
    price = np.exp(generator.normal(0.5, spread, rows))
    quantity = np.exp(5 + slope * np.log(price) + 0.2 * generator.standard_normal(rows))
    return Sales(("a",), np.zeros(rows, dtype=np.int64), quantity, price, np.zeros(rows))


def test_the_best_price_is_the_closed_form_of_constant_elasticity():
    rows = sales(-3.0)
    model = fit_prices(rows)
    assert model.elasticity[0] == pytest.approx(-3.0, abs=0.05)
    offer = propose(model, resampled(rows, model.degree, seed=0), 0, 1.0, alpha=0.1)
    assert offer.price == pytest.approx(1.5, rel=0.05)
    assert offer.edge == ""
    assert offer.profit >= 1.0 - 1e-9
    assert r_squared(model, rows) > 0.9


def test_an_inelastic_item_sits_on_the_flagged_edge_and_a_still_price_says_nothing():
    rows = sales(-0.5)
    model = fit_prices(rows)
    offer = propose(model, resampled(rows, model.degree, seed=0), 0, 1.0, alpha=0.1)
    assert offer.edge == "high"
    assert offer.price == pytest.approx(np.quantile(rows.price, 0.95))
    still = Sales(rows.items, rows.item, rows.quantity, np.full(len(rows.price), 2.0), rows.promo)
    model = fit_prices(still)
    assert np.isnan(model.elasticity[0])
    assert propose(model, [], 0, 1.0, alpha=0.1).price == 2.0
    with pytest.raises(UsageError, match="--cost"):
        propose(model, [], 0, 3.0, alpha=0.1)


def test_growth_without_cost_is_the_product_of_daily_means():
    returns = np.random.default_rng(4).normal(0, 0.01, (50, 3))
    weights = np.array([0.2, 0.3, 0.5])
    daily = 1 + returns @ weights
    found = windows(growth(weights, returns, 0.0), 20)
    assert np.allclose(found, [np.prod(daily[t : t + 20]) - 1 for t in range(31)])
    assert (windows(growth(weights, returns, 0.001), 20) < found).all()
    assert markowitz(returns, 20, 0.1).sum() == pytest.approx(1.0)


def test_factors_beat_biases_where_tastes_differ():
    generator = np.random.default_rng(5)
    taste, trait = generator.normal(size=(60, 2)), generator.normal(size=(40, 2))
    user, item = (a.ravel() for a in np.meshgrid(np.arange(60), np.arange(40), indexing="ij"))
    rating = 3 + (taste[user] * trait[item]).sum(1) + 0.1 * generator.standard_normal(len(user))
    table = Ratings(user, item, rating, tuple(map(str, range(60))), tuple(map(str, range(40))))
    order = generator.permutation(len(user))
    inside, outside = table.rows(order[200:]), table.rows(order[:200])
    assert rmse(factorise(inside, factors=2, ridge=0.1, seed=0), outside) < 0.2 < rmse(biases(inside), outside)
