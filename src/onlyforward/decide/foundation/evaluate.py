"""Exact value of the model: its greedy decision at every period and stock, evaluated by dynamic programming."""

from __future__ import annotations

import numpy as np
import torch

from onlyforward.core.keys import Key
from onlyforward.decide.envs.joint import JointSeason, SeasonParameters
from onlyforward.decide.exact.joint import Choices, Season, evaluate
from onlyforward.decide.exact.replenish import Replenish, solve
from onlyforward.decide.foundation.model import FoundationPolicy, decide
from onlyforward.decide.foundation.tokens import STAGES, Tokens, replenish_tokens, season_tokens

BATCH = 4096


@torch.no_grad()
def greedy(model: FoundationPolicy, told: Tokens, stages: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Greedy decisions of many states."""
    parts = [decide(model, told.rows(slice(i, i + BATCH)), stages)[0] for i in range(0, len(told.instance), BATCH)]
    return {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}


def first_order(model: FoundationPolicy, season: Season) -> tuple[int, ...]:
    """The model's order [n] for an empty shop before the season."""
    empty = np.zeros((1, len(season.utility)))
    told = season_tokens("order", season, empty, np.array([float(season.periods)]), most=season.cap, alpha=model.alpha)
    return tuple(int(z) for z in greedy(model, told, STAGES["order"])["order"][0])


def season_policy(model: FoundationPolicy, season: Season) -> tuple[tuple[int, ...], Choices]:
    """The model's order [n] and its action at every period and stock [T, X + 1, ..., X + 1]."""
    items = len(season.utility)
    grid = np.indices((season.periods, *(season.cap + 1,) * items)).reshape(1 + items, -1)
    left = (season.periods - grid[0]).astype(np.float64)
    told = season_tokens("sell", season, grid[1:].T.astype(np.float64), left, alpha=model.alpha)
    found = greedy(model, told, STAGES["sell"])
    size = len(season.prices)
    index = np.zeros(grid.shape[1], dtype=np.int64)
    for i in range(items):
        index = index * size + found["price"][:, i]
    index = index * items + found["recommend"]
    return first_order(model, season), index.reshape(season.periods, *(season.cap + 1,) * items)


def season_value(model: FoundationPolicy, season: Season) -> float:
    """Expected profit of the model's greedy policy, its own order included."""
    order, choices = season_policy(model, season)
    return float(evaluate(season, choices)[order] - np.dot(season.cost, order))


def replenish_value(model: FoundationPolicy, problem: Replenish) -> float:
    """Average profit of the model's greedy policy."""
    season = problem.season
    items, size = len(season.utility), len(season.prices)
    grid = np.indices((season.cap + 1,) * items).reshape(items, -1)
    found = greedy(model, replenish_tokens(problem, grid.T.astype(np.float64)), STAGES["replenish"])
    action, order = np.zeros(grid.shape[1], dtype=np.int64), np.zeros(grid.shape[1], dtype=np.int64)
    for i in range(items):
        action = action * size + found["price"][:, i]
        order = order * (problem.max_order + 1) + found["order"][:, i]
    action = action * items + found["recommend"]
    allowed = np.zeros((len(problem.orders), len(season.actions), grid.shape[1]), dtype=bool)
    allowed[order, action, np.arange(grid.shape[1])] = True
    shaped = allowed.reshape(*allowed.shape[:2], *(season.cap + 1,) * items)
    return solve(problem, allowed=shaped, tolerance=1e-6).value


def simulated(model: FoundationPolicy, parameters: SeasonParameters, episodes: int, key: Key) -> np.ndarray:
    """Profits of the greedy policy in simulated seasons of any number of items: [episodes]."""
    environment = JointSeason(parameters)
    season, items = environment.instance, len(parameters.utility)
    state = environment.start(environment.noise(key.at(site="simulate"), 0, episodes))
    order = first_order(model, season)
    total = np.zeros(episodes)
    action = np.zeros((episodes, 2 * items + 1), dtype=np.int64)
    action[:, :items] = order
    for t in range(environment.horizon):
        if t:
            stock = state["stock"].T.astype(np.float64)
            told = season_tokens(
                "sell", season, stock, np.full(episodes, float(season.periods + 1 - t)), alpha=model.alpha
            )
            found = greedy(model, told, STAGES["sell"])
            action[:, items:-1], action[:, -1] = found["price"], found["recommend"]
        state, reward = environment.advance(state, action)
        total += reward
    return total
