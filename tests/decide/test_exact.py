import itertools

import numpy as np
import pytest

from onlyforward.decide.exact import assortment, joint, newsvendor, pricing, serial, ss
from onlyforward.decide.exact.distributions import demand, poisson
from onlyforward.decide.exact.lost_sales import LostSales, best_base_stock, best_capped, policy_cost, solve

POISSON = {
    1: (4.0407, 5.4382, 6.6758, 7.8360),
    2: (4.3953, 6.0936, 7.6644, 9.1064),
    3: (4.5987, 6.5314, 8.3625, 10.0385),
    4: (4.7285, 6.8360, 8.8872, 10.7944),
}


@pytest.mark.parametrize("lead", POISSON)
def test_lost_sales_costs_agree_with_the_published_table(lead):
    for penalty, published in zip((4, 9, 19, 39), POISSON[lead], strict=True):
        assert solve(LostSales(lead, penalty)).value == pytest.approx(published, abs=2e-4)


def test_geometric_lost_sales_costs_agree_with_the_published_table():
    for lead, penalty, published in ((1, 4, 9.818), (1, 39, 23.866), (2, 9, 15.503), (2, 39, 26.214)):
        assert solve(LostSales(lead, penalty, law="geometric")).value == pytest.approx(published, abs=1e-3)


def test_the_optimal_policy_earns_its_value_in_a_simulation():
    problem = LostSales(2, 4)
    optimum = solve(problem)
    draw = np.random.Generator(np.random.Philox(5)).poisson(5, (4000, 400))
    stock, coming = np.full(4000, 5), np.full(4000, 5)
    costs = np.zeros((4000, 400))
    for t in range(400):
        order = optimum.policy[np.minimum(stock, optimum.policy.shape[0] - 1), np.minimum(coming, 15)]
        costs[:, t] = np.maximum(stock - draw[:, t], 0) + 4 * np.maximum(draw[:, t] - stock, 0)
        stock, coming = np.maximum(stock - draw[:, t], 0) + coming, order
    means = costs[:, 50:].mean(axis=1)
    assert abs(means.mean() - optimum.value) < 4 * means.std() / np.sqrt(4000)


def test_capped_base_stock_lies_between_base_stock_and_the_optimum():
    problem = LostSales(2, 4)
    cost, level = best_base_stock(problem)
    capped, level_capped, cap = best_capped(problem)
    assert (level, level_capped, cap) == (16, 17, 5)
    assert cost == pytest.approx(4.638, abs=1e-3)
    assert capped == pytest.approx(4.405, abs=1e-3)


def test_the_optimal_rule_has_the_optimal_cost_on_its_own_chain():
    problem = LostSales(2, 4)
    optimum = solve(problem)
    assert policy_cost(problem, lambda state: int(optimum.policy[state])) == pytest.approx(optimum.value, abs=2e-4)


def test_newsvendor_and_lot_size_have_their_closed_forms():
    assert newsvendor.normal_newsvendor(50, 8, holding=0.18, penalty=0.70) == pytest.approx(
        (56.6040, 1.99761), abs=1e-4
    )
    assert newsvendor.discrete_newsvendor(poisson(50), holding=1, penalty=4) == pytest.approx((56, 10.0752), abs=1e-4)
    lot = newsvendor.economic_order_quantity(fixed=8, holding=0.225, rate=1300)
    assert lot == pytest.approx((304.047, 68.4105), abs=1e-3)


def test_s_s_policies_agree_with_zheng_and_federgruen():
    table = {
        10: (6, 40, 35.0216),
        15: (10, 49, 42.6978),
        20: (14, 62, 49.1730),
        25: (19, 56, 54.2622),
        30: (23, 66, 57.8189),
        40: (33, 87, 64.5118),
        50: (42, 108, 70.9752),
    }
    for mean, expected in table.items():
        assert ss.solve(poisson(mean), fixed=64, holding=1, penalty=9) == pytest.approx(expected, abs=1e-4)


def test_the_serial_system_has_its_published_levels():
    cost, levels = serial.clark_scarf(holding=(3, 2, 2), leads=(1, 1, 2), penalty=37.12, mean=5, sd=1, step=0.02)
    assert cost == pytest.approx(47.66, abs=0.02)
    assert levels == pytest.approx([6.495, 12.02, 22.71], abs=0.03)


def test_pricing_agrees_with_its_table_and_with_a_fine_time_grid():
    for expected, items, optimum in ((20, 5, 6.00040), (20, 10, 7.22311), (40, 10, 12.69762), (40, 25, 14.71027)):
        assert pricing.value(items, expected) == pytest.approx(optimum, abs=1e-5)
    assert pricing.best_fixed_price(5, 20) == pytest.approx((1.537, 5.79427), abs=1e-3)
    assert pricing.best_fixed_price(10, 40)[1] == pytest.approx(12.27468, abs=1e-4)
    value = np.zeros(6)
    for _ in range(20_000):
        gain = value[:-1] - value[1:]
        value[1:] += 20 / 20_000 * np.exp(-(1 - gain))
    assert value[5] == pytest.approx(pricing.value(5, 20), abs=1e-3)


def test_the_best_assortment_beats_every_subset():
    generator = np.random.Generator(np.random.Philox(1))
    for _ in range(20):
        weights, margins = generator.uniform(0.1, 2, 7), generator.uniform(0.5, 3, 7)
        value, items = assortment.best(weights, margins)
        subsets = itertools.product((0.0, 1.0), repeat=7)
        assert value == pytest.approx(max(assortment.revenue(weights, margins, np.array(s)) for s in subsets))
        assert value == pytest.approx(assortment.revenue(weights, margins, np.isin(np.arange(7), items)))


def test_the_joint_season_has_its_reference_values():
    value = joint.evaluate(joint.SEASON_A)
    assert joint.with_order(joint.SEASON_A, value) == (pytest.approx(73.2463, abs=1e-4), (26, 10))
    assert value[10, 10] == pytest.approx(69.0401, abs=1e-4)
    table = joint.references(joint.SEASON_A)
    assert table["static"] == pytest.approx(70.0762, abs=1e-4)
    assert table["dynamic_price"] == pytest.approx(72.3987, abs=1e-4)
    assert table["dynamic_recommendation"] == pytest.approx(72.7777, abs=1e-4)
    for items, optimum in ((1, 27.5350), (2, 42.5765), (3, 45.3151)):
        season = joint.season_b(items)
        assert joint.with_order(season, joint.evaluate(season))[0] == pytest.approx(optimum, abs=1e-4)


def test_the_joint_program_agrees_with_enumeration_over_two_periods():
    season = joint.Season(utility=(1.0, 0.5), cost=(0.2, 0.2), prices=(1.0, 2.0), customers=2, periods=2, cap=2)

    def best(stock, left):
        if left == 0:
            return season.salvage * sum(stock)
        values = []
        for action in season.actions:
            total = 0.0
            for outcome, chance in zip(season.outcomes, season.chances(action), strict=True):
                sold = [min(d, x) for d, x in zip(outcome, stock, strict=True)]
                earned = sum(p * s for p, s in zip(action[0], sold, strict=True))
                total += chance * (earned + best([x - s for x, s in zip(stock, sold, strict=True)], left - 1))
            values.append(total)
        return max(values)

    value = joint.evaluate(season)
    for stock in itertools.product(range(3), repeat=2):
        assert value[stock] == pytest.approx(best(list(stock), 2), abs=1e-12)


def test_demand_laws_sum_to_one_and_have_their_mean():
    for law in ("poisson", "geometric"):
        chances = demand(law, 5.0)
        assert chances.sum() == pytest.approx(1.0)
        assert chances @ np.arange(len(chances)) == pytest.approx(5.0, abs=1e-6)
