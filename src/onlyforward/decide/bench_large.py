"""The large cases of `onlyforward bench quantile`: the supply chain and the portfolio, with all that competes."""

from __future__ import annotations

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
from onlyforward.decide.sweep import Sweep

if TYPE_CHECKING:
    from onlyforward.decide.command import BenchQuantile
    from onlyforward.run.result import Result

EPISODES = 20_000
FEW = 1
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


def picked(names: str, arms: tuple[Arm, ...]) -> list[Arm]:
    """The arms that a comma-separated list names; all of them for an empty list."""
    wanted = [name.strip().replace("-", "_") for name in names.split(",") if name.strip()]
    for name in wanted:
        check_choice(name, [arm.label for arm in arms], name="agent of this case")
    return [arm for arm in arms if not wanted or arm.label in wanted]


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


def play(arm: Arm, environment: Environment, seed: int) -> list[float]:
    """Greedy mean and q10, sampled mean and q10, greedy spread on fresh episodes; and the environment steps taken."""
    key = Key(run=seed, site=EVALUATION)
    if arm.agent == "sb3-ppo":
        greedy, sampled = sb3_ppo_returns(environment, steps=1_800_000, seed=seed, episodes=EPISODES)
        steps = 1_800_000
    elif arm.agent == "random-search":
        rows = np.repeat(random_search(environment, seed)[None], EPISODES, 0)
        greedy = sampled = structured_returns(environment, structured("base-stock", environment), rows, key)
        steps = 250_000 * environment.horizon
    else:
        agent = trained(arm, environment, seed)
        greedy, sampled = (agent.returns(key, EPISODES, deterministic=kind) for kind in (True, False))
        steps = agent.updates * agent.settings.batch * environment.horizon
    level = environment.alpha
    q = [float(np.quantile(returns, level)) for returns in (greedy, sampled)]
    return [greedy.mean(), q[0], sampled.mean(), q[1], greedy.std(), steps]


def supply(options: BenchQuantile, sweep: Sweep, result: Result) -> None:
    """QPPO against PPO over seeds, and the structured policies that must stand beside them."""
    seeds = 2 if options.quick else max(2, options.seeds // 2)
    environment = make("SupplyChain", preset="paper")
    greedy: dict[str, NDArray[Any]] = {}
    rows: list[list[object]] = []
    for arm in picked(options.agents, SUPPLY):
        if arm.agent == "sb3-ppo" and not installed():
            rows.append([arm.label, *["not installed"] * 8])
            continue
        count = seeds if arm.claimed else min(seeds, FEW)
        runs = [sweep.run(f"supply {arm.label} {seed}", partial(play, arm, environment, seed)) for seed in range(count)]
        table = np.array([numbers for numbers, _ in runs])
        seconds = float(np.mean([spent for _, spent in runs]))
        greedy[arm.label] = table[:, 1]
        mean = table.mean(0)
        for word, value in zip(("greedy_mean", "greedy_q10", "sampled_mean", "sampled_q10"), mean, strict=False):
            result.metric(f"supply_{arm.label}_{word}", value)
        result.metric(f"supply_{arm.label}_q", float(np.median(table[:, 3])))
        result.metric(f"supply_{arm.label}_seconds", seconds, timing=True)
        result.forward_runs += int(table[:, 5].sum())
        label = f"{arm.agent} {arm.policy}" + (", mean" if arm.objective == "mean" else "")
        spread_over_seeds = table[:, 1].std(ddof=1) if count > 1 else None
        rows.append([label, *mean[:2], spread_over_seeds, *mean[2:5], count, seconds])
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


def portfolio(options: BenchQuantile, sweep: Sweep, result: Result) -> None:
    """Policies that see their wealth against those that do not, with and without cost: a quantile needs memory."""
    seeds = 2 if options.quick else max(2, options.seeds // 2)
    rows: list[list[object]] = []
    for tag, cost in (("cost", 0.001), ("free", 0.0)):
        environment = make("Portfolio", cost=cost)
        for arm in picked(options.agents, PORTFOLIO):
            if arm.agent == "qppo" and (options.quick or cost == 0):
                continue
            count = seeds if arm.claimed else 1
            runs = [
                sweep.run(f"portfolio {tag} {arm.label} {seed}", partial(invest, arm, environment, seed))
                for seed in range(count)
            ]
            values = np.array([numbers for numbers, _ in runs])
            seconds = float(np.mean([spent for _, spent in runs]))
            result.metric(f"portfolio_{tag}_{arm.label}_q", float(np.median(values[:, 0])))
            words = f"{arm.agent} {arm.policy}" + (", mean" if arm.objective == "mean" else "")
            rows.append([cost, words, *values.mean(0), float(values[:, 0].min()), count, seconds])
    result.table(
        "Portfolio: final wealth - 100, greedy",
        ["cost", "policy", "10 % quantile", "mean", "lowest quantile", "seeds", "time per seed [s]"],
        rows,
        "frontier sees time and wealth, frontier-blind time alone; qppo sees the widened state. Known without cost: "
        "best constant mix -1.914 in continuous time; no long-only policy passes about +2.9.",
    )


PORTFOLIO = (
    Arm("params", "params", "frontier"),
    Arm("blind", "params", "frontier-blind", claimed=False),
    Arm("mean", "params", "frontier", "mean", claimed=False),
    Arm("cppi", "params", "cppi", claimed=False),
    Arm("mix", "none", "best constant mix", claimed=False),
    Arm("qppo", "qppo", claimed=False),
)


def invest(arm: Arm, environment: Environment, seed: int) -> list[float]:
    """10 % quantile and mean of the final gain on fresh episodes."""
    key = Key(run=seed, site=EVALUATION)
    if arm.agent == "none":
        # The blind frontier without its bold part is the constant mix.
        rows = np.repeat(np.array([[-40.0, 0.0]], dtype=np.float32), EPISODES, 0)
        returns = structured_returns(environment, structured("frontier-blind", environment), rows, key)
    else:
        place = AugmentState(environment) if arm.agent == "qppo" else environment
        returns = trained(arm, place, seed).returns(key, EPISODES, deterministic=True)
    return [float(np.quantile(returns, 0.1)), float(returns.mean())]
