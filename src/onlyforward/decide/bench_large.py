"""The large cases of `onlyforward bench quantile`: the supply chain and the portfolio, with all that competes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onlyforward.core.checks import check_choice
from onlyforward.core.keys import Key
from onlyforward.decide.agents.base import Agent
from onlyforward.decide.agents.make import make_agent
from onlyforward.decide.envs.augment import AugmentState
from onlyforward.decide.envs.base import Environment
from onlyforward.decide.envs.register import make
from onlyforward.decide.objectives import Objective
from onlyforward.decide.peers import installed, sb3_ppo_returns
from onlyforward.decide.policies import structured
from onlyforward.decide.rollout import structured_returns
from onlyforward.decide.study import EVALUATION

if TYPE_CHECKING:
    from onlyforward.decide.command import BenchQuantile
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result

EPISODES = 20_000
FEW = 2
"""Seeds of the peers that no claim rests on."""


@dataclass(frozen=True)
class Arm:
    """A contender.

    Attributes:
        label: word in the metrics' names.
        agent: its agent, or sb3-ppo or random-search.
        policy: its policy.
        objective: what it maximises.
        claimed: whether a claim rests on it: then it runs on all seeds.
    """

    label: str
    agent: str
    policy: str = "mlp"
    objective: str = "quantile"
    claimed: bool = True


SUPPLY = (
    Arm("qppo", "qppo"),
    Arm("ppo", "ppo"),
    Arm("params", "params", "base-stock"),
    Arm("echelon", "params", "echelon-base-stock"),
    Arm("cyclic", "params", "cyclic-base-stock"),
    Arm("params_mean", "params", "base-stock", "mean"),
    Arm("random_search", "random-search", "base-stock", claimed=False),
    Arm("spsa", "spsa", claimed=False),
    Arm("qppo_paper", "qppo-paper", claimed=False),
    Arm("sb3_ppo", "sb3-ppo", claimed=False),
)


def trained(arm: Arm, environment: Environment, seed: int) -> Agent:
    """The arm's agent after its whole budget."""
    objective = Objective(arm.objective, environment.alpha)
    agent = make_agent(arm.agent, environment, objective=objective, seed=seed, policy=arm.policy)
    if arm.agent in ("qppo-paper", "spsa"):
        # Same episodes as QPPO; these two have no preset of their own here.
        agent.settings = replace(agent.settings, episodes=18_000, batch=200, rate=1e-3)
    return agent.learn()


def random_search(environment: Environment, seed: int) -> NDArray[np.float32]:
    """The best of 125 draws of base-stock levels by 2,000 episodes each: the budget of `params`."""
    rule = structured("base-stock", environment)
    key = Key(run=seed, site="random-search")
    levels = key.numpy().uniform(25, 75, (125, len(rule.start))).astype(np.float32)
    values = [
        np.quantile(structured_returns(environment, rule, np.repeat(row[None], 2000, 0), key), environment.alpha)
        for row in levels
    ]
    return levels[int(np.argmax(values))]


def play(arm: Arm, environment: Environment, seed: int) -> tuple[NDArray[Any], NDArray[Any], int]:
    """Greedy and sampled returns of a trained arm on fresh episodes, and the steps that it took."""
    key = Key(run=seed, site=EVALUATION)
    if arm.agent == "sb3-ppo":
        greedy, sampled = sb3_ppo_returns(environment, steps=1_800_000, seed=seed, episodes=EPISODES)
        return greedy, sampled, 1_800_000
    if arm.agent == "random-search":
        rows = np.repeat(random_search(environment, seed)[None], EPISODES, 0)
        greedy = structured_returns(environment, structured("base-stock", environment), rows, key)
        return greedy, greedy, 250_000 * environment.horizon
    agent = trained(arm, environment, seed)
    greedy, sampled = (agent.returns(key, EPISODES, deterministic=kind) for kind in (True, False))
    return greedy, sampled, agent.updates * agent.settings.batch * environment.horizon


def supply(options: BenchQuantile, context: Context, result: Result) -> None:
    """QPPO against PPO over seeds, and the structured policies that must stand beside them."""
    seeds = 2 if options.quick else max(2, options.seeds // 2)
    environment = make("SupplyChain", preset="paper")
    greedy: dict[str, NDArray[Any]] = {}
    rows: list[list[object]] = []
    wanted = [name.strip().replace("-", "_") for name in options.agents.split(",") if name.strip()]
    for name in wanted:
        check_choice(name, [arm.label for arm in SUPPLY], name="supply agent")
    for arm in SUPPLY:
        if wanted and arm.label not in wanted:
            continue
        if arm.agent == "sb3-ppo" and not installed():
            rows.append([arm.label, *["not installed"] * 7])
            continue
        count = seeds if arm.claimed else min(seeds, FEW)
        begin = time.perf_counter()
        runs = [play(arm, environment, seed) for seed in range(count)]
        seconds = (time.perf_counter() - begin) / count
        table = np.array([[g.mean(), np.quantile(g, 0.1), s.mean(), np.quantile(s, 0.1), g.std()] for g, s, _ in runs])
        greedy[arm.label] = table[:, 1]
        mean = table.mean(0)
        for word, value in zip(("greedy_mean", "greedy_q10", "sampled_mean", "sampled_q10"), mean, strict=False):
            result.metric(f"supply_{arm.label}_{word}", value)
        result.metric(f"supply_{arm.label}_q", float(np.median(table[:, 3])))
        result.metric(f"supply_{arm.label}_seconds", seconds, timing=True)
        result.forward_runs += sum(steps for *_, steps in runs)
        label = f"{arm.agent} {arm.policy}" + (", mean" if arm.objective == "mean" else "")
        rows.append([label, *mean[:2], table[:, 1].std(ddof=1), *mean[2:], count, seconds])
        context.say(f"supply {arm.label}: greedy q10 {mean[1]:.1f}, {seconds:.0f} s a seed")
    for label in ("cyclic", "echelon"):
        if label in greedy:
            result.metric(f"supply_{label}_q10", float(greedy[label].mean()))
    note = "Sampled: with the exploration that the agent learned with."
    if {"qppo", "ppo"} <= set(greedy):
        low, high = paired_interval(greedy["qppo"] - greedy["ppo"])
        result.metric("supply_qppo_minus_ppo_low", low)
        result.metric("supply_qppo_minus_ppo_high", high)
        verdict = "QPPO is better" if low > 0 else "PPO is better" if high < 0 else "no difference"
        note = f"QPPO minus PPO, greedy 10 % quantile, 95 % interval {low:.1f} to {high:.1f}: {verdict}. {note}"
    columns = [
        "agent",
        "greedy mean",
        "greedy q10",
        "its sd over seeds",
        "sampled mean",
        "sampled q10",
        "greedy sd",
        "seeds",
        "time per seed [s]",
    ]
    title = f"SupplyChain, paper preset, discounted; {EPISODES} fresh episodes"
    result.table(title, columns, rows, note)


def paired_interval(difference: NDArray[Any]) -> tuple[float, float]:
    """95 % Student interval of the mean difference over seeds."""
    from scipy.stats import t

    error = difference.std(ddof=1) / np.sqrt(len(difference))
    reach = float(t.ppf(0.975, len(difference) - 1)) * error
    return float(difference.mean() - reach), float(difference.mean() + reach)


def portfolio(options: BenchQuantile, context: Context, result: Result) -> None:
    """Policies that see their wealth against those that do not, with and without cost: a quantile needs memory."""
    seeds = 2 if options.quick else max(2, options.seeds // 2)
    rows: list[list[object]] = []
    for tag, cost in (("cost", 0.001), ("free", 0.0)):
        environment = make("Portfolio", cost=cost)

        def search(policy: str, objective: str = "quantile", environment: Environment = environment) -> Any:
            return partial(trained, Arm("", "params", policy, objective), environment)

        def fixed(row: list[float], environment: Environment = environment) -> Any:
            return lambda seed: (environment, row)

        wide = AugmentState(environment)
        arms: list[tuple[str, str, int, Callable[[int], Any]]] = [
            ("params", "frontier: time and wealth", seeds, search("frontier")),
            ("blind", "frontier without wealth", min(seeds, FEW), search("frontier-blind")),
            ("mean", "frontier, for the mean", min(seeds, FEW), search("frontier", "mean")),
            ("cppi", "constant proportion insurance", min(seeds, FEW), search("cppi")),
            ("mix", "best constant mix", min(seeds, FEW), fixed([-40.0, 0.0])),
        ]
        if not options.quick:
            arms.append(("qppo", "qppo mlp, state widened", 1, partial(trained, Arm("", "qppo"), wide)))
        for word, label, count, make_arm in arms:
            begin = time.perf_counter()
            values = np.array([spread(make_arm(seed), Key(run=seed, site=EVALUATION)) for seed in range(count)])
            seconds = (time.perf_counter() - begin) / count
            result.metric(f"portfolio_{tag}_{word}_q", float(np.median(values[:, 0])))
            rows.append([cost, label, *values.mean(0), float(values[:, 0].min()), count, seconds])
            context.say(f"portfolio cost {cost:g}, {label}: q10 {values[:, 0].mean():.3f}, {seconds:.0f} s a seed")
    result.metric("portfolio_params_q", result.metrics["portfolio_cost_params_q"] or float("nan"))
    result.table(
        "Portfolio: final wealth - 100",
        ["cost", "policy", "10 % quantile", "mean", "lowest quantile", "seeds", "time per seed [s]"],
        rows,
        "Known without cost: best constant mix -1.914 in continuous time; no long-only policy passes about +2.9.",
    )


def spread(arm: Any, key: Key) -> tuple[float, float]:
    """10 % quantile and mean of an agent, or of an environment with a fixed row of `frontier-blind`, greedy."""
    if isinstance(arm, Agent):
        returns = arm.returns(key, EPISODES, deterministic=True)
    else:
        environment, row = arm
        rows = np.repeat(np.array([row], dtype=np.float32), EPISODES, 0)
        returns = structured_returns(environment, structured("frontier-blind", environment), rows, key)
    return float(np.quantile(returns, 0.1)), float(returns.mean())
