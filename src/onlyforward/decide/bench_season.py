"""The season case of `onlyforward bench management`: the foundation model, and PPO trained on the instance itself."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from onlyforward.core.keys import Key
from onlyforward.decide.agents.make import make_agent
from onlyforward.decide.command import FoundationTrain
from onlyforward.decide.envs.register import make
from onlyforward.decide.exact.joint import SEASON_A, evaluate, with_order
from onlyforward.decide.foundation.study import RATIOS, SMALL, TOKENS_A_STEP, School, ratios, tell
from onlyforward.decide.objectives import Objective
from onlyforward.decide.presets import settings
from onlyforward.decide.sweep import Sweep
from onlyforward.run.benchmark import seeds

if TYPE_CHECKING:
    from onlyforward.decide.command import BenchManagement
    from onlyforward.run.result import Result

PPO_STEPS = 560_000
"""Environment steps of the PPO that is trained on season A alone: the decisions that one model reads, 512,000 in
imitation and some 46,000 in sampled seasons."""
FEW = 1
"""Seeds of that PPO: no claim rests on it."""


def taught(seed: int, quick: bool) -> dict[str, float]:
    """All ratios of one seed with the command's defaults."""
    told = FoundationTrain()
    school = School(
        Key(run=seed),
        instances=SMALL["instances"] if quick else told.instances,
        steps=SMALL["steps"] if quick else told.tokens // TOKENS_A_STEP,
        updates=SMALL["fine_tune"] if quick else told.fine_tune,
        objective=Objective("mean"),
    )
    while school.done < school.total:
        school.step()
    return ratios(school.models)


def specialist(seed: int, steps: int) -> float:
    """The ratio of PPO that is trained on season A itself; its greedy policy is evaluated exactly."""
    environment = make("JointSeason")
    chosen = replace(settings("ppo", environment.id), episodes=steps // environment.horizon)
    agent = make_agent("ppo", environment, objective=Objective("mean"), seed=seed, changed=chosen).learn()
    items, size = len(SEASON_A.utility), len(SEASON_A.prices)
    shape = (SEASON_A.periods, *(SEASON_A.cap + 1,) * items)
    grid = np.indices(shape).reshape(1 + items, -1)
    left = 1 - (grid[:1] + 1) / environment.horizon
    seen = np.concatenate((left, grid[1:] / SEASON_A.cap)).T.astype(np.float32)
    moves = agent.predict(seen).astype(np.int64)
    index = np.zeros(len(moves), dtype=np.int64)
    for i in range(items):
        index = index * size + moves[:, items + i]
    choices = (index * items + moves[:, -1]).reshape(shape)
    order = tuple(int(z) for z in agent.predict(np.eye(1, 1 + items, dtype=np.float32))[0, :items])
    return float(evaluate(SEASON_A, choices)[order] - np.dot(SEASON_A.cost, order))


def season(options: BenchManagement, sweep: Sweep, result: Result) -> None:
    """Median, lowest and highest of every ratio over the seeds; nothing of season A or B is in the training."""
    runs = [
        sweep.run(f"season model {seed}", lambda s=seed: list(taught(s, options.quick).values()))
        for seed in seeds(options)
    ]
    table = np.array([found for found, _ in runs])
    median = dict(zip(RATIOS, np.median(table, 0).tolist(), strict=True))
    tell(result, median)
    result.metric("season_ratio_low", float(table[:, 0].min()))
    result.metric("season_ratio_high", float(table[:, 0].max()))
    result.metric("season_seconds", float(np.median([seconds for _, seconds in runs])), timing=True)
    steps = PPO_STEPS // 20 if options.quick else PPO_STEPS
    best = with_order(SEASON_A, evaluate(SEASON_A))[0]
    alone = [
        sweep.run(f"season ppo {seed}", lambda s=seed: [specialist(s, steps)])[0][0] / best
        for seed in list(seeds(options))[:FEW]
    ]
    result.metric("season_ppo_ratio", float(np.median(alone)))
    rows = [[name, median[name], *(float(f(table[:, i])) for f in (np.min, np.max))] for i, name in enumerate(RATIOS)]
    rows.append([f"PPO trained on season A, {steps} steps", float(np.median(alone)), min(alone), max(alone)])
    result.table(
        "Season, over seeds",
        ["ratio to the exact joint optimum", "median", "lowest", "highest"],
        rows,
        f"{len(runs)} seeds of the model, {len(alone)} of PPO.",
    )
