"""The `decide` commands: list, solve, train, evaluate, and the demonstration."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from onlyforward.core.errors import FileError, UsageError
from onlyforward.core.keys import Key
from onlyforward.decide.agents.base import Agent
from onlyforward.decide.agents.make import make_agent
from onlyforward.decide.envs.augment import AugmentState
from onlyforward.decide.envs.base import Environment, Reference
from onlyforward.decide.envs.register import ENVIRONMENTS, make, parse_settings, short
from onlyforward.decide.evaluate import Evaluation, evaluate
from onlyforward.decide.objectives import Objective
from onlyforward.decide.presets import settings
from onlyforward.decide.remote import sharing

if TYPE_CHECKING:
    from onlyforward.decide.command import DemoOptions, Envs, Evaluate, Policy, Solve, Train
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result

EVALUATION = "evaluation"
"""Site of the keys of fresh episodes: no training episode shares them."""
COSTS = ("LostSales", "SS", "Newsvendor")
"""Environments whose reward is minus a cost."""
MEANS = ("DynamicPricing", "Recommendation", "JointSeason", "JointReplenish")
"""Environments whose references are means; those of the others are quantiles, or costs."""
SOLVED = ("Newsvendor", "SS", "DynamicPricing", "JointSeason", "JointReplenish")
"""Environments whose first reference is the exact optimum; lost sales have more to tell."""


def envs(options: Envs, context: Context) -> Result:
    """A table of environments, spaces and references."""
    result = context.result(question="Which environments are there, and what is known about them?")
    rows = []
    for name in ENVIRONMENTS:
        env = make(name)
        known = "; ".join(f"{r.policy}: {r.value:.4g} ({r.kind})" for r in env.references().values())
        rows.append([f"onlyforward/{name}-v0", env.horizon, env.observation_size, env.action.kind, env.alpha, known])
    result.table("Environments", ["id", "periods", "observation", "action", "alpha", "references"], rows)
    result.metric("environments", len(rows))
    result.answer = f"{len(rows)} environments, each with an exact or best-known reference."
    return result


def solve(options: Solve, context: Context) -> Result:
    """Optimal value, heuristics, and a simulation of the optimal policy."""
    from onlyforward.decide.exact import lost_sales

    result = context.result(question=f"What is the best that {options.env} allows?")
    environment = make(options.env, **parse_settings(options.set))
    begin = time.perf_counter()
    if short(options.env) != "LostSales":
        if short(options.env) not in SOLVED:
            raise UsageError(f"{options.env} has no exact solver", f"Choose LostSales or {', '.join(SOLVED)}")
        known = environment.references()
        best = next(iter(known.values()))
        sign, word = (-1, "cost") if short(options.env) in COSTS else (1, "value")
        result.metric("optimal_value", sign * best.value)
        result.metric("solver_seconds", time.perf_counter() - begin, timing=True)
        result.table(f"Optimal {word}", ["policy", word], [[r.policy, sign * r.value] for r in known.values()])
        result.answer = f"The optimal {word} is {sign * best.value:.4f}: {best.policy}."
        return result
    p = environment.parameters  # type: ignore[attr-defined]
    problem = lost_sales.LostSales(p.lead, p.penalty, p.holding, p.demand, p.mean)
    optimum = lost_sales.solve(problem)
    seconds = time.perf_counter() - begin
    base, level = lost_sales.best_base_stock(problem)
    capped, capped_level, cap = lost_sales.best_capped(problem)
    result.metric("optimal_value", optimum.value)
    result.metric("base_stock_value", base)
    result.metric("capped_value", capped)
    rows: list[list[Any]] = [
        ["optimal policy", optimum.value],
        [f"capped base-stock ({capped_level}, {cap})", capped],
        [f"base-stock {level}", base],
    ]
    if options.simulate:
        mean, error = simulate_lost_sales(problem, optimum, options.simulate, context.key)
        result.metric("simulated_value", mean)
        result.metric("simulated_error", error)
        rows.append([f"optimal policy, simulated (+- {error:.4f})", mean])
    result.metric("solver_seconds", seconds, timing=True)
    result.table(
        "Average cost per period", ["policy", "cost"], rows, f"lead {p.lead}, penalty {p.penalty}, {p.demand} demand"
    )
    result.answer = f"The optimal average cost is {optimum.value:.4f} per period; the best base-stock pays {base:.4f}."
    return result


def simulate_lost_sales(problem: Any, optimum: Any, periods: int, key: Key) -> tuple[float, float]:
    """Mean cost of the optimal policy over 1,000 paths of the environment, and its standard error."""
    from onlyforward.decide.envs.lost_sales import LostSales, LostSalesParameters

    warm = min(50, periods // 4)
    parameters = LostSalesParameters(
        lead=problem.lead,
        penalty=problem.penalty,
        holding=problem.holding,
        demand=problem.law,
        mean=problem.mean,
        periods=periods + warm,
        warm=warm,
        max_order=optimum.policy.max(),
    )
    environment = LostSales(parameters)
    state = environment.start(environment.noise(key.at(site="simulate"), 0, 1000))
    total: Any = 0.0
    top = np.array(optimum.policy.shape) - 1
    for _ in range(environment.horizon):
        seen = np.minimum(environment.observe(state).astype(np.int64), top)
        state, reward = environment.advance(state, optimum.policy[tuple(seen.T)][:, None])
        total = total - reward
    return float(total.mean()), float(total.std() / np.sqrt(len(total)))


def environment_of(options: Train, parameters: dict[str, Any]) -> Environment:
    """The environment of a training; its state is widened where the objective asks for memory."""
    environment = make(options.env, preset=options.preset, backend=options.backend, **parameters)
    risky = options.objective != "mean" and options.agent not in ("params", "reinforce", "ppo")
    return AugmentState(environment) if options.augment and risky and options.preset != "paper" else environment


def objective_of(options: Policy, environment: Environment, **more: Any) -> tuple[Objective, float]:
    """The objective and its level; alpha -1 stands for the environment's own."""
    alpha = environment.alpha if options.alpha == -1.0 else options.alpha
    if not 0 < alpha < 1:
        raise UsageError(f"--alpha is {alpha:g}", "It is a probability strictly between 0 and 1")
    return Objective(options.objective, alpha, **more), alpha


def train(options: Train, context: Context) -> Result:
    """Train one agent per seed, evaluate deterministic and sampled policies, compare with the references."""
    torch.set_num_threads(options.threads)
    environment = environment_of(options, parse_settings(options.set))
    objective, alpha = objective_of(options, environment, tracker=options.tracker, centred=not options.raw_indicator)
    result = context.result(question=f"How well does {options.agent} do on {environment.id} at alpha = {alpha:g}?")
    rows, finals, solved = [], [], 0
    begin, steps = time.perf_counter(), 0
    reference = best_reference(environment, objective)
    agents = [new_agent(options, environment, objective, seed) for seed in seeds_of(options)]
    with sharing(options, context) as workers:
        for agent in agents:
            agent.sharing = workers
            fit(agent, context, resumable=options.seeds == 1)
    for seed, agent in zip(seeds_of(options), agents, strict=True):
        steps += agent.updates * agent.settings.batch * environment.horizon
        values = assess(agent, objective, alpha, options.eval_episodes)
        finals.append(values)
        rows.append([seed, values[0].objective, values[0].mean, values[0].q_alpha, values[1].mean, values[1].q_alpha])
        solved += is_solved(environment, values, reference)
    seconds = time.perf_counter() - begin
    last = finals[-1][0]
    for name, value in last.metrics().items():
        result.metric(name, float(np.mean([pair[0].metrics()[name] for pair in finals])) if len(finals) > 1 else value)
    result.metric("sampled_mean", float(np.mean([pair[1].mean for pair in finals])))
    result.metric("sampled_q_alpha", float(np.mean([pair[1].q_alpha for pair in finals])))
    result.metric("tracked_q", tracked_quantile(agent))
    report_references(result, environment, reference, result.metrics["objective"] or 0.0, options)
    result.metric("train_steps", steps)
    result.metric("train_seconds", seconds, timing=True)
    result.metric("steps_per_second", steps / seconds, timing=True)
    result.metric("seeds_solved", solved)
    columns = ["seed", "objective", "mean", "q_alpha", "sampled mean", "sampled q_alpha"]
    result.table(
        f"{options.agent} on {environment.id}, alpha = {alpha:g}",
        columns,
        rows,
        f"{options.eval_episodes} fresh episodes; deterministic policy unless it says sampled.",
    )
    known = [[r.policy, r.kind, r.value] for r in environment.references().values()]
    result.table("References", ["policy", "kind", "value"], known)
    result.forward_runs = steps
    result.artefacts = {name: value for name, value in agent.state()[0].items() if ".adam." not in name}
    if context.folder is not None:
        agent.save(context.folder)
        (context.folder / "train.json").write_text(json.dumps(training_options(options)))
    result.answer = (
        f"{options.agent} reaches a {alpha:.0%} quantile of {last.q_alpha:.4g} "
        f"(95 % interval {last.q_alpha_low:.4g} to {last.q_alpha_high:.4g}) and a mean of {last.mean:.4g}."
    )
    return result


def seeds_of(options: Train) -> range:
    """--seed and the next ones."""
    return range(options.seed, options.seed + options.seeds)


def training_options(options: Train) -> dict[str, Any]:
    """What `decide evaluate` needs to rebuild the agent."""
    names = (
        "env",
        "agent",
        "objective",
        "alpha",
        "policy",
        "preset",
        "set",
        "backend",
        "episodes",
        "steps",
        "batch",
        "seed",
    )
    return {name: value for name, value in asdict(options).items() if name in names}


def new_agent(options: Train, environment: Environment, objective: Objective, seed: int) -> Agent:
    """The agent of the options, its preset changed where the options say so."""
    chosen = settings(options.agent, environment.id)
    episodes = options.episodes or (options.steps // environment.horizon if options.steps else 0)
    if episodes:
        chosen = replace(chosen, episodes=episodes)
    if options.batch:
        chosen = replace(chosen, batch=options.batch)
    return make_agent(options.agent, environment, objective=objective, seed=seed, policy=options.policy, changed=chosen)


def fit(agent: Agent, context: Context, *, resumable: bool = True) -> None:
    """Train with checkpoints, progress and learning-curve events."""
    saved = context.restore() if resumable else None
    if saved is not None:
        agent.load_state(saved.tensors, saved.data)
        agent.updates = saved.step
    with context.progress(agent.total_updates, label=f"{type(agent).__name__} on {agent.environment.id}") as tick:

        def after(numbers: dict[str, Any]) -> None:
            tick(**{name: value for name, value in numbers.items() if isinstance(value, float)})
            if resumable:
                context.save(agent.updates, agent.state)

        agent.learn(callback=after)


def assess(agent: Agent, objective: Objective, alpha: float, episodes: int) -> tuple[Evaluation, Evaluation]:
    """Deterministic and sampled policy on the same fresh episodes."""
    key = Key(run=agent.key.run, site=EVALUATION)
    deterministic = evaluate(agent.returns(key, episodes, deterministic=True), objective, alpha)
    sampled = evaluate(agent.returns(key, episodes, deterministic=False), objective, alpha)
    return deterministic, sampled


def tracked_quantile(agent: Agent) -> float:
    """The last tracked q, or NaN for agents that track none."""
    tracked = getattr(agent, "tracked", None)
    return float(tracked.q) if hasattr(tracked, "q") else float("nan")


def best_reference(environment: Environment, objective: Objective) -> Reference | None:
    """The strongest known value of the objective; what is known of an environment is of its mean or of its quantile."""
    known = "mean" if environment.id in MEANS else "quantile"
    if objective.name != known and environment.id not in COSTS:
        return None
    return next(iter(environment.references().values()), None)


def is_solved(environment: Environment, values: tuple[Evaluation, Evaluation], reference: Reference | None) -> bool:
    """Within 2 % of the reference, or past the environment's stated threshold."""
    stated = {"FairLottery": -1.65, "BeyondGreed": 8.55}
    if environment.id in stated:
        return values[1].q_alpha >= stated[environment.id]
    return reference is not None and values[0].objective >= reference.value - 0.02 * abs(reference.value)


def report_references(
    result: Result, environment: Environment, reference: Reference | None, value: float, options: Train
) -> None:
    """reference_value, ratio (or gap where the reference is not positive) and the best heuristic's values."""
    result.metric("reference_value", float("nan") if reference is None else reference.value)
    costs = environment.id in COSTS
    if reference is not None and costs:
        result.metric("ratio", reference.value / value)
    elif reference is not None and reference.value > 0:
        result.metric("ratio", value / reference.value)
    else:
        result.metric("ratio", float("nan"))
        result.metric("gap", float("nan") if reference is None else reference.value - value)
    heuristics = [r for r in environment.references().values() if r.kind == "heuristic"]
    result.metric("baseline_q_alpha", heuristics[0].value if heuristics else float("nan"))


def evaluate_saved(options: Evaluate, context: Context) -> Result:
    """Evaluate the agent of a finished training run."""
    from onlyforward.decide.command import Train

    place = options.policy / "train.json"
    if not place.exists():
        raise FileError(f"{options.policy} holds no trained agent", "Give the --out folder of decide train")
    saved = json.loads(place.read_text())
    saved["set"] = tuple(saved["set"])
    trained = Train(**saved)
    words = {**parse_settings(trained.set), **parse_settings(options.set)}
    environment = environment_of(trained, words)
    objective, alpha = objective_of(trained if options.alpha == -1.0 else options, environment)
    agent = new_agent(trained, environment, objective, trained.seed).resume(options.policy)
    result = context.result(question=f"How good is the policy in {options.policy.name} on fresh episodes?")
    key = Key(run=options.seed, site=EVALUATION)
    found = evaluate(agent.returns(key, options.eval_episodes, deterministic=not options.sampled), objective, alpha)
    for name, value in found.metrics().items():
        result.metric(name, value)
    result.forward_runs = options.eval_episodes * environment.horizon
    result.answer = f"Its {alpha:.0%} quantile is {found.q_alpha:.4g} and its mean {found.mean:.4g}."
    return result


def one_step_quantile(theta: float, alpha: float = 0.1, sd: float = 0.3) -> float:
    """Exact alpha quantile of R = 2a - a^2/2 + |a| Z with a ~ N(theta, sd^2), by quadrature and bisection."""
    from scipy.optimize import brentq
    from scipy.stats import norm

    # |a| has a kink at 0, so a fine midpoint rule in probability beats Gauss-Hermite.
    a = theta + sd * norm.ppf((np.arange(20_000) + 0.5) / 20_000)
    mean, spread = 2 * a - a * a / 2, np.abs(a) + 1e-12
    chance = np.full(len(a), 1 / len(a))
    return float(brentq(lambda r: chance @ norm.cdf((r - mean) / spread) - alpha, -20, 20))


def demo(options: DemoOptions, context: Context) -> Result:
    """QPO on the one-step problem; beside it the policy that is best on average."""
    torch.set_num_threads(options.threads)
    result = context.result(question="Which single risky choice has the best 10 % quantile?")
    environment = make("OneStep")
    rows = []
    best = 0.1900
    for name, label in (("qpo", "quantile (QPO)"), ("reinforce", "mean (REINFORCE)")):
        agent = make_agent(name, environment, objective=Objective("quantile", 0.1), seed=options.seed)
        fit(agent, context, resumable=False)
        theta = float(agent.policy(torch.ones(1, 1)).detach())  # type: ignore[attr-defined]
        reached = one_step_quantile(theta)
        rows.append([label, theta, reached, 2 * theta - (theta * theta + 0.09) / 2])
        result.forward_runs += agent.updates * agent.settings.batch
        result.metric("decide_gap" if name == "qpo" else "decide_mean_optimal_gap", best - reached)
    rows.append(["exact optimum", 0.930, best, 2 * 0.930 - (0.930**2 + 0.09) / 2])
    result.table("One risky choice a", ["objective", "theta", "10 % quantile", "mean"], rows)
    result.answer = (
        f"QPO chooses a = {rows[0][1]:.2f} with a 10 % quantile of {rows[0][2]:.3f} (optimum {best:.3f}); "
        f"the choice that is best on average has {rows[1][2]:.3f}."
    )
    return result
