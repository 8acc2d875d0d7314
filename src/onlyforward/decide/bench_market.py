"""The learned cases of `onlyforward bench management`: lost sales, pricing, and the manager's commands on real data."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from onlyforward.core.keys import Key
from onlyforward.decide.agents.base import Agent
from onlyforward.decide.agents.make import make_agent
from onlyforward.decide.agents.parameter_search import ParameterSearch
from onlyforward.decide.envs.pricing import DynamicPricing, buyers
from onlyforward.decide.envs.register import make
from onlyforward.decide.exact import lost_sales, pricing
from onlyforward.decide.objectives import Objective
from onlyforward.decide.presets import settings
from onlyforward.decide.study import EVALUATION
from onlyforward.decide.sweep import Sweep
from onlyforward.run.benchmark import seeds

if TYPE_CHECKING:
    from onlyforward.decide.command import BenchManagement
    from onlyforward.run.result import Result

LEAD, PENALTY = 2, 4.0
PPO_SEEDS = 3
"""Seeds of PPO on lost sales: minutes each."""
SHORTENED = 5
"""With --quick a training has this part of its budget."""


def trained(agent: str, environment: Any, seed: int, quick: bool, policy: str = "mlp") -> Agent:
    """An agent of the mean after its preset's budget."""
    chosen = settings(agent, environment.id)
    chosen = replace(chosen, episodes=chosen.episodes // SHORTENED) if quick else chosen
    objective = Objective("mean", environment.alpha)
    return make_agent(agent, environment, objective=objective, seed=seed, policy=policy, changed=chosen).learn()


def spread(values: list[float]) -> list[float]:
    """Median, lowest and highest."""
    return [float(np.median(values)), min(values), max(values)]


def lostsales(options: BenchManagement, sweep: Sweep, result: Result) -> None:
    """Learned rules of a lost-sales item against the best capped base-stock and the optimum, all by their own chain."""
    problem = lost_sales.LostSales(LEAD, PENALTY)
    optimum = lost_sales.solve(problem).value
    capped, level, cap = lost_sales.best_capped(problem)
    simple, base = lost_sales.best_base_stock(problem)

    def search(seed: int) -> list[float]:
        agent = trained("params", environment, seed, options.quick, "capped-base-stock")
        assert isinstance(agent, ParameterSearch)
        # A shop orders whole units: the numbers that were found are rounded before they are judged.
        found = [round(float(x)) for x in agent.mean]
        return [lost_sales.capped_base_stock_cost(problem, *found), *agent.mean.tolist()]

    def network(seed: int) -> list[float]:
        agent = trained("ppo", environment, seed, options.quick)
        # Every state that fits on the shelf is asked once: the rule is then a table. Beyond it nothing is ordered, or a
        # network that orders where it has never been would fill the chain without end.
        size = (60, environment.action.sizes[0])
        seen = np.indices(size).reshape(2, -1).T.astype(np.float32)
        table = agent.predict(seen).reshape(size)
        return [lost_sales.policy_cost(problem, lambda state: int(table[state]) if state[0] < size[0] else 0)]

    environment = make("LostSales", lead=LEAD, penalty=PENALTY, warm=20)
    params = [sweep.run(f"lostsales params {seed}", lambda s=seed: search(s)) for seed in seeds(options)]
    ppo = [sweep.run(f"lostsales ppo {seed}", lambda s=seed: network(s)) for seed in list(seeds(options))[:PPO_SEEDS]]
    costs = {name: spread([found[0] for found, _ in runs]) for name, runs in (("params", params), ("ppo", ppo))}
    result.metric("lostsales_capped_ratio", costs["params"][0] / capped)
    result.metric("lostsales_params_ratio", costs["params"][0] / optimum)
    result.metric("lostsales_ppo_ratio", costs["ppo"][0] / optimum)
    result.metric("lostsales_ppo_capped_ratio", costs["ppo"][0] / capped)
    for name, runs in (("params", params), ("ppo", ppo)):
        result.metric(f"lostsales_{name}_seconds", float(np.median([seconds for _, seconds in runs])), timing=True)
    rows = [
        ["optimal policy", optimum, None, None, 1.0],
        [f"best capped base-stock ({level}, {cap})", capped, None, None, capped / optimum],
        ["params, capped base-stock learned", *costs["params"], costs["params"][0] / optimum],
        ["ppo, network", *costs["ppo"], costs["ppo"][0] / optimum],
        [f"best base-stock {base}", simple, None, None, simple / optimum],
    ]
    result.table(
        f"Lost sales, lead {LEAD}, penalty {PENALTY:g}: average cost, exact",
        ["policy", "cost (median of seeds)", "lowest", "highest", "over optimum"],
        rows,
        f"{len(params)} seeds of params, {len(ppo)} of PPO; every rule is evaluated on its own stationary chain.",
    )


def rule_value(environment: DynamicPricing, numbers: Any) -> float:
    """Exact expected revenue of a linear price with the given numbers."""
    p = environment.parameters
    left = 1 - np.arange(p.slots)[:, None] / p.slots
    stock = np.arange(p.items + 1)[None] / p.items
    price = (numbers[0] + numbers[1] * left + numbers[2] * stock).clip(0, p.dearest)
    return pricing.slotted(p.items, lambda x: buyers(p, x), price[None])


def prices(options: BenchManagement, sweep: Sweep, result: Result) -> None:
    """A learned price that is linear in stock and time against Gallego and van Ryzin's optimum and one fixed price."""
    environment = make("DynamicPricing")
    assert isinstance(environment, DynamicPricing)
    p = environment.parameters
    known = environment.references()
    best, fixed, slots = (known[name].value for name in ("optimum", "fixed", "slots"))

    def search(seed: int) -> list[float]:
        agent = trained("params", environment, seed, options.quick, "linear-price")
        assert isinstance(agent, ParameterSearch)
        fresh = agent.returns(Key(run=seed, site=EVALUATION), 20_000, deterministic=True)
        return [rule_value(environment, agent.mean), float(fresh.mean()), float(fresh.std() / np.sqrt(len(fresh)))]

    runs = [sweep.run(f"pricing params {seed}", lambda s=seed: search(s)) for seed in seeds(options)]
    exact = spread([found[0] for found, _ in runs])
    simulated = float(np.median([found[1] for found, _ in runs]))
    result.metric("pricing_ratio", exact[0] / best)
    result.metric("pricing_simulated_ratio", simulated / best)
    result.metric("pricing_fixed_ratio", fixed / best)
    result.metric("pricing_slots_ratio", slots / best)
    result.metric("pricing_seconds", float(np.median([seconds for _, seconds in runs])), timing=True)
    bound = pricing.deterministic_bound(p.items, p.customers)
    rows = [
        ["deterministic bound", bound, None, None, bound / best],
        ["optimum, continuous time", best, None, None, 1.0],
        [f"optimum on {p.slots} slots", slots, None, None, slots / best],
        ["params, linear price learned", *exact, exact[0] / best],
        [known["fixed"].policy, fixed, None, None, fixed / best],
    ]
    result.table(
        f"Dynamic pricing, {p.items} units, {p.customers:g} expected customers: revenue, exact",
        ["policy", "revenue (median of seeds)", "lowest", "highest", "of optimum"],
        rows,
        f"Learned on {len(runs)} seeds; simulated on 20,000 fresh seasons each: {simulated:.3f} "
        f"+- {runs[0][0][2]:.3f} (standard error).",
    )


def real(options: BenchManagement, sweep: Sweep, result: Result) -> None:
    """The manager's commands on public tables; each row is one command of the documentation."""
    from onlyforward.data.sets import folder
    from onlyforward.decide import management, market_study
    from onlyforward.decide.options import Plan, Portfolio, Price, Recommend
    from onlyforward.run.context import Context

    commands: dict[str, tuple[Any, Any, tuple[str, ...]]] = {
        "bakery": (
            management.plan_orders,
            Plan(
                csv=folder("retail_bakery") / "BreadBasket_DMS.csv",
                layout="transactions",
                date_column="Date",
                item_column="Item",
                items="top:5",
                drop_items=("NONE",),
                price=3,
                cost=1,
                perishable=True,
                test_periods=48,
            ),
            PLAN,
        ),
        "walmart": (
            management.plan_orders,
            Plan(
                csv=folder("retail_walmart_weekly") / "Walmart.csv",
                date_column="Date",
                item_column="Store",
                demand_column="Weekly_Sales",
                unit=10_000,
                period="week",
                price=10,
                cost=6,
                holding=0.2,
                lead=1,
                test_periods=39,
            ),
            PLAN,
        ),
        "oj": (
            market_study.propose_prices,
            Price(
                csv=folder("retail_oj") / "oj.csv",
                item_column="brand",
                demand_column="sales",
                price_column="price",
                promo_column="feat",
                cost=1,
            ),
            ("r2_test", "profit_ratio", "edge"),
        ),
        "stocks": (
            market_study.portfolio,
            Portfolio(csv=folder("stocks10") / "stock_prices_10.csv", train_until="2014-01-01"),
            ("test_q_alpha", "advantage_markowitz", "advantage_markowitz_low", "advantage_equal_weight"),
        ),
        "movielens": (
            market_study.recommend_slates,
            Recommend(ratings=folder("movielens_latest_small") / "ratings.csv"),
            ("rmse_test", "rmse_bias", *CLICKS, "learned_minus_popular_low"),
        ),
    }
    rows = []
    for name, (work, told, names) in commands.items():
        sweep.context.say(f"decide on {told.csv.name if hasattr(told, 'csv') else told.ratings.name}")
        found = work(told, Context(told, application="decide"))
        for metric in names:
            result.metric(f"data_{name}_{metric}", found.metrics[metric])
            rows.append([name, metric, found.metrics[metric]])
    result.table("The manager's commands on public tables", ["table", "metric", "value"], rows)


PLAN = (
    "profit_ratio",
    "worst_decile_ratio",
    "backtest_profit",
    "base_stock_profit",
    "ss_profit",
    "seasonal_profit",
    "foresight_profit",
    "fill_rate",
)
CLICKS = tuple(f"clicks_{name}" for name in ("random", "popular", "knn", "learned", "optimum"))
CASES = {"lostsales": lostsales, "pricing": prices, "data": real}
