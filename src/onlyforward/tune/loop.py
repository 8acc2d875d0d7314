"""The loop that every tuning task and every competitor runs in: batches, budget, step sizes, guard, checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from onlyforward.core.allocate.plan import Features
from onlyforward.core.checks import check_range
from onlyforward.core.errors import BudgetSpent, Diverged, UsageError
from onlyforward.core.keys import Key
from onlyforward.run.state import load_optimizer_state, optimizer_state
from onlyforward.tune.estimator import estimate
from onlyforward.tune.guard import Guard
from onlyforward.tune.problem import Problem

DECAY = ((0.5, 0.5), (0.75, 0.25))
"""Share of the budget spent -> factor of the learning rate from there on."""


@dataclass(frozen=True)
class Settings:
    """How a budget is spent.

    Attributes:
        budget: queries of the whole run, clean and validation ones included.
        batch: data of a step.
        copies: queries per datum of a step, the clean one included.
        sigma: noise level in units of the coordinates.
        lr: learning rate of Adam.
        clip: largest norm of a gradient.
        every: steps between validations.
        patience: validations without a new best after which the run stops; 0 never stops early.
        margin: see `Guard`.
    """

    budget: int
    batch: int = 32
    copies: int = 8
    sigma: float = 0.05
    lr: float = 0.03
    clip: float = 10.0
    every: int = 5
    patience: int = 0
    margin: float = 1.0

    def __post_init__(self) -> None:
        check_range(self.batch, name="--batch", low=1)
        check_range(self.copies, name="--copies", low=2, why="one query is the clean one")
        check_range(self.sigma, name="--sigma", low=0.0, open_low=True, why="without noise there is nothing to compare")
        check_range(self.lr, name="--lr", low=0.0, open_low=True)


class Step(Protocol):
    """One way to spend queries."""

    def cost(self, batch: int) -> int:
        """Queries of a step on so many data."""
        ...

    def advance(self, tuning: Tuning, items: Tensor, key: Key) -> None:
        """One step on the batch `items` [b]: moves `tuning.theta`."""
        ...

    def state(self) -> dict[str, Any]:
        """What the next step depends on, as data that JSON can hold."""
        ...

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue where `state()` was taken."""
        ...


@dataclass
class Allocated:
    """Per-datum noise, runs divided by an allocator (2.3 of the method: clean, plan, rows, weights, move, observe).

    Attributes:
        allocation: a `core.allocate` allocator.
        copies: queries per datum of a step, the clean one included.
        sigma: noise level.
        antithetic: mirrored pairs instead of the clean answer as reference.
        gains: expected gain of every plan.
    """

    allocation: Any
    copies: int
    sigma: float
    antithetic: bool = False
    gains: list[float] = field(default_factory=list)

    def cost(self, batch: int) -> int:
        """Clean and perturbed queries."""
        return batch * self.copies

    def advance(self, tuning: Tuning, items: Tensor, key: Key) -> None:
        """One step."""
        problem, theta = tuning.problem, tuning.theta
        clean = problem.ask(theta, items)
        objective = problem.objective(clean, items)
        good = objective.clean.isfinite()
        if not bool(good.any()):
            return
        if not bool(good.all()):
            items, objective = items[good], problem.objective(clean[good], items[good])
        left = self.cost(len(good)) - len(good)
        residual = objective.residual

        def ask(coordinates: Tensor, place: Tensor) -> Tensor:
            return problem.ask(coordinates, items[place])

        pilots = int(getattr(self.allocation, "pilots", 0))
        if pilots:
            flat = torch.arange(len(items)).repeat_interleave(pilots)
            noise = torch.randn(len(flat), len(theta), generator=key.at(site="pilot").generator(), dtype=torch.float64)
            shown = objective.signal(ask(theta + self.sigma * noise, flat), flat) * noise.norm(dim=1)
            squares = torch.nan_to_num(shown**2).reshape(len(items), pilots)
            residual, left = squares.mean(1).sqrt(), left - len(flat)
        features = Features(loss=objective.clean, residual=residual, ids=items)
        plan = self.allocation.plan(left // 2 if self.antithetic else left, features)
        self.gains.append(plan.expected_gain)
        found = estimate(ask, objective, theta, plan, sigma=self.sigma, key=key, antithetic=self.antithetic)
        tuning.descend(found.value)
        self.allocation.observe(items.tolist(), found.rms)

    def state(self) -> dict[str, Any]:
        """The allocator's state and the gains so far."""
        return {"allocation": self.allocation.state(), "gains": self.gains}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue where `state()` was taken."""
        self.allocation.load_state(state["allocation"])
        self.gains = list(state["gains"])


class Tuning:
    """One run: coordinates, optimiser, guard, budget.

    Args:
        problem: what is tuned.
        step: how queries are spent.
        settings: budget, batch and rates.
        key: names batches and noise.
    """

    def __init__(self, problem: Problem, step: Step, settings: Settings, key: Key) -> None:
        self.problem, self.step, self.settings, self.key = problem, step, settings, key
        self.leaf = problem.start.double().clone().requires_grad_(True)
        self.optimizer = torch.optim.Adam([self.leaf], lr=settings.lr)
        self.guard = Guard(margin=settings.margin)
        self.steps = 0

    @property
    def theta(self) -> Tensor:
        """The coordinates [k]."""
        return self.leaf.detach()

    def descend(self, gradient: Tensor) -> None:
        """One step of Adam with clipped gradient and decayed rate.

        Raises:
            Diverged: the gradient is not finite.
        """
        if not bool(gradient.isfinite().all()):
            raise Diverged(f"The gradient is not finite in step {self.steps}", "Lower --sigma", step=self.steps)
        norm = float(gradient.norm())
        self.leaf.grad = gradient * min(1.0, self.settings.clip / norm) if norm > 0 else gradient
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.lr * self.rate()
        self.optimizer.step()

    def rate(self) -> float:
        """Factor of the learning rate at this share of the budget."""
        spent = self.problem.count.asked / self.settings.budget
        return next((factor for share, factor in reversed(DECAY) if spent >= share), 1.0)

    def move_to(self, theta: Tensor) -> None:
        """Set the coordinates, for methods with a rule of their own.

        Raises:
            Diverged: they are not finite.
        """
        if not bool(theta.isfinite().all()):
            raise Diverged(f"The coordinates are not finite in step {self.steps}", "Lower --lr", step=self.steps)
        self.leaf.data.copy_(theta)

    def begin(self) -> None:
        """Ask what must be known first, and measure the start.

        Raises:
            UsageError: the budget does not hold the start, one step and one validation.
        """
        shots, validation = len(self.problem.train) + len(self.problem.validation), len(self.problem.validation)
        batch = min(self.settings.batch, len(self.problem.train))
        least = shots + 2 * validation + self.step.cost(batch)
        if self.settings.budget < least:
            raise UsageError(
                f"A budget of {self.settings.budget} queries holds no step",
                f"The smallest that works here is {least}: {shots} clean shots, two validations and one step",
            )
        self.problem.prepare()
        self.guard.measure(self.problem, self.theta, step=0)

    def more(self) -> bool:
        """Whether one more step and the validation after it fit the budget, and patience is not at its end."""
        batch, patience = min(self.settings.batch, len(self.problem.train)), self.settings.patience
        need = self.step.cost(batch) + len(self.problem.validation)
        return self.problem.count.asked + need <= self.settings.budget and not 0 < patience <= self.guard.idle

    def batches(self) -> Tensor:
        """The data of the next step [b]: each epoch in an order of its own, the last part of it left out."""
        train, size = self.problem.train, min(self.settings.batch, len(self.problem.train))
        epoch, part = divmod(self.steps, len(train) // size)
        order = torch.randperm(len(train), generator=self.key.at(site="tune/order", step=epoch).generator())
        return train[order[part * size : (part + 1) * size]]

    def run(self, after: Callable[[Tuning], None] | None = None) -> Guard:
        """Spend the budget; `after` is called once after every step. Returns the guard with the best.

        Raises:
            BudgetSpent: something else than the plan (a price, a clock) ended it; the guard holds the best so far.
        """
        with torch.no_grad():
            if not self.guard.history:
                self.begin()
            while self.more():
                try:
                    self.step.advance(self, self.batches(), self.key.at(site="tune/noise", step=self.steps))
                    self.steps += 1
                    if self.steps % self.settings.every == 0:
                        self.guard.measure(self.problem, self.theta, step=self.steps)
                except BudgetSpent as spent:
                    spent.partial = self.guard
                    raise
                if after is not None:
                    after(self)
            unmeasured = self.guard.history[-1]["step"] < self.steps
            if unmeasured and self.problem.count.asked + len(self.problem.validation) <= self.settings.budget:
                self.guard.measure(self.problem, self.theta, step=self.steps)
        return self.guard

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and data for a checkpoint."""
        moments, skeleton = optimizer_state(self.optimizer)
        tensors, guard = self.guard.state()
        judge = getattr(self.problem, "judge", None)
        data = {
            "steps": self.steps,
            "asked": self.problem.count.asked,
            "broken": self.problem.count.broken,
            "guard": guard,
            "optimizer": skeleton,
            "step": self.step.state(),
            "temperature": None if judge is None else judge.temperature,
        }
        return {"theta": self.theta.clone(), **tensors, **moments}, data

    def load_state(self, tensors: Mapping[str, Tensor], data: Mapping[str, Any]) -> None:
        """Continue where `state()` was taken."""
        from onlyforward.tune.scores import CrossEntropy

        self.leaf.data.copy_(tensors["theta"])
        load_optimizer_state(self.optimizer, tensors, data["optimizer"])
        self.guard.load_state(tensors, data["guard"])
        self.steps = int(data["steps"])
        self.problem.count.asked, self.problem.count.broken = int(data["asked"]), int(data["broken"])
        self.step.load_state(data["step"])
        if data["temperature"] is not None and hasattr(self.problem, "judge"):
            self.problem.judge = CrossEntropy(float(data["temperature"]))
