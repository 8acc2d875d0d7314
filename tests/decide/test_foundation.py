import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from onlyforward.core.errors import FileError, UsageError
from onlyforward.core.keys import Key
from onlyforward.decide.envs.joint import SeasonParameters
from onlyforward.decide.exact.joint import SEASON_A, Season, action_values, season_b
from onlyforward.decide.exact.replenish import Replenish, solve
from onlyforward.decide.foundation import experts
from onlyforward.decide.foundation.estimator import Foundation, SeasonState
from onlyforward.decide.foundation.evaluate import replenish_value, season_policy, season_value, simulated
from onlyforward.decide.foundation.model import VIEWS, FoundationPolicy, decide, order_sequence
from onlyforward.decide.foundation.simulate import season_signal
from onlyforward.decide.foundation.study import School, load_models, save_models
from onlyforward.decide.foundation.tokens import STAGES, Tokens, joint_statistics, season_tokens
from onlyforward.decide.foundation.train import Recipe, decision_loss, pair_loss
from onlyforward.decide.objectives import Objective

TINY = Season(utility=(1.4, 0.9), cost=(0.5, 0.3), prices=(1.0, 1.6, 2.2), customers=2, periods=3, cap=4)


def seen(items=3, rows=5):
    generator = np.random.Generator(np.random.Philox(3))
    season = Season(
        tuple(generator.uniform(1, 2, items)), tuple(generator.uniform(0.2, 0.8, items)), (1.0, 2.0, 3.0), cap=9
    )
    stock = generator.integers(0, 9, (rows, items)).astype(float)
    return season_tokens("sell", season, stock, np.arange(1.0, rows + 1), most=9.0)


def permuted(told, order):
    return replace(told, items=told.items[:, order], present=told.present[:, order], most=told.most[:, order])


@pytest.mark.parametrize("view", VIEWS)
def test_permuting_items_permutes_every_probability(view):
    model, told = FoundationPolicy(view=view, seed=1).double(), seen()
    told = Tokens(*(getattr(told, n).double() for n in ("instance", "items", "present", "prices", "most")))
    order = [2, 0, 1]
    other = permuted(told, order)
    chosen = torch.tensor([0, 1, 2, 0, 1])
    moved = torch.tensor([order.index(int(i)) for i in chosen])
    money = told.prices[:, :1].expand(-1, 3) * torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    assert torch.allclose(model.recommend_logits(told)[:, order], model.recommend_logits(other))
    assert torch.allclose(model.price_logits(told, chosen)[:, order], model.price_logits(other, moved))
    ordered = torch.full((5, 3), float("nan"), dtype=torch.float64)
    ordered[:, 1] = 4.0
    first = torch.tensor([0, 0, 2, 2, 0])
    same = torch.tensor([order.index(int(i)) for i in first])
    assert torch.allclose(
        model.order_logits(told, first, chosen, money, ordered),
        model.order_logits(other, same, moved, money[:, order], ordered[:, order]),
    )
    for stages in (("recommend", "price", "order"), ("order",)):
        there, here = decide(model, told, stages), decide(model, other, stages)
        assert torch.equal(there[0]["order"][:, order], here[0]["order"])
        assert torch.allclose(there[1], here[1])


def test_masked_items_have_no_influence_and_are_never_recommended():
    model, told = FoundationPolicy(seed=2), seen(items=2)
    wide = Tokens(
        told.instance,
        torch.cat((told.items, torch.randn(5, 2, told.items.shape[2])), 1),
        torch.cat((told.present, torch.zeros(5, 2)), 1),
        told.prices,
        torch.cat((told.most, torch.zeros(5, 2)), 1),
    )
    assert torch.allclose(model.recommend_logits(told), model.recommend_logits(wide)[:, :2], atol=1e-5)
    chosen = torch.zeros(5, dtype=torch.long)
    assert torch.allclose(model.price_logits(told, chosen), model.price_logits(wide, chosen)[:, :2], atol=1e-5)
    assert int(decide(model, wide, STAGES["sell"])[0]["recommend"].max()) < 2


@pytest.mark.parametrize("items", [1, 2, 3, 6])
def test_any_number_of_items_runs(items):
    found, log_prob = decide(
        FoundationPolicy(seed=3), seen(items), STAGES["replenish"], torch.Generator().manual_seed(1)
    )
    assert found["order"].shape == found["price"].shape == (5, items)
    assert bool((log_prob < 0).all())
    assert int(found["order"].max()) <= 9


def test_only_the_joint_view_hears_the_earlier_decision():
    told, chosen = seen(), torch.zeros(5, dtype=torch.long)
    for view, same in (("joint", False), ("masked", True), ("own", True)):
        model = FoundationPolicy(view=view, seed=4)
        assert torch.allclose(model.price_logits(told, chosen), model.price_logits(told, chosen + 1)) is same
        few = torch.full((5, 3), float("nan")).index_fill(1, torch.tensor([1]), 2.0)
        orders = [model.order_logits(told, chosen, None, None, ordered) for ordered in (few, few + 3)]
        assert torch.allclose(*orders) is same


def test_the_own_view_of_pricing_and_recommendation_knows_no_stock():
    season = SEASON_A
    few, many = (season_tokens("sell", season, np.full((1, 2), x), np.array([5.0])) for x in (1.0, 20.0))
    model = FoundationPolicy(view="own", seed=5)
    assert torch.equal(model.recommend_logits(few), model.recommend_logits(many))
    assert torch.equal(model.price_logits(few, None), model.price_logits(many, None))
    joint = FoundationPolicy(seed=5)
    assert not torch.allclose(joint.price_logits(few, None), joint.price_logits(many, None))


def test_lessons_hold_the_exact_values_and_never_the_reported_instances():
    generator = np.random.Generator(np.random.Philox(1))
    sell, order = experts.season_lessons(TINY, generator, 6, 9)
    ahead, value = action_values(TINY)
    stock = (sell.tokens.items[:, :, 0] * 26).round().long()
    left = (sell.tokens.instance[:, 15] * 20).round().long()
    profit = value - np.tensordot(np.array(TINY.cost), np.indices(value.shape), axes=(0, 0))
    scale = profit.max() / 3
    for row, (x, to_go) in enumerate(zip(stock, left, strict=True)):
        for a, (prices, item) in enumerate(TINY.actions):
            place = [TINY.prices.index(p) for p in prices]
            known = ahead[3 - int(to_go), a, x[0], x[1]] / scale
            assert float(sell.values[row, item, place[0], place[1], 0, 0]) == pytest.approx(known, rel=1e-5)
    assert float(order.values[0, 0, 0, 0].max()) == pytest.approx(profit.max() / scale, rel=1e-5)
    assert all(experts.near(s) for s in (SEASON_A, season_b(1), season_b(2), season_b(3)))
    assert experts.near(replace(SEASON_A, utility=(1.55, 1.75), cost=(0.65, 0.75), periods=8))
    assert not any(experts.near(experts.draw_season(generator, items)) for items in (1, 2, 1, 2))


def test_replenishment_lessons_hold_the_exact_advantages():
    lesson = experts.replenish_lesson(TINY, np.random.Generator(np.random.Philox(2)), 4)
    assert lesson.values.shape == (4, 2, 6, 6, 5, 5)
    shop = Replenish(replace(TINY, cap=10), 4, round(float(lesson.tokens.instance[0, 5]), 2))
    found = solve(shop, tolerance=1e-3)
    stock = (lesson.tokens.items[:, :, 0] * 26).round().long()
    for row, x in enumerate(stock):
        best = found.ahead[:, :, x[0], x[1]].max()
        for (z, order), (a, (prices, item)) in itertools.product(
            list(enumerate(shop.orders))[::5], enumerate(TINY.actions)
        ):
            place = [TINY.prices.index(p) for p in prices]
            told = lesson.values[row, item, place[0], place[1], order[0], order[1]] - lesson.values[row].max()
            known = (found.ahead[z, a, x[0], x[1]] - best) / found.value
            assert float(told) == pytest.approx(known, abs=1e-4)


def test_losses_vanish_where_the_policy_is_the_target_and_regret_counts_what_is_lost():
    recipe = Recipe(temperature=1e-3, regret=1.0)
    values = torch.tensor([[[0.0, 1.0], [0.2, 0.4]]])
    sure = torch.tensor([[[0.0, -40.0], [-40.0, 0.0]]])
    assert float(pair_loss(sure, values, recipe)) == pytest.approx(0.0, abs=1e-6)
    even = torch.full((1, 2, 2), 0.5).log()
    regret = 1.0 - (0.0 + 1.0 + 0.2 + 0.4) / 4
    assert float(pair_loss(even, values, recipe)) == pytest.approx(2 * np.log(2) + regret, rel=1e-5)
    one = torch.tensor([[0.3, -1e9, 0.1]])
    found = decision_loss(torch.full((1, 3), 1 / 3).log(), one, recipe)
    assert float(found) == pytest.approx(np.log(3) + (0.2 + 5.0) / 3, rel=1e-5)


def test_the_exact_value_of_a_model_is_what_simulation_earns():
    model = FoundationPolicy(seed=6)
    with torch.no_grad():
        # Untrained, this one orders nothing; with the scores of orders turned round it orders much.
        model.order_score.weight.neg_()
    parameters = SeasonParameters(
        TINY.utility, TINY.cost, TINY.prices, TINY.boost, TINY.customers, TINY.salvage, TINY.periods, TINY.cap
    )
    exact = season_value(model, TINY)
    profits = simulated(model, parameters, 4_000, Key(run=3))
    assert abs(profits.mean() - exact) < 4 * profits.std() / np.sqrt(4_000)
    order, choices = season_policy(model, TINY)
    assert choices.shape == (3, 5, 5)
    assert min(order) > 0


def test_a_model_that_decides_in_a_shop_earns_less_than_the_joint_optimum():
    problem = Replenish(replace(TINY, cap=5), 2, 0.1)
    value = replenish_value(FoundationPolicy(seed=7), problem)
    assert value < solve(problem).value


def test_sampled_seasons_have_the_mean_of_the_exact_policy_value():
    model, copies = FoundationPolicy(seed=8), 2000
    with torch.no_grad():
        signal, log_prob = season_signal(model, [TINY], copies, torch.Generator().manual_seed(2))
        assert signal.shape == log_prob.shape == (copies, 1)
        value = sampled_value(model)
    error = float(signal.std()) / np.sqrt(copies)
    assert abs(float(signal.mean()) - value / 3) < 4 * error


def sampled_value(model):
    """The sampled policy's profit on TINY, by its own dynamic program over all stocks."""
    grid = np.array(list(itertools.product(range(5), repeat=2)), dtype=float)
    value = {tuple(x): TINY.salvage * sum(x) for x in grid}
    for left in (1, 2, 3):
        told = season_tokens("sell", TINY, grid, np.full(len(grid), float(left)))
        chance = model.recommend_logits(told).softmax(-1)
        priced = [model.price_logits(told, torch.full((len(grid),), i)).softmax(-1) for i in range(2)]
        new = {}
        for row, x in enumerate(grid):
            total = 0.0
            for prices, item in TINY.actions:
                a, b = (TINY.prices.index(p) for p in prices)
                likely = float(chance[row, item] * priced[item][row, 0, a] * priced[item][row, 1, b])
                for wanted, p in zip(TINY.outcomes, TINY.chances((prices, item)), strict=True):
                    sold = np.minimum(wanted, x)
                    total += likely * p * (sold @ np.array(prices) + value[tuple(x - sold)])
            new[tuple(x)] = total
        value = new
    told = season_tokens("order", TINY, np.zeros((1, 2)), np.array([3.0]), most=4)
    total, first = 0.0, int(order_sequence(told)[0, 0])
    for x in grid:
        likely, ordered = 1.0, torch.full((1, 2), float("nan"))
        for item in (first, 1 - first):
            chances = model.order_logits(told, torch.tensor([item]), None, None, ordered).softmax(-1)
            likely *= float(chances[0, int(x[item])])
            ordered[0, item] = x[item]
        total += likely * (value[tuple(x)] - x @ np.array(TINY.cost))
    return total


def school():
    told = {"instances": 1, "steps": 2, "updates": 1, "views": ("joint", "own"), "objective": Objective("mean")}
    return School(Key(run=9), recipe=Recipe(batch=16, instances=2, copies=4), **told)


def test_a_training_that_stopped_anywhere_goes_on_to_the_same_bits(tmp_path):
    whole = school()
    while whole.done < whole.total:
        whole.step()
    for stop in (2, 5):
        first = school()
        while first.done < stop:
            first.step()
        tensors, data = first.state()
        second = school()
        second.load_state(tensors, data)
        assert second.done == stop
        while second.done < second.total:
            second.step()
        for view, model in whole.models.items():
            for name, value in model.state_dict().items():
                assert torch.equal(value, second.models[view].state_dict()[name])
    save_models(whole.models, tmp_path)
    again = load_models(tmp_path)
    assert torch.equal(again["own"].recommend_logits(seen()), whole.models["own"].recommend_logits(seen()))


def test_the_joint_share_is_that_of_the_best_prices_and_recommendation_by_enumeration():
    drawn = np.random.Generator(np.random.Philox(5))
    for items in (1, 2, 3):
        for _ in range(20):
            season = experts.draw_season(drawn, items, cap=8)
            share, margin = joint_statistics(season.utility, season.cost, season.prices, season.boost)
            earned = []
            for prices, chosen in season.actions:
                lift = season.boost * (np.arange(items) == chosen)
                weight = np.exp(np.array(season.utility) + lift - prices)
                earned.append(float(weight @ (np.array(prices) - season.cost)) / (1 + weight.sum()))
            assert abs(np.dot(share, margin) - max(earned)) < 1e-9


def test_the_estimator_fits_given_seasons_predicts_evaluates_and_is_read_back(tmp_path):
    with pytest.raises(UsageError, match="Call fit"):
        Foundation().predict(SeasonState(TINY))
    with pytest.raises(UsageError, match="3 items"):
        Foundation().fit([replace(TINY, utility=(1.0,) * 3, cost=(0.5,) * 3)])
    model = Foundation(d=16, layers=1, steps=6, fine_tune=1, seed=2).fit([TINY, replace(TINY, boost=0.3)])
    order, choices = season_policy(model.fitted, TINY)
    assert tuple(model.predict(SeasonState(TINY)).order) == order
    stock = np.array([[4, 1], [0, 2], [3, 3]])
    told = model.predict(SeasonState(TINY, stock, left=np.array([3, 2, 1])))
    for b, (left, have) in enumerate(zip((3, 2, 1), stock, strict=True)):
        prices, chosen = TINY.actions[choices[(TINY.periods - left, *have)]]
        assert tuple(told.price[b]) == prices
        assert told.recommend[b] == chosen
    alone = model.predict(SeasonState(TINY, stock[0], left=3))
    assert (alone.price == told.price[0]).all()
    assert alone.recommend == told.recommend[0]
    assert model.evaluate(TINY) == season_value(model.fitted, TINY)
    model.save(tmp_path)
    assert Foundation.load(tmp_path).evaluate(TINY) == model.evaluate(TINY)


def test_states_that_cannot_be_and_models_of_another_version_are_refused(tmp_path):
    model = Foundation()
    model.policy = FoundationPolicy(seed=1)
    for stock, left, text in (
        ([1, 2, 3], 2, "does not fit 2 items"),
        ([1, TINY.cap + 1], 2, "does not fit 2 items"),
        ([-1, 1], 2, "does not fit 2 items"),
        ([1, 1], 0, "a season of 3 periods"),
        ([1, 1], TINY.periods + 1, "a season of 3 periods"),
        ([[1, 1], [2, 2]], [1, 2, 3], "for 2 states"),
    ):
        with pytest.raises(UsageError, match=text):
            model.predict(SeasonState(TINY, stock, left))
    with pytest.raises(UsageError, match="instances"):
        model.fit([])
    model.policy.item = torch.nn.Linear(3, 3)
    model.save(tmp_path)
    with pytest.raises(FileError, match="another version"):
        Foundation.load(tmp_path)
