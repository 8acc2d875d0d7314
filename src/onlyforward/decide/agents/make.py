"""Agents by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from onlyforward.core.checks import check_choice
from onlyforward.core.errors import UsageError
from onlyforward.decide.agents.base import Agent
from onlyforward.decide.agents.parameter_search import ParameterSearch
from onlyforward.decide.agents.ppo import PPO, QPPO
from onlyforward.decide.agents.qppo_paper import PaperQPPO
from onlyforward.decide.agents.qrdqn import QRDQN
from onlyforward.decide.agents.score import ScoreAgent
from onlyforward.decide.agents.spsa import SPSA
from onlyforward.decide.envs.base import Environment
from onlyforward.decide.objectives import Objective
from onlyforward.decide.policies import NETWORKS, STRUCTURED
from onlyforward.decide.presets import Settings, settings

AGENTS: dict[str, Callable[..., Agent]] = {
    "qpo": ScoreAgent,
    "reinforce": ScoreAgent,
    "ppo": PPO,
    "qppo": QPPO,
    "qppo-paper": PaperQPPO,
    "spsa": SPSA,
    "qrdqn": QRDQN,
    "params": ParameterSearch,
}
MEAN_AGENTS = ("reinforce", "ppo")
"""Agents that always maximise the mean."""


def make_agent(
    name: str,
    environment: Environment,
    *,
    objective: Objective,
    seed: int,
    policy: str = "mlp",
    changed: Settings | None = None,
) -> Agent:
    """An agent by name with its preset, or with `changed` settings.

    Raises:
        UsageError: an unknown agent or policy, or a policy that the agent cannot use.
    """
    check_choice(name, AGENTS, name="agent")
    chosen = changed or settings(name, environment.id)
    if name in MEAN_AGENTS:
        objective = replace(objective, name="mean")
    if name == "params":
        if policy in NETWORKS:
            raise UsageError(
                f"params cannot search over the policy {policy!r}", f"Choose one of {', '.join(STRUCTURED)}"
            )
        return ParameterSearch(environment, objective=objective, settings=chosen, seed=seed, policy=policy)
    if policy in STRUCTURED:
        raise UsageError(f"{name} cannot train the policy {policy!r}", "Choose --agent params for it")
    check_choice(policy, NETWORKS, name="policy")
    if policy == "linear":
        chosen = replace(chosen, hidden=())
    return AGENTS[name](environment, objective=objective, settings=chosen, seed=seed)
