import itertools

import numpy as np
import pytest

from onlyforward.core.keys import Key
from onlyforward.decide.envs.pricing import buyers
from onlyforward.decide.envs.register import make
from onlyforward.decide.exact import assortment, joint, pricing, replenish

TINY = joint.Season(utility=(1.0, 0.5), cost=(0.2, 0.2), prices=(1.0, 2.0), customers=2, periods=3, cap=2)
SHOP = replenish.Replenish(
    joint.Season(utility=(1.0,), cost=(0.3,), prices=(1.0, 2.0), customers=2, cap=2), max_order=1, holding=0.1
)


def returns(environment, act, episodes=4096):
    state = environment.start(environment.noise(Key(run=5), 0, episodes))
    total = np.zeros(episodes)
    for t in range(environment.horizon):
        state, reward = environment.advance(state, act(state, t))
        total += reward
    return total


def within(total, known, more=0.0):
    return abs(total.mean() - known) < 4 * total.std() / np.sqrt(len(total)) + more


def test_the_published_order_of_coordination_holds_on_the_season():
    table = joint.references(joint.SEASON_A)
    assert table["margin_silo"] == pytest.approx(69.3130, abs=1e-4)
    assert table["revenue_silo"] == pytest.approx(58.7531, abs=1e-4)
    assert table["dynamic_price"] < table["dynamic_recommendation"] < table["person"] <= table["joint"] + 1e-9


def test_action_values_hold_the_optimum_and_every_lesser_action():
    ahead, value = joint.action_values(TINY)
    assert ahead.shape == (3, len(TINY.actions), 3, 3)
    assert np.allclose(ahead[0].max(axis=0), value)
    choices = ahead.argmax(axis=1)
    assert np.allclose(joint.evaluate(TINY, choices), joint.evaluate(TINY))
    assert np.allclose(joint.evaluate(TINY, np.zeros_like(choices)), joint.evaluate(TINY, allowed=[0]))


def test_a_best_response_beats_every_other_answer_to_the_same_policy():
    fixed = np.full((3, 3, 3), joint.myopic(TINY))
    prices, item = TINY.actions[fixed[0, 0, 0]]
    value, answer = joint.best_response(TINY, fixed, "recommendation")
    assert {TINY.actions[a][0] for a in np.unique(answer)} == {prices}
    own = [a for a, (other, _) in enumerate(TINY.actions) if other == prices]
    assert np.allclose(value, joint.evaluate(TINY, allowed=own))
    value, answer = joint.best_response(TINY, fixed, "price")
    own = [a for a, (_, other) in enumerate(TINY.actions) if other == item]
    assert {TINY.actions[a][1] for a in np.unique(answer)} == {item}
    assert np.allclose(value, joint.evaluate(TINY, allowed=own))


def test_replenishment_agrees_with_all_policies_enumerated():
    season, best = SHOP.season, -np.inf
    moves = list(itertools.product(range(2), range(2)))
    for policy in itertools.product(moves, repeat=3):
        step, gain = np.zeros((3, 3)), np.zeros(3)
        for stock, (order, action) in enumerate(policy):
            for wanted, chance in zip(season.outcomes[:, 0], season.chances(season.actions[action]), strict=True):
                sold = min(wanted, stock)
                left = stock - sold
                step[stock, min(left + order, 2)] += chance
                gain[stock] += chance * (season.actions[action][0][0] * sold - 0.1 * left)
            gain[stock] -= 0.3 * order
        long = np.linalg.matrix_power(0.5 * step + 0.5 * np.eye(3), 4096)
        best = max(best, float((long @ gain).max()))
    assert replenish.solve(SHOP).value == pytest.approx(best, abs=1e-6)


def test_replenishment_has_its_reference_values():
    problem = replenish.Replenish()
    assert replenish.solve(problem, tolerance=1e-5).value == pytest.approx(4.54392, abs=1e-5)
    silo = joint.myopic(problem.season, margin=False)
    assert replenish.solve(problem, actions=[silo]).value == pytest.approx(4.31846, abs=1e-5)
    static = problem.season.actions.index(((3.0, 3.0), 0))
    assert replenish.solve(problem, actions=[static]).value == pytest.approx(4.54118, abs=1e-5)


def test_base_stock_levels_found_item_by_item_are_the_best_pair():
    season = joint.Season(utility=(1.8, 1.0), cost=(0.7, 0.5), prices=(2.0,), customers=2, cap=4)
    problem = replenish.Replenish(season, max_order=2)
    value, levels = replenish.best_levels(problem, 0)
    pairs = list(itertools.product(range(1, 5), repeat=2))
    found = [
        replenish.solve(problem, actions=[0], allowed=replenish.level_orders(problem, pair, 1)).value for pair in pairs
    ]
    assert value == pytest.approx(max(found), abs=1e-5)
    assert tuple(levels) == pairs[int(np.argmax(found))]


def test_slotted_prices_approach_continuous_time_and_never_pass_it():
    grid = np.linspace(0, 6, 121)
    values = [
        pricing.best_slotted(5, lambda price, s=slots: 20 / s * np.exp(-price), slots, grid) for slots in (50, 200)
    ]
    assert values[0] < values[1] < pricing.value(5, 20)
    assert values[1] == pytest.approx(pricing.value(5, 20), abs=0.01)
    fixed = np.full((1, 40, 6), 1.537)
    found = pricing.slotted(5, lambda price: 20 / 40 * np.exp(-price), fixed)
    assert found == pytest.approx(pricing.fixed_price_revenue(5, 20, 1.537), abs=1e-6)


def test_the_optimal_price_earns_its_value_in_every_demand_law():
    environment = make("DynamicPricing")
    n, left = np.arange(11), 1 - np.arange(200) / 200
    table = np.array([[pricing.price(max(i, 1), 40 * share) for share in left] for i in n], dtype=np.float32)
    earned = returns(environment, lambda state, t: table[state["stock"].astype(int), t][:, None])
    assert within(earned, 12.6937)
    for law in ("linear", "logit"):
        environment = make("DynamicPricing", demand=law, slots=50, items=4, customers=12.0)
        rule = np.full((1, 50, 5), 1.8)
        known = pricing.slotted(4, lambda price, p=environment.parameters: buyers(p, price), rule)
        assert within(returns(environment, lambda state, t: np.full((4096, 1), 1.8, np.float32)), known)
        assert environment.references()["slots"].value >= environment.references()["fixed"].value >= known - 1e-9


def test_the_best_slate_of_every_user_is_worth_more_than_one_for_all_and_both_are_earned():
    environment = make("Recommendation")
    known, fixed = environment.references()["known-user"], environment.references()["fixed"]
    assert known.value > fixed.value
    offered = assortment.slates(8, 3)
    earned = assortment.slate_revenues(
        np.exp(np.array(environment.parameters.tastes)), np.array(environment.parameters.margins), offered
    )
    alike = np.flatnonzero(offered[earned.mean(axis=1).argmax()])
    row = np.array([*alike, *[8] * (3 - len(alike))])
    assert within(returns(environment, lambda state, t: np.repeat(row[None], 4096, 0)), fixed.value)
    slates = [np.flatnonzero(offered[i]) for i in earned.argmax(axis=0)]
    table = np.array([[*items, *[8] * (3 - len(items))] for items in slates])
    user = environment.noise(Key(run=5), 0, 4096)["user"]
    assert within(returns(environment, lambda state, t: table[user]), known.value)


def test_a_slate_without_limit_is_the_revenue_ordered_prefix():
    environment = make("Recommendation", tastes=((0.3, -0.2, 0.5),), margins=(1.0, 2.0, 1.2), slate=3, periods=1)
    best, _ = assortment.best(np.exp(np.array([0.3, -0.2, 0.5])), np.array([1.0, 2.0, 1.2]))
    assert environment.references()["optimum"].value == pytest.approx(best)


def test_the_joint_policies_earn_their_exact_values():
    season = joint.SEASON_A
    ahead, value = joint.action_values(season)
    _, order = joint.with_order(season, value)
    moves = np.array([[*(season.prices.index(p) for p in prices), item] for prices, item in season.actions])
    choices = ahead.argmax(axis=1)

    def act(state, t):
        stock = state["stock"].astype(int)
        rest = moves[choices[max(t - 1, 0), stock[0], stock[1]]]
        return np.concatenate([np.repeat(np.array([order]), 4096, 0), rest], axis=1)

    assert within(returns(make("JointSeason"), act), 73.2463)
    problem = replenish.Replenish()
    found = replenish.solve(problem, tolerance=1e-5).ahead
    best = found.reshape(-1, 11, 11).argmax(axis=0)
    rows = np.array(
        [
            [*z, *(problem.season.prices.index(p) for p in prices), item]
            for z in problem.orders
            for prices, item in problem.season.actions
        ]
    )
    earned = returns(make("JointReplenish"), lambda state, t: rows[best[tuple(state["stock"].astype(int))]])
    assert within(earned, 4.54392, more=0.01)
