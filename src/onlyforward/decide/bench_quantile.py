"""`onlyforward bench quantile`: every agent on environments whose best quantile is known."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from onlyforward.core.checks import check_choice
from onlyforward.core.keys import Key
from onlyforward.decide.agents.base import Agent
from onlyforward.decide.agents.make import make_agent
from onlyforward.decide.envs.bandit import Bandit
from onlyforward.decide.envs.base import Environment
from onlyforward.decide.envs.register import make
from onlyforward.decide.objectives import Objective
from onlyforward.decide.study import EVALUATION, one_step_quantile
from onlyforward.run.benchmark import chosen

if TYPE_CHECKING:
    from onlyforward.decide.command import BenchQuantile
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result

SMALL = ("qpo", "qpo-raw", "reinforce", "ppo", "qppo", "qppo-paper", "qrdqn", "spsa")
CONTINUOUS = ("qpo", "qpo-cvar", "reinforce", "ppo", "qppo", "spsa")
EPISODES = 20_000


def agent_of(name: str, environment: Environment, seed: int) -> Agent:
    """An agent of the tables; `qpo-raw` weighs without centring, `qpo-cvar` maximises the lower-tail mean."""
    objective = Objective("cvar" if name == "qpo-cvar" else "quantile", environment.alpha, centred=name != "qpo-raw")
    return make_agent(name.removesuffix("-raw").removesuffix("-cvar"), environment, objective=objective, seed=seed)


def compare(
    result: Result,
    options: BenchQuantile,
    context: Context,
    *,
    case: str,
    environment: Environment,
    agents: tuple[str, ...],
    seeds: int,
    threshold: float | None,
) -> dict[str, list[Agent]]:
    """Train every agent on every seed; metrics `case_agent_{q,solved,seconds}` and one table row each."""
    wanted = [name.strip() for name in options.agents.split(",") if name.strip()] or list(agents)
    for name in wanted:
        check_choice(name, agents, name=f"{case} agent")
    rows, trained = [], {}
    for name in wanted:
        begin = time.perf_counter()
        trained[name] = [agent_of(name, environment, seed).learn() for seed in range(seeds)]
        seconds = (time.perf_counter() - begin) / seeds
        key = Key(site=EVALUATION)
        reached = [
            float(np.quantile(a.returns(key.at(run=i), EPISODES, deterministic=False), environment.alpha))
            for i, a in enumerate(trained[name])
        ]
        tag = f"{case}_{name.replace('-', '_')}"
        solved = sum(q >= threshold for q in reached) if threshold is not None else 0
        result.metric(f"{tag}_q", float(np.median(reached)))
        result.metric(f"{tag}_seconds", seconds, timing=True)
        if threshold is not None:
            result.metric(f"{tag}_solved", solved)
        result.forward_runs += sum(a.updates * a.settings.batch * environment.horizon for a in trained[name])
        rows.append(
            [name, float(np.median(reached)), float(np.min(reached)), float(np.max(reached)), solved, seeds, seconds]
        )
        context.say(f"{case} {name}: median {np.median(reached):.4g}, {seconds:.1f} s a seed")
    known = ", ".join(f"{r.policy} {r.value:g}" for r in environment.references().values())
    columns = [
        "agent",
        f"{environment.alpha:g} quantile, median",
        "lowest",
        "highest",
        "solved",
        "seeds",
        "time per seed [s]",
    ]
    result.table(f"{environment.id}: sampled policy, {EPISODES} fresh episodes", columns, rows, f"Known: {known}")
    return trained


def onestep(options: BenchQuantile, context: Context, result: Result) -> None:
    """`onestep_qpo_ratio`: the exact quantile of the trained policy over the exact optimum, mean over seeds."""
    seeds = 2 if options.quick else options.seeds
    environment = make("OneStep")
    trained = compare(
        result,
        options,
        context,
        case="onestep",
        environment=environment,
        agents=CONTINUOUS,
        seeds=seeds,
        threshold=None,
    )
    for name, agents in trained.items():
        exact = [one_step_quantile(float(a.policy(torch.ones(1, 1)).detach())) for a in agents]  # type: ignore[attr-defined]
        tag = f"onestep_{name.replace('-', '_')}"
        result.metric(f"{tag}_q", float(np.median(exact)))
        result.metric(f"{tag}_ratio", float(np.mean(exact)) / 0.1900)
        result.metric(f"{tag}_solved", sum(value >= 0.99 * 0.1900 for value in exact))


def bandit(options: BenchQuantile, context: Context, result: Result) -> None:
    """The right arm at five levels: `bandit_qpo_right_LEVEL` seeds, and the least probability of the right arm."""
    seeds = 2 if options.quick else options.seeds
    environment = Bandit()
    rows = []
    for alpha in (0.05, 0.25, 0.5, 0.75, 0.95):
        best = Bandit.best_arm(alpha)
        chances = []
        for seed in range(seeds):
            agent = make_agent("qpo", environment, objective=Objective("quantile", alpha), seed=seed).learn()
            logits = agent.policy(torch.ones(1, 1))  # type: ignore[attr-defined]
            chances.append(float(logits.softmax(-1)[0, best].detach()))
        tag = f"{alpha:g}".replace(".", "_")
        result.metric(f"bandit_qpo_right_{tag}", sum(chance >= 0.99 for chance in chances))
        result.metric(f"bandit_qpo_least_{tag}", min(chances))
        rows.append([alpha, best, sum(chance >= 0.99 for chance in chances), seeds, min(chances)])
    result.table(
        "Bandit: QPO at five levels", ["alpha", "best arm", "right (p >= .99)", "seeds", "least probability"], rows
    )


def small(
    case: str,
    environment: str,
    threshold: float | None,
    agents: tuple[str, ...],
    options: BenchQuantile,
    context: Context,
    result: Result,
) -> None:
    """One of the small environments under every agent."""
    seeds = 2 if options.quick else options.seeds
    trained = compare(
        result,
        options,
        context,
        case=case,
        environment=make(environment),
        agents=agents,
        seeds=seeds,
        threshold=threshold,
    )
    if case == "toy" and "qpo" in trained:
        errors = []
        for agent in trained["qpo"]:
            action = agent.policy(torch.eye(10))  # type: ignore[attr-defined]
            errors.append(float(((action - 1) ** 2).mean().detach()))
        result.metric("toy_qpo_mse", float(np.mean(errors)))


def supply(options: BenchQuantile, context: Context, result: Result) -> None:
    """QPPO against PPO over seeds, and the structured policies that must stand beside them."""
    seeds = 2 if options.quick else max(2, options.seeds // 2)
    environment = make("SupplyChain", preset="paper")
    key = Key(site=EVALUATION)
    greedy: dict[str, list[float]] = {}
    rows = []
    arms = [("ppo", "mlp"), ("qppo", "mlp"), ("qppo-paper", "mlp"), ("spsa", "mlp")]
    arms += [("params", policy) for policy in ("base-stock", "echelon-base-stock", "cyclic-base-stock")]
    for name, policy in arms:
        label = policy.removesuffix("-base-stock").replace("-", "_") if name == "params" else name.replace("-", "_")
        begin = time.perf_counter()
        values = []
        for seed in range(seeds):
            objective = Objective("quantile", environment.alpha)
            agent = make_agent(name, environment, objective=objective, seed=seed, policy=policy)
            if name in ("qppo-paper", "spsa"):
                agent.settings = replace(agent.settings, episodes=18_000, batch=200, rate=1e-3)
            agent.learn()
            episodes = [agent.returns(key.at(run=seed), EPISODES, deterministic=d) for d in (True, False)]
            values.append([episodes[0].mean(), *(np.quantile(e, environment.alpha) for e in episodes)])
            result.forward_runs += agent.updates * agent.settings.batch * environment.horizon
        seconds = (time.perf_counter() - begin) / seeds
        table = np.array(values)
        greedy[label] = list(table[:, 1])
        result.metric(f"supply_{label}_greedy_mean", table[:, 0].mean())
        result.metric(f"supply_{label}_greedy_q10", table[:, 1].mean())
        result.metric(f"supply_{label}_q", float(np.median(table[:, 2])))
        result.metric(f"supply_{label}_seconds", seconds, timing=True)
        spread = table.std(0, ddof=1)
        rows.append(
            [f"{name} {policy}", table[:, 0].mean(), table[:, 1].mean(), spread[1], table[:, 2].mean(), seeds, seconds]
        )
        context.say(f"supply {label}: greedy q10 {table[:, 1].mean():.1f}, {seconds:.0f} s a seed")
    result.metric("supply_cyclic_q10", float(np.mean(greedy["cyclic"])))
    result.metric("supply_echelon_q10", float(np.mean(greedy["echelon"])))
    low, high = paired_interval(np.array(greedy["qppo"]) - np.array(greedy["ppo"]))
    result.metric("supply_qppo_minus_ppo_low", low)
    result.metric("supply_qppo_minus_ppo_high", high)
    verdict = "QPPO is better" if low > 0 else "PPO is better" if high < 0 else "no difference"
    columns = ["agent", "greedy mean", "greedy q10", "spread over seeds", "sampled q10", "seeds", "time per seed [s]"]
    result.table(
        "SupplyChain, paper preset, discounted",
        columns,
        rows,
        f"QPPO minus PPO, greedy 10 % quantile, 95 % interval {low:.1f} to {high:.1f}: {verdict}.",
    )


def paired_interval(difference: np.ndarray) -> tuple[float, float]:
    """95 % Student interval of the mean difference over seeds."""
    from scipy.stats import t

    error = difference.std(ddof=1) / np.sqrt(len(difference))
    reach = float(t.ppf(0.975, len(difference) - 1)) * error
    return float(difference.mean() - reach), float(difference.mean() + reach)


def portfolio(options: BenchQuantile, context: Context, result: Result) -> None:
    """The frontier policy, with and without cost: a quantile needs memory."""
    seeds = 2 if options.quick else max(2, options.seeds // 2)
    rows = []
    for tag, cost in (("cost", 0.001), ("free", 0.0)):
        environment = make("Portfolio", cost=cost)
        reached = []
        for seed in range(seeds):
            objective = Objective("quantile", 0.1)
            agent = make_agent("params", environment, objective=objective, seed=seed, policy="frontier").learn()
            reached.append(
                float(np.quantile(agent.returns(Key(run=seed, site=EVALUATION), EPISODES, deterministic=True), 0.1))
            )
        known = next(iter(environment.references().values()))
        result.metric(f"portfolio_{tag}_params_q", float(np.median(reached)))
        rows.append([cost, float(np.mean(reached)), float(np.std(reached, ddof=1)), seeds, known.value])
    result.table(
        "Portfolio: 10 % quantile of final wealth - 100",
        ["cost", "frontier policy", "spread", "seeds", "best constant mix"],
        rows,
    )


CASES = {
    "onestep": onestep,
    "bandit": bandit,
    "lottery": partial(small, "lottery", "FairLottery", -1.65, SMALL),
    "greed": partial(small, "greed", "BeyondGreed", 8.55, SMALL),
    "toy": partial(small, "toy", "ZeroMean", None, ("qpo", "reinforce", "ppo", "qppo", "spsa")),
    "supply": supply,
    "portfolio": portfolio,
}


def run(options: BenchQuantile, context: Context) -> Result:
    """Every chosen case into one result."""
    torch.set_num_threads(options.threads)
    result = context.result(question="Do quantile agents find the best quantile, and who else does?")
    for name in chosen(options.only or options.cases, CASES):
        begin = time.perf_counter()
        CASES[name](options, context, result)
        result.metric(f"{name}_seconds", time.perf_counter() - begin, timing=True)
    result.answer = f"{len(result.tables)} tables over {len(result.metrics)} metrics; every loss is in its row."
    return result
