"""`onlyforward bench quantile`: every agent on environments whose best quantile is known."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from onlyforward.core.checks import check_choice
from onlyforward.core.keys import Key
from onlyforward.decide.agents.base import Agent
from onlyforward.decide.agents.make import make_agent
from onlyforward.decide.bench_large import portfolio, supply
from onlyforward.decide.envs.bandit import MEANS, Bandit
from onlyforward.decide.envs.base import Environment
from onlyforward.decide.envs.register import make
from onlyforward.decide.objectives import Objective
from onlyforward.decide.peers import installed, sb3_ppo_returns
from onlyforward.decide.study import EVALUATION, one_step_quantile
from onlyforward.decide.sweep import Sweep
from onlyforward.run.benchmark import chosen

if TYPE_CHECKING:
    from onlyforward.decide.command import BenchQuantile
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result

LOTTERIES = ("qpo", "qpo-raw", "reinforce", "ppo", "qppo", "qppo-paper", "qrdqn", "spsa", "sb3-ppo")
EPISODES = 20_000
OTHERS = 3
"""Seeds of every agent but the first of a table, whose claim is tested on all of them."""
SB3_BATCH = 256
Measure = Callable[[Agent], list[float]]


@dataclass(frozen=True)
class Contest:
    """One environment and who tries it.

    Attributes:
        case: word in the metrics' names.
        environment: its name.
        agents: words of the tables; `-raw` weighs without centring, `-cvar` maximises the lower-tail mean. Ours first.
        threshold: a seed whose quantile is at least this has solved it.
    """

    case: str
    environment: str
    agents: tuple[str, ...]
    threshold: float | None = None


def agent_of(name: str, environment: Environment, seed: int) -> Agent:
    """An agent of the tables."""
    objective = Objective("cvar" if name == "qpo-cvar" else "quantile", environment.alpha, centred=name != "qpo-raw")
    word = name.removesuffix("-raw").removesuffix("-cvar")
    policy = "constant" if word == "params" else "mlp"
    return make_agent(word, environment, objective=objective, seed=seed, policy=policy)


def seed_count(options: BenchQuantile, *, ours: bool) -> int:
    """All seeds for the agent whose claim is tested, three for the others, two in the short form."""
    seeds = 2 if options.quick else options.seeds
    return seeds if ours else min(seeds, OTHERS)


def attempt(name: str, environment: Environment, seed: int, more: Measure) -> list[float]:
    """Train once: the alpha quantile of the sampled policy, the environment steps, and what `more` measures."""
    if name == "sb3-ppo":
        steps = 50_000 * environment.horizon
        _, sampled = sb3_ppo_returns(
            environment, steps=steps, seed=seed, episodes=EPISODES, hidden=(64,), batch=SB3_BATCH
        )
        return [float(np.quantile(sampled, environment.alpha)), steps]
    agent = agent_of(name, environment, seed).learn()
    steps = agent.updates * agent.settings.batch * environment.horizon
    sampled = agent.returns(Key(run=seed, site=EVALUATION), EPISODES, deterministic=False)
    return [float(np.quantile(sampled, environment.alpha)), steps, *more(agent)]


def compare(
    contest: Contest, options: BenchQuantile, sweep: Sweep, result: Result, more: Measure = lambda agent: []
) -> dict[str, NDArray[np.float64]]:
    """Train every agent on its seeds; metrics `case_agent_{q,solved,seconds}` and one table row each.

    Returns what `more` measured, by agent: [seeds, numbers].
    """
    environment = make(contest.environment)
    wanted = [name.strip() for name in options.agents.split(",") if name.strip()] or list(contest.agents)
    measured: dict[str, NDArray[np.float64]] = {}
    rows: list[list[object]] = []
    for name in wanted:
        check_choice(name, contest.agents, name=f"{contest.case} agent")
        if name.startswith("sb3") and not installed():
            rows.append([name, *["not installed"] * 6])
            continue
        runs = [
            sweep.run(f"{contest.case} {name} {seed}", partial(attempt, name, environment, seed, more))
            for seed in range(seed_count(options, ours=name == contest.agents[0]))
        ]
        numbers = np.array([found for found, _ in runs])
        seconds = float(np.mean([spent for _, spent in runs]))
        reached, measured[name] = numbers[:, 0], numbers[:, 2:]
        tag = f"{contest.case}_{name.replace('-', '_')}"
        result.metric(f"{tag}_q", float(np.median(reached)))
        result.metric(f"{tag}_seconds", seconds, timing=True)
        solved: int | None = None
        if contest.threshold is not None:
            solved = int((reached >= contest.threshold).sum())
            result.metric(f"{tag}_solved", solved)
        result.forward_runs += int(numbers[:, 1].sum())
        rows.append([name, float(np.median(reached)), reached.min(), reached.max(), solved, len(runs), seconds])
    known = ", ".join(f"{r.policy} {r.value:g}" for r in environment.references().values())
    quantile = f"{environment.alpha:g} quantile, median"
    columns = ["agent", quantile, "lowest", "highest", "solved", "seeds", "time per seed [s]"]
    result.table(f"{environment.id}: sampled policy, {EPISODES} fresh episodes", columns, rows, f"Known: {known}")
    return measured


def onestep(options: BenchQuantile, sweep: Sweep, result: Result) -> None:
    """`onestep_qpo_ratio`: the exact quantile of the trained policy over the exact optimum, mean over seeds."""
    agents = ("qpo", "qpo-cvar", "reinforce", "ppo", "qppo", "spsa", "params")

    def action(agent: Agent) -> list[float]:
        return [float(np.ravel(agent.predict(np.ones((1, 1), dtype=np.float32)))[0])]

    rows = []
    for name, actions in compare(Contest("onestep", "OneStep", agents), options, sweep, result, action).items():
        exact = [one_step_quantile(theta) for theta in actions[:, 0]]
        tag = f"onestep_{name.replace('-', '_')}"
        result.metric(f"{tag}_q", float(np.median(exact)))
        result.metric(f"{tag}_ratio", float(np.mean(exact)) / 0.1900)
        result.metric(f"{tag}_solved", sum(value >= 0.99 * 0.1900 for value in exact))
        rows.append([name, float(actions.mean()), float(np.mean(exact)), min(exact), len(exact)])
    result.table(
        "OneStep: the learned mean action with deviation 0.3, by quadrature",
        ["agent", "mean action", "10 % quantile, mean", "lowest", "seeds"],
        rows,
        "Optimum: action 0.930, quantile 0.1900; the mean is best at 2, where the quantile is -0.598.",
    )


def bandit(options: BenchQuantile, sweep: Sweep, result: Result) -> None:
    """The right arm at five levels: `bandit_qpo_right_LEVEL` seeds, and the least probability of the right arm."""
    environment = Bandit()

    def chance(name: str, alpha: float, arm: int, seed: int) -> list[float]:
        agent = make_agent(name, environment, objective=Objective("quantile", alpha), seed=seed).learn()
        logits = agent.policy(torch.ones(1, 1))  # type: ignore[attr-defined]
        return [float(logits.softmax(-1)[0, arm].detach())]

    rows: list[list[object]] = []
    levels: list[tuple[str, float, int]] = [("qpo", a, Bandit.best_arm(a)) for a in (0.05, 0.25, 0.5, 0.75, 0.95)]
    for name, alpha, arm in [*levels, ("reinforce", 0.5, int(np.argmax(MEANS)))]:
        count = seed_count(options, ours=name == "qpo")
        works = [partial(chance, name, alpha, arm, seed) for seed in range(count)]
        found = [sweep.run(f"bandit {name} {alpha:g} {seed}", work)[0][0] for seed, work in enumerate(works)]
        right = sum(probability >= 0.99 for probability in found)
        if name == "qpo":
            tag = f"{alpha:g}".replace(".", "_")
            result.metric(f"bandit_qpo_right_{tag}", right)
            result.metric(f"bandit_qpo_least_{tag}", min(found))
        rows.append([name, alpha if name == "qpo" else "mean", arm, right, count, min(found)])
    result.table(
        "Bandit: five arms at five levels",
        ["agent", "alpha", "its best arm", "right (p >= .99)", "seeds", "least probability"],
        rows,
    )


def small(contest: Contest, options: BenchQuantile, sweep: Sweep, result: Result) -> None:
    """One of the small environments under every agent."""
    compare(contest, options, sweep, result)


def toy(options: BenchQuantile, sweep: Sweep, result: Result) -> None:
    """`toy_qpo_mse`: squared distance of the ten learned actions from the optimal 1, mean over seeds."""
    agents = ("qpo", "reinforce", "ppo", "qppo", "spsa")

    def error(agent: Agent) -> list[float]:
        return [float(((agent.predict(np.eye(10, dtype=np.float32)) - 1) ** 2).mean())]

    rows = []
    for name, errors in compare(Contest("toy", "ZeroMean", agents), options, sweep, result, error).items():
        result.metric(f"toy_{name}_mse", float(errors.mean()))
        rows.append([name, float(errors.mean()), float(errors.max()), len(errors)])
    result.table("ZeroMean: squared error of the ten learned actions", ["agent", "mean", "worst seed", "seeds"], rows)


Case = Callable[["BenchQuantile", Sweep, "Result"], None]
CASES: dict[str, Case] = {
    "onestep": onestep,
    "bandit": bandit,
    "lottery": partial(small, Contest("lottery", "FairLottery", LOTTERIES, -1.65)),
    "greed": partial(small, Contest("greed", "BeyondGreed", LOTTERIES, 8.55)),
    "toy": toy,
    "supply": supply,
    "portfolio": portfolio,
}


def run(options: BenchQuantile, context: Context) -> Result:
    """Every chosen case into one result."""
    torch.set_num_threads(options.threads)
    result = context.result(question="Do quantile agents find the best quantile, and who else does?")
    sweep = Sweep(context)
    for name in chosen(options.only or options.cases, CASES):
        begin = time.perf_counter()
        CASES[name](options, sweep, result)
        result.metric(f"{name}_seconds", time.perf_counter() - begin, timing=True)
    result.answer = f"{len(result.tables)} tables over {len(result.metrics)} metrics; every loss is in its row."
    return result
