"""Arms and splits side by side: equal queries, the same shots, the test images seen once; survives being killed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from onlyforward.core.errors import BudgetSpent, Diverged, MissingExtra
from onlyforward.core.keys import Key
from onlyforward.tune.loop import Settings, Step, Tuning
from onlyforward.tune.peers import make_step
from onlyforward.tune.problem import Problem

if TYPE_CHECKING:
    from onlyforward.run.context import Context

STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)
"""Two-sided 95 % quantiles of Student's t for 1 to 9 degrees of freedom."""


@dataclass(frozen=True)
class Trial:
    """One split of a task.

    Attributes:
        problem: a fresh one, with its own count.
        evaluate: coordinates [k] -> accuracy on the test data, outside the budget.
    """

    problem: Problem
    evaluate: Callable[[Tensor], float]


@dataclass(frozen=True)
class Run:
    """What one arm came to on one split."""

    arm: str
    split: int
    before: float
    accuracy: float
    validation: float
    queries: int
    steps: int
    kept_start: bool
    expected_gain: float
    seconds: float
    theta: list[float] = field(default_factory=list)
    history: list[dict[str, float]] = field(default_factory=list)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half width of the 95 % interval (0 for one value)."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, 0.0
    quantile = STUDENT[len(values) - 2] if len(values) - 2 < len(STUDENT) else 1.96
    return mean, quantile * statistics.stdev(values) / len(values) ** 0.5


def run_arm(
    arm: str,
    split: int,
    trial: Trial,
    settings: Settings,
    *,
    key: Key,
    proxy: str = "residual",
    restored: tuple[Mapping[str, Tensor], Mapping[str, Any]] | None = None,
    after: Callable[[Tuning], None] | None = None,
    before: float | None = None,
    step: Step | None = None,
) -> Run:
    """Tune one split by one arm and test what the guard kept.

    Raises:
        BudgetSpent: with a `Run` of the best so far as its partial result.
    """
    begin = time.perf_counter()
    step = step or make_step(arm, settings, len(trial.problem.start), key, proxy=proxy)
    tuning = Tuning(trial.problem, step, settings, key)
    if restored is not None:
        tuning.load_state(*restored)

    def summary() -> Run:
        guard = tuning.guard
        first = trial.evaluate(trial.problem.start.double()) if before is None else before
        gains: list[float] = getattr(step, "gains", [])
        return Run(
            arm,
            split,
            first,
            first if guard.kept_start else trial.evaluate(guard.best),
            guard.accuracy,
            trial.problem.count.asked,
            tuning.steps,
            guard.kept_start,
            statistics.fmean(gains) if gains else 1.0,
            time.perf_counter() - begin,
            guard.best.tolist(),
            guard.history,
        )

    try:
        tuning.run(after)
    except BudgetSpent as spent:
        spent.partial = summary() if tuning.guard.history else None
        raise
    except Diverged as error:
        error.checkpoint = "the best state by validation" if tuning.guard.history else None
        if tuning.guard.history:
            raise Diverged(
                error.message, f"{error.hint}; the best state by validation was kept", step=error.step
            ) from error
        raise
    return summary()


class Study:
    """Runs of arms over splits that a killed process continues.

    Args:
        context: of the command.
        make: split -> a fresh trial.
        settings: arm -> its settings.
        proxy: of the allocators.
        first: number of the first split; it is also the run coordinate of the keys.
        steps: (arm, settings, split) -> step, for tasks with arms of their own.

    Attributes:
        runs: finished ones, in order.
        missing: arms whose package is not installed.
    """

    def __init__(
        self,
        context: Context,
        make: Callable[[int], Trial],
        settings: Callable[[str], Settings],
        *,
        proxy: str = "residual",
        first: int = 0,
        steps: Callable[[str, Settings, int], Step] | None = None,
    ) -> None:
        self.steps = steps
        self.context, self.make, self.settings, self.proxy, self.first = context, make, settings, proxy, first
        self.runs: list[Run] = []
        self.missing: list[str] = []
        self.before: dict[int, float] = {}
        self.total = 0
        found = context.restore()
        self.restored: tuple[Mapping[str, Tensor], Mapping[str, Any]] | None = None
        if found is not None:
            self.runs = [Run(**run) for run in found.data["runs"]]
            self.before = {run.split: run.before for run in self.runs}
            self.total = found.step
            if found.data["loop"] is not None:
                self.restored = (found.tensors, found.data["loop"])

    def run(self, arms: Sequence[str], splits: int) -> list[Run]:
        """Every arm on every split.

        Raises:
            BudgetSpent: with the runs so far as its partial result.
        """
        done = {(run.arm, run.split) for run in self.runs}
        jobs = [(arm, self.first + split) for arm in arms for split in range(splits)]
        with self.context.progress(len(jobs), label="arms and splits") as tick:
            for arm, split in jobs:
                if (arm, split) not in done and arm not in self.missing:
                    self.one(arm, split, arms[0])
                tick()
        return self.runs

    def one(self, arm: str, split: int, headline: str) -> None:
        """One run; only the headline arm is checkpointed between its steps, others start anew."""
        restored = self.restored if arm == headline else None
        self.restored = None

        def after(tuning: Tuning) -> None:
            self.total += 1
            self.context.save(self.total, lambda: self.state(tuning if arm == headline else None))

        try:
            made = run_arm(
                arm,
                split,
                self.make(split),
                self.settings(arm),
                key=Key(run=split),
                proxy=self.proxy,
                restored=restored,
                after=after,
                before=self.before.get(split),
                step=self.steps(arm, self.settings(arm), split) if self.steps is not None else None,
            )
        except MissingExtra:
            self.missing.append(arm)
            return
        except BudgetSpent as spent:
            if isinstance(spent.partial, Run):
                self.runs.append(spent.partial)
            spent.partial = self.runs
            raise
        self.before[split] = made.before
        self.runs.append(made)
        self.total += 1
        self.context.save(self.total, lambda: self.state(None))
        self.context.say(f"{arm} split {split}: {made.before:.3f} -> {made.accuracy:.3f} in {made.queries} queries")

    def state(self, tuning: Tuning | None) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Finished runs, and the loop of the one that goes on."""
        tensors, loop = tuning.state() if tuning is not None else ({"none": torch.zeros(1)}, None)
        return tensors, {"runs": [run.__dict__ for run in self.runs], "loop": loop}


def of_arm(runs: Sequence[Run], arm: str) -> list[Run]:
    """The runs of an arm."""
    return [run for run in runs if run.arm == arm]
