"""The foundation model for a program: `Foundation().fit(instances)`, `.predict(state)`, `.evaluate(instance)`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onlyforward.core.checks import check_range
from onlyforward.core.errors import UsageError
from onlyforward.core.keys import Key
from onlyforward.decide.exact.joint import Season
from onlyforward.decide.foundation.evaluate import greedy, season_value
from onlyforward.decide.foundation.experts import WIDTH, Experts, taught
from onlyforward.decide.foundation.model import FoundationPolicy
from onlyforward.decide.foundation.study import School, load_models, save_models
from onlyforward.decide.foundation.tokens import LARGEST_STOCK, STAGES, season_tokens
from onlyforward.decide.objectives import Objective


@dataclass(frozen=True)
class SeasonState:
    """Where a season stands.

    Attributes:
        season: the instance, of any number of items.
        stock: units of every item [n], or of many seasons [B, n].
        left: periods to go, this one included; a number or [B]. None: the season has not begun, and its order is due.
    """

    season: Season
    stock: ArrayLike = 0
    left: ArrayLike | None = None


@dataclass(frozen=True)
class SeasonDecision:
    """What to do; the shapes are those of the state's stock, without the items for `recommend`.

    Attributes:
        order: units of every item [..., n], before the season; None within it.
        price: money of every item [..., n], within the season.
        recommend: number of the recommended item [...], within the season.
    """

    order: NDArray[np.int64] | None = None
    price: NDArray[np.float64] | None = None
    recommend: NDArray[np.int64] | None = None


class Foundation:
    """One transformer that orders, prices and recommends, for instances that it never saw.

    It imitates exact optima of small instances and is tuned by the score function; see `foundation.train`.

    Args:
        d: width of the tokens.
        layers: of the encoder.
        steps: imitation steps of 256 decisions.
        fine_tune: score-function updates after them.
        objective: what fine-tuning maximises: mean, quantile, cvar, wang, power or mixture.
        alpha: level of the objective.
        seed: of the weights, the random instances and the batches.
    """

    def __init__(
        self,
        d: int = 64,
        layers: int = 2,
        *,
        steps: int = 2000,
        fine_tune: int = 12,
        objective: str = "mean",
        alpha: float = 0.1,
        seed: int = 0,
    ) -> None:
        self.d, self.layers, self.steps, self.fine_tune = d, layers, steps, fine_tune
        self.objective, self.seed = Objective(objective, alpha), seed
        self.policy: FoundationPolicy | None = None

    def fit(self, instances: int | Sequence[Season] = 600, experts: Experts = taught) -> Self:
        """Train on the exact values of instances.

        Args:
            instances: seasons of one or two items, or a number of random ones.
            experts: (season, generator, its number) -> lessons; the default solves every season exactly.

        Raises:
            UsageError: there is no instance, or one is larger than the exact tables of the lessons.
        """
        check_range(instances if isinstance(instances, int) else len(instances), name="instances", low=1)
        for season in () if isinstance(instances, int) else instances:
            items, prices = len(season.utility), len(season.prices)
            if items > 2 or prices > WIDTH or season.cap > LARGEST_STOCK:
                raise UsageError(
                    f"A season with {items} items, {prices} prices and a cap of {season.cap} has no exact lesson",
                    f"Teach 1 or 2 items, up to {WIDTH} prices and a cap up to {LARGEST_STOCK:.0f}; predict takes more",
                )
        school = School(
            Key(self.seed), instances=instances, steps=self.steps, updates=self.fine_tune, objective=self.objective,
            views=("joint",), experts=experts, width=self.d, layers=self.layers,
        )  # fmt: skip
        while school.done < school.total:
            school.step()
        self.policy = school.models["joint"]
        return self

    @property
    def fitted(self) -> FoundationPolicy:
        """The trained policy.

        Raises:
            UsageError: there is none yet.
        """
        if self.policy is None:
            raise UsageError("This foundation model is not trained", "Call fit, or Foundation.load(folder)")
        return self.policy

    def predict(self, state: SeasonState) -> SeasonDecision:
        """The greedy decision, the most probable one of every stage in turn.

        Args:
            state: one season, or B at once.

        Returns:
            The order [n] or [B, n] where `state.left` is None, otherwise prices [n] or [B, n] and the recommended item.

        Raises:
            UsageError: not trained; a stock of another number of items or outside 0..cap; `left` outside 1..periods.
        """
        season = state.season
        items = len(season.utility)
        given = np.asarray(state.stock, dtype=np.float64)
        if (
            given.ndim > 2
            or (given.ndim and given.shape[-1] != items)
            or not ((given >= 0) & (given <= season.cap)).all()
        ):
            raise UsageError(
                f"A stock of shape {list(given.shape)} does not fit {items} items of 0 to {season.cap} units",
                f"Give one number per item, [{items}] or [B, {items}]",
            )
        shape = np.broadcast_shapes(given.shape, (items,))
        stock = np.broadcast_to(given, shape).reshape(-1, items)
        task, left = ("order", season.periods) if state.left is None else ("sell", state.left)
        ahead = np.asarray(left, dtype=np.float64)
        if ahead.shape not in ((), (len(stock),)) or not ((ahead >= 1) & (ahead <= season.periods)).all():
            raise UsageError(
                f"left is {left} for {len(stock)} states of a season of {season.periods} periods",
                f"Give a number from 1 to {season.periods}, or one per state",
            )
        ahead = np.broadcast_to(ahead, len(stock))
        told = season_tokens(task, season, stock, ahead, most=season.cap - stock, alpha=self.fitted.alpha)
        found = greedy(self.fitted, told, STAGES[task])
        if task == "order":
            return SeasonDecision(order=found["order"].reshape(shape))
        price = np.array(season.prices)[found["price"]].reshape(shape)
        return SeasonDecision(price=price, recommend=found["recommend"].reshape(shape[:-1]))

    def evaluate(self, instance: Season) -> float:
        """Expected profit of the greedy policy on an instance, its own order included; exact, by dynamic programming.

        A policy evaluation over all (cap + 1)^n stocks: for up to three items.

        Raises:
            UsageError: not trained.
        """
        return season_value(self.fitted, instance)

    def save(self, folder: Path | str) -> None:
        """Write a folder that `load` and `decide foundation-evaluate --model` read.

        Raises:
            UsageError: not trained.
        """
        save_models({"joint": self.fitted}, Path(folder))

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """What `save` or `decide foundation-train --out` wrote.

        Raises:
            FileError: the folder holds no foundation model, or one of another version.
        """
        policy = load_models(Path(folder))["joint"]
        made = cls(policy.told["width"], policy.told["layers"], seed=policy.told["seed"])
        made.policy = policy
        return made
