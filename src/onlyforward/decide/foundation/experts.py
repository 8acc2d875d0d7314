"""What the model imitates: the values of every decision under exact optimal continuation, on random instances.

Experts: the joint program of the season (`exact.joint`), joint value iteration of replenishment (`exact.replenish`),
value iteration of lost sales (`exact.lost_sales`). Instances have one or two items; the instances that are reported
(season A and B) and all near them are never drawn. States are spread over the whole stock space, not over the optimal
path alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch
from torch import Tensor

from onlyforward.core.keys import Key
from onlyforward.decide.exact import lost_sales
from onlyforward.decide.exact.joint import SEASON_A, Season, action_values, season_b
from onlyforward.decide.exact.replenish import SHOP, Replenish, solve
from onlyforward.decide.foundation.tokens import STAGES, Tokens, inventory_tokens, join, replenish_tokens, season_tokens

LOWEST = -1e9
"""Value of what cannot be chosen."""
WIDTH = 6
"""Longest price list of the random instances."""


@dataclass(frozen=True)
class Lesson:
    """Decisions of one task and one number of items, with the value of everything that could be decided.

    Attributes:
        task: see `tokens.TASKS`.
        tokens: what is seen [S].
        values: [S, R, K_1, K_2, Z_1, Z_2] in units of the instance's profit a period; size 1 where nothing is decided.
    """

    task: str
    tokens: Tokens
    values: Tensor

    @property
    def single(self) -> bool:
        """Whether there is one item."""
        return self.tokens.present.shape[1] == 1

    @property
    def count(self) -> int:
        """Tokens of all its sequences: every decision reads the instance and the items, orders once per item."""
        n = self.tokens.present.shape[1]
        return len(self.values) * sum(n if stage == "order" else 1 for stage in STAGES[self.task]) * (1 + n)


def near(season: Season) -> bool:
    """Whether an instance is one of the reported ones, or close to one: three items always are."""
    if len(season.utility) > 2:
        return True
    for other in (SEASON_A, season_b(1), season_b(2), SHOP):
        if len(other.utility) != len(season.utility):
            continue
        for order in permutations(range(len(season.utility))):
            apart = [abs(season.utility[i] - other.utility[j]) for i, j in enumerate(order)]
            apart += [abs(season.cost[i] - other.cost[j]) for i, j in enumerate(order)]
            if max(apart) < 0.2 and abs(season.boost - other.boost) < 0.2:
                return True
    return False


def draw_season(generator: np.random.Generator, items: int, *, cap: int = 26) -> Season:
    """A random season that is not near a reported one (three items only for validation)."""
    while True:
        count = int(generator.integers(3, WIDTH + 1))
        low, step = generator.uniform(0.8, 1.7), generator.uniform(0.35, 0.7)
        cost = generator.uniform(0.2, 1.0, items)
        season = Season(
            utility=tuple(generator.uniform(0.8, 2.3, items).round(2).tolist()),
            cost=tuple(cost.round(2).tolist()),
            prices=tuple((low + step * np.arange(count)).round(2).tolist()),
            boost=round(float(generator.uniform(0.0, 2.0)), 2),
            salvage=round(float(generator.uniform(0.0, cost.min())), 2),
            customers=int(generator.integers(2, 6)),
            periods=int(generator.integers(5, 19)),
            cap=int(generator.integers(8, cap + 1)),
        )
        if items > 2 or not near(season):
            return season


def laid_out(values: np.ndarray, season: Season, orders: int = 1) -> np.ndarray:
    """Values [Z^n, A, S] as [S, R, K_1, K_2, Z_1, Z_2], the price list padded to WIDTH; n is 1 or 2."""
    n, k = len(season.utility), len(season.prices)
    shape = (orders,) * n + (k,) * n + (n, -1)
    table = values.reshape(shape)
    if n == 1:
        table = table[:, None, :, None]
    table = table.transpose(5, 4, 2, 3, 0, 1)
    full = np.full((table.shape[0], n, WIDTH, WIDTH if n == 2 else 1, *table.shape[4:]), LOWEST)
    full[:, :, :k, : table.shape[3]] = table
    return full


def season_lessons(season: Season, generator: np.random.Generator, states: int, orders: int) -> tuple[Lesson, Lesson]:
    """`sell` and `order` decisions of one season."""
    items, cap = len(season.utility), season.cap
    ahead, value = action_values(season)
    values = [ahead[t].max(axis=0) for t in range(season.periods)]
    optimum = (value - np.tensordot(np.array(season.cost), np.indices(value.shape), axes=(0, 0))).max()
    scale = max(float(optimum) / season.periods, 0.1)
    # Half of the states lie where a season's stock usually is: falling with the time left.
    t = generator.integers(0, season.periods, states)
    reach = np.where(generator.random((states, 1)) < 0.5, 1.0, (1 - t / season.periods)[:, None])
    stock = np.floor(generator.random((states, items)) * (reach * cap + 1)).clip(0, cap).astype(np.int64)
    picked = ahead[(t, slice(None), *stock.T)].T
    sell = Lesson(
        "sell",
        season_tokens("sell", season, stock.astype(np.float64), (season.periods - t).astype(np.float64)),
        torch.from_numpy(laid_out(picked, season) / scale).float(),
    )
    tables, begun, held, largest = [], [], [], []
    for index in range(orders):
        begin = 0 if index < orders // 3 else int(generator.integers(0, season.periods))
        have = np.zeros(items, dtype=np.int64) if index < orders // 2 else generator.integers(0, cap // 2 + 1, items)
        most = cap if index % 3 else int(generator.integers(4, cap + 1))
        limit = np.minimum(most, cap - have)
        amounts = np.indices(limit + 1)
        place = tuple(amounts[i] + have[i] for i in range(items))
        profit = values[begin][place] - np.tensordot(np.array(season.cost), amounts, axes=(0, 0))
        table = np.full((1, 1, 1, 1, 27, 27 if items == 2 else 1), LOWEST)
        table[(0, 0, 0, 0, *(slice(0, size + 1) for size in limit))] = profit if items == 2 else profit[:, None]
        tables.append(table / scale)
        begun.append(float(season.periods - begin))
        held.append(have.astype(np.float64))
        largest.append(limit.astype(np.float64))
    told = season_tokens("order", season, np.array(held), np.array(begun), most=np.array(largest))
    return sell, Lesson("order", told, torch.from_numpy(np.concatenate(tables)).float())


def replenish_lesson(season: Season, generator: np.random.Generator, states: int) -> Lesson:
    """All three decisions of a shop with these customers."""
    items = len(season.utility)
    small = Season(season.utility, season.cost, season.prices[:4], season.boost, customers=season.customers, cap=10)
    problem = Replenish(small, 4, round(float(generator.uniform(0.03, 0.3)), 2))
    found = solve(problem, tolerance=1e-3)
    stock = generator.integers(0, small.cap + 1, (states, items))
    picked = found.ahead[(slice(None), slice(None), *stock.T)]
    # A decision of a shop is worth one period: the same unit as in a season.
    values = laid_out(picked, small, problem.max_order + 1) / max(found.value, 0.1)
    return Lesson("replenish", replenish_tokens(problem, stock.astype(np.float64)), torch.from_numpy(values).float())


def inventory_lesson(generator: np.random.Generator, states: int) -> Lesson:
    """Orders of one item with lead time 1 or 2 and lost sales."""
    lead, mean = int(generator.integers(1, 3)), round(float(generator.uniform(2.0, 6.0)), 1)
    problem = lost_sales.LostSales(lead, round(float(generator.uniform(2.0, 20.0)), 1), mean=mean)
    found = lost_sales.solve(problem, tolerance=1e-3)
    most = min(problem.bounds[1], 15)
    stock = generator.integers(0, min(problem.bounds[0], 26) + 1, states)
    coming = generator.integers(0, most + 1, states) if lead == 2 else np.zeros(states, dtype=np.int64)
    cost = found.ahead[(stock, coming) if lead == 2 else (stock,)][:, : most + 1]
    values = np.full((states, 1, 1, 1, 16, 1), LOWEST)
    values[:, 0, 0, 0, : most + 1, 0] = -cost / found.value
    told = inventory_tokens(
        stock[:, None].astype(np.float64),
        coming[:, None].astype(np.float64),
        mean=mean,
        holding=problem.holding,
        penalty=problem.penalty,
        lead=lead,
        most=most,
    )
    return Lesson("inventory", told, torch.from_numpy(values).float())


def merged(lessons: list[Lesson]) -> list[Lesson]:
    """One lesson per task and number of items."""
    groups: dict[tuple[str, int], list[Lesson]] = {}
    for lesson in lessons:
        groups.setdefault((lesson.task, lesson.tokens.present.shape[1]), []).append(lesson)
    return [
        Lesson(task, join([part.tokens for part in parts]), torch.cat([part.values for part in parts]))
        for (task, _), parts in groups.items()
    ]


def taught(season: Season, generator: np.random.Generator, index: int) -> list[Lesson]:
    """The lessons of one instance; every fourth is also a shop, every tenth comes with an inventory."""
    found = list(season_lessons(season, generator, 160, 48))
    if index % 4 == 0:
        found.append(replenish_lesson(season, generator, 24))
    if index % 10 == 1:
        found.append(inventory_lesson(generator, 64))
    return found


Experts = Callable[[Season, np.random.Generator, int], list[Lesson]]
"""(instance, generator, its number) -> lessons."""


def lessons(key: Key, instances: int | Sequence[Season], experts: Experts = taught) -> list[Lesson]:
    """The merged lessons of given instances, or of so many random ones: one in three has one item, the others two."""
    found = []
    for index in range(instances if isinstance(instances, int) else len(instances)):
        generator = key.at(site="instance", step=index).numpy()
        if isinstance(instances, int):
            season = draw_season(generator, 1 if index % 3 == 2 else 2)
        else:
            season = instances[index]
        found += experts(season, generator, index)
    return merged(found)
