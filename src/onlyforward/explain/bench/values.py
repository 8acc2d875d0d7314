"""Case shapley: twelve blocks of a photo as players, every coalition asked, estimators against exact values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from onlyforward.core.checks import require
from onlyforward.core.errors import MissingExtra
from onlyforward.core.keys import Key
from onlyforward.explain.bench.photos import SMALL, classifier, photographs
from onlyforward.explain.bench.tally import runs
from onlyforward.explain.images import read_image
from onlyforward.explain.removal import removed
from onlyforward.explain.scores import judge
from onlyforward.explain.shapley import Players
from onlyforward.run.oracle import Oracle

if TYPE_CHECKING:
    from onlyforward.run.benchmark import BenchOptions
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result

DOWN, ACROSS = 3, 4
K = DOWN * ACROSS
IMAGES = 8
LADDER = (66, 130, 258, 514, 1026, 2050)
"""Questions of the error's slope; two of each are everybody and nobody."""
BUDGET = 1024
REPEATED = 60
"""Estimates whose mean is held against the exact value."""


@dataclass(frozen=True)
class Game:
    """One photo's score for each of the 4,096 coalitions.

    Attributes:
        worth: [2^K], at the number whose bits are the players.
        exact: Shapley values [K] by enumeration.
    """

    worth: Tensor
    exact: Tensor

    def __call__(self, z: Tensor) -> Tensor:
        """Scores [n] of coalitions z [n, K]."""
        return self.worth[(z.double() @ (2.0 ** torch.arange(K, dtype=torch.float64))).long()]


def every() -> Tensor:
    """All coalitions [2^K, K] in the order of their numbers."""
    return (torch.arange(1 << K)[:, None] >> torch.arange(K) & 1).float()


def exact_values(worth: Tensor) -> Tensor:
    """Shapley's definition: [K] of `worth [2^K]`."""
    everyone = every()
    size = everyone.sum(1).long()
    weight = torch.tensor(
        [math.factorial(s) * math.factorial(K - s - 1) / math.factorial(K) for s in range(K)], dtype=torch.float64
    )
    found = []
    for player in range(K):
        without = (everyone[:, player] == 0).nonzero().flatten()
        found.append((weight[size[without]] * (worth[without + (1 << player)] - worth[without])).sum())
    return torch.stack(found)


def game(path: Any, oracle: Oracle, size: tuple[int, int]) -> Game:
    """Ask the network about every coalition of a photo's blocks; a blur stands for who is absent."""
    x = read_image(path, size)
    down = (torch.arange(size[0]) * DOWN // size[0])[:, None]
    labels = (down * ACROSS + torch.arange(size[1]) * ACROSS // size[1]).flatten()
    nothing, target = removed(x, "blur"), int(oracle(x[None])[0].argmax())
    worth = []
    for part in every().split(64):
        there = part[:, labels].reshape(len(part), 1, *size).bool()
        worth.append(judge(oracle(torch.where(there, x, nothing)), target, "probability"))
    table = torch.cat(worth)
    return Game(table, exact_values(table))


def played(game: Game, budget: int, key: Key, solver: str) -> Tensor:
    """Our estimate [K] of a game's values."""
    players = Players(K, lambda z: z, lambda effect: effect, key, budget, solver=solver)
    players.observe(0, game(players.rows(0, budget)))
    return players.estimate().coefficients


def error(found: Tensor, game: Game) -> float:
    """Distance to the exact values over their norm."""
    return float((found - game.exact).norm() / game.exact.norm().clamp(min=1e-12))


def shapley(options: BenchOptions, context: Context, result: Result) -> None:
    """Bias, slope of the error, and the error at 1,024 questions beside the originals."""
    oracle, size = classifier(SMALL)
    games = []
    count = IMAGES // 2 if options.quick else IMAGES
    with context.progress(count, label="coalitions") as tick:
        for path in photographs(1)[:count]:
            games.append(game(path, oracle, size))
            tick()
    result.forward_runs += oracle.account.queries
    unbiased(result, games)
    slope(result, games)
    beside(result, games, 2 * len(runs(options)))


def unbiased(result: Result, games: list[Game]) -> None:
    """The mean of many estimates by sizes against the exact values, in standard errors."""
    worst, sums = 0.0, 0.0
    for number, one in enumerate(games):
        found = torch.stack([played(one, 130, Key(run=r, step=number), "mean") for r in range(REPEATED)])
        z = (found.mean(0) - one.exact) / (found.std(0) / math.sqrt(REPEATED)).clamp(min=1e-12)
        worst, sums = max(worst, float(z.abs().max())), sums + float(z.square().mean())
    result.metric("shapley_sizes_z_max", worst)
    result.metric("shapley_sizes_z_square", sums / len(games))


def slope(result: Result, games: list[Game]) -> None:
    """Logarithm of the error on the logarithm of the questions."""
    rows, x, y = [], [], []
    for budget in LADDER:
        by = {
            solver: math.sqrt(
                sum(error(played(one, budget, Key(run=r, step=i), solver), one) ** 2
                    for i, one in enumerate(games) for r in range(6)) / (6 * len(games))
            )
            for solver in ("mean", "ridge")
        }  # fmt: skip
        rows.append([budget, by["mean"], by["ridge"]])
        x.append(math.log(budget - 2))
        y.append(math.log(by["mean"]))
    middle = sum(x) / len(x), sum(y) / len(y)
    steep = sum((a - middle[0]) * (b - middle[1]) for a, b in zip(x, y)) / sum((a - middle[0]) ** 2 for a in x)
    result.metric("shapley_sizes_slope", steep)
    result.table(
        f"shapley: relative error of {K} players' values, {len(games)} photos, exact by {1 << K} coalitions",
        ["questions", "by sizes (mean)", "least squares (ridge)"],
        rows,
        "Root mean square over photos and six repeats.",
    )


def beside(result: Result, games: list[Game], repeats: int) -> None:
    """The error at 1,024 questions, with shap's and captum's originals on the same games."""
    arms: dict[str, Any] = {
        "sizes": lambda one, key: played(one, BUDGET, key, "mean"),
        "ridge": lambda one, key: played(one, BUDGET, key, "ridge"),
        "kernel_shap": shap_original,
        "captum_kernel_shap": captum_original,
    }
    rows: list[list[Any]] = []
    for name, arm in arms.items():
        errors, asked = [], 0
        try:
            for i, one in enumerate(games):
                for repeat in range(repeats):
                    oracle = Oracle(one, batch=1 << K)
                    counted = name.startswith(("kernel", "captum"))
                    errors.append(error(arm(oracle if counted else one, Key(run=repeat, step=i)), one))
                    asked = max(asked, oracle.account.rows if counted else BUDGET)
        except MissingExtra:
            rows.append([name.replace("_", " "), "not installed", ""])
            continue
        mean = sum(errors) / len(errors)
        result.metric(f"shapley_{name}_{BUDGET}_error", mean)
        result.metric(f"shapley_{name}_{BUDGET}_queries", asked)
        rows.append([name.replace("_", " "), mean, asked])
    result.table(
        f"shapley: relative error at {BUDGET} questions, {len(games)} photos x {repeats} repeats",
        ["estimator", "relative error", "questions"],
        rows,
        "shap's KernelExplainer without its selection of ten features, which would only add to its error; captum's "
        "KernelShap as it comes. Both ask the same black box.",
    )


def shap_original(oracle: Oracle, key: Key) -> Tensor:
    """shap.KernelExplainer on coalitions: [K]."""
    shap: Any = require("shap", "peers")
    import numpy as np

    def play(z: Any) -> Any:
        return oracle(torch.from_numpy(np.asarray(z, dtype=np.float32))).numpy()

    explainer = shap.KernelExplainer(play, np.zeros((1, K)), silent=True, seed=key.seed % 2**31)
    found = explainer.shap_values(np.ones((1, K)), nsamples=BUDGET - 2, l1_reg=0, silent=True)
    return torch.from_numpy(np.asarray(found, dtype=np.float64).reshape(K))


def captum_original(oracle: Oracle, key: Key) -> Tensor:
    """Captum's KernelShap on coalitions: [K]."""
    attr: Any = require("captum.attr", "peers")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key.seed % 2**31)
        found: Tensor = attr.KernelShap(oracle).attribute(
            torch.ones(1, K), baselines=torch.zeros(1, K), n_samples=BUDGET - 2, perturbations_per_eval=64
        )
    return found[0].double()
