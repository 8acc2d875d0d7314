"""Options of the `decide` commands; the work is imported when it runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from onlyforward.decide.options import FitDemand, Plan, Portfolio, Price, Recommend, Table
from onlyforward.run.application import Demo
from onlyforward.run.benchmark import BenchOptions
from onlyforward.run.bounds import Count, Natural, Share
from onlyforward.run.context import Common

if TYPE_CHECKING:
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result


@dataclass(frozen=True, kw_only=True)
class Envs(Common):
    """List the environments, their spaces and what is known about them."""


@dataclass(frozen=True, kw_only=True)
class Solve(Common):
    """Solve an inventory problem exactly and compare the heuristics."""

    env: str = "onlyforward/LostSales-v0"
    """Environment with an exact solver: LostSales, Newsvendor, SS, DynamicPricing, JointSeason, JointReplenish."""
    set: tuple[str, ...] = ()
    """Parameters as NAME=VALUE words, such as lead=4 penalty=4 demand=poisson mean=5."""
    simulate: Natural = 0
    """Periods in which the optimal policy is simulated (0: none)."""


@dataclass(frozen=True, kw_only=True)
class Policy(Common):
    """What training and evaluation share."""

    env: str = "onlyforward/OneStep-v0"
    """Environment."""
    objective: str = "quantile"
    """mean, quantile, cvar, wang, power or mixture."""
    alpha: float = -1.0
    """Level of the quantile (default: the environment's own)."""
    preset: str = "default"
    """default, or paper: the parameters of the published experiment."""
    set: tuple[str, ...] = ()
    """Environment parameters as NAME=VALUE words."""
    eval_episodes: Count = 20_000
    """Fresh episodes of the evaluation."""
    backend: str = "numpy"
    """numpy or torch."""


@dataclass(frozen=True, kw_only=True)
class Train(Policy):
    """Train an agent and evaluate it against the references."""

    agent: str = "qpo"
    """qpo, reinforce, params, ppo, qppo, qppo-paper, spsa or qrdqn."""
    policy: str = "mlp"
    """mlp or linear; with params: base-stock, echelon-, cyclic- and capped-base-stock, sS, frontier, linear-price."""
    steps: Natural = 0
    """Environment steps (default: the preset's episodes)."""
    episodes: Natural = 0
    """Episodes (default: the preset's)."""
    batch: Natural = 0
    """Episodes per update (default: the preset's)."""
    tracker: str = "auto"
    """How the quantile is followed: sa, batch or auto."""
    raw_indicator: bool = False
    """Weigh by -1{R <= q} without the centring alpha, the ablation that may freeze in a wrong policy."""
    seeds: Count = 1
    """Number of seeds, --seed and the next ones."""
    workers: Count = 1
    """Processes that share the episodes of a batch (at most four have work); the result does not depend on it."""
    engine: Literal["inprocess", "ray"] = "inprocess"
    """inprocess: this process or, with --workers, several that torch.distributed joins; ray: actors on Ray."""
    augment: bool = True
    """Let network policies see the time and what was earned so far; never in the paper preset or for the mean."""


@dataclass(frozen=True, kw_only=True)
class Evaluate(Policy):
    """Evaluate a trained agent on fresh episodes."""

    policy: Path = Path()
    """Folder of a finished `decide train` run."""
    sampled: bool = False
    """Evaluate the sampled policy instead of the deterministic one."""


@dataclass(frozen=True, kw_only=True)
class FoundationTrain(Common):
    """Train one model that orders, prices and recommends on random shops, and compare it with exact optima."""

    instances: Count = 600
    """Random instances whose exact values are imitated."""
    tokens: Count = 3_200_000
    """Tokens that each model reads in imitation."""
    fine_tune: Natural = 12
    """Score-function updates after it."""
    objective: str = "mean"
    """What fine-tuning maximises: mean, quantile, cvar, wang, power or mixture."""
    alpha: Share = 0.1
    """Level of the objective."""
    small: bool = False
    """A model of a few seconds, to try the command; it reaches no target."""


@dataclass(frozen=True, kw_only=True)
class FoundationEvaluate(Common):
    """Evaluate a trained foundation model on the reported instances, or on a season of your own."""

    model: Path
    """Folder of a finished `decide foundation-train` run."""
    csv: Path | None = None
    """Your items: a table with the columns utility and cost."""
    set: tuple[str, ...] = ()
    """Your season as NAME=VALUE words, such as utility=1.8,1.5 cost=.7,.6 prices=1,2,3 periods=15 cap=26."""
    episodes: Count = 20_000
    """Simulated seasons of your own instance."""


@dataclass(frozen=True, kw_only=True)
class BenchQuantile(BenchOptions):
    """Quantile agents and their peers on environments with known optima."""

    seeds: int = 10
    """Number of seeds of the small environments; the large ones take half."""
    only: str = ""
    """Comma-separated cases: onestep, bandit, lottery, greed, toy, supply, portfolio (default: all)."""
    agents: str = ""
    """Comma-separated agents (default: all)."""


@dataclass(frozen=True, kw_only=True)
class BenchManagement(BenchOptions):
    """Exact solvers, learned policies against exact optima, real tables, and simulators against plain Python."""

    only: str = ""
    """Comma-separated cases: solver, lostsales, pricing, season, throughput, data (default: all)."""


@dataclass(frozen=True, kw_only=True)
class DemoOptions(Common):
    """One risky choice: the quantile-optimal policy beside the mean-optimal one."""


DEMO = Demo(options=DemoOptions(), targets={"decide_gap": ("<=", 0.02)})


def run(options: Any, context: Context) -> Result:
    """Run one `decide` command."""
    if isinstance(options, Table | Portfolio | Recommend):
        from onlyforward.decide import management, market_study

        managed: dict[type[Any], Any] = {
            FitDemand: management.fit_demand,
            Plan: management.plan_orders,
            Price: market_study.propose_prices,
            Portfolio: market_study.portfolio,
            Recommend: market_study.recommend_slates,
        }
        return managed[type(options)](options, context)
    if isinstance(options, FoundationTrain | FoundationEvaluate):
        from onlyforward.decide.foundation import study as foundation

        return (foundation.train if isinstance(options, FoundationTrain) else foundation.evaluate)(options, context)
    from onlyforward.decide import study

    work = {
        Envs: study.envs,
        Solve: study.solve,
        Train: study.train,
        Evaluate: study.evaluate_saved,
        DemoOptions: study.demo,
    }
    return work[type(options)](options, context)
