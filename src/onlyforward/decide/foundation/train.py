"""Training: imitation of exact experts, then the score function of the core on simulated seasons.

Imitation: cross-entropy to softmax(Q / tau) plus the expected regret max Q - Q, decision by decision, with earlier
decisions drawn half from the model and half at random. Fine-tuning: n sampled seasons of each of b instances give
signals [n, b]; a core weighting makes weights [n, b]; the direction is sum w grad ln pi.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from onlyforward.core.keys import Key
from onlyforward.decide.agents.base import load_module_state, module_state
from onlyforward.decide.foundation.experts import LOWEST, Lesson, draw_season
from onlyforward.decide.foundation.model import FoundationPolicy, order_sequence
from onlyforward.decide.foundation.simulate import season_signal
from onlyforward.decide.foundation.tokens import STAGES
from onlyforward.decide.objectives import Objective

SHARES = {"sell": 0.45, "order": 0.33, "replenish": 0.14, "inventory": 0.08}
"""How often a task's lesson is taken; two items four times as often as one."""


@dataclass(frozen=True)
class Recipe:
    """How the model is trained; chosen on random instances of other seeds, never on the reported ones.

    Attributes:
        batch: decisions of one imitation step.
        rate: learning rate of imitation, falling to zero along a cosine.
        temperature: tau, in units of an instance's profit a period.
        regret: weight of the expected regret beside the cross-entropy.
        fine_rate: learning rate of fine-tuning.
        instances: b of a fine-tuning step.
        copies: n seasons of each.
    """

    batch: int = 256
    rate: float = 3e-3
    temperature: float = 0.005
    regret: float = 20.0
    fine_rate: float = 3e-5
    instances: int = 16
    copies: int = 24


def imitation_loss(
    model: FoundationPolicy, lesson: Lesson, rows: Tensor, recipe: Recipe, generator: torch.Generator
) -> Tensor:
    """Mean loss of some decisions of a lesson."""
    told, values = lesson.tokens.rows(rows), lesson.values[rows]
    n = told.present.shape[1]
    stages = STAGES[lesson.task]
    index = torch.arange(len(rows))
    loss = values.new_zeros(())
    chosen = money = None
    # What the earlier decisions leave: [B, K_1, K_2, Z_1, Z_2], then [B, Z_1, Z_2].
    rest = values[:, 0]
    if "recommend" in stages:
        best = values.flatten(2).max(-1).values
        logits = model.recommend_logits(told)
        loss = loss + decision_loss(logits.log_softmax(-1), best, recipe)
        chosen = explored(logits, told.present > 0, generator)
        rest = values[index, chosen]
    if "price" in stages:
        best = rest.flatten(3).max(-1).values
        logits = model.price_logits(told, chosen)
        width = logits.shape[-1]
        best = best[:, :width, : width if n == 2 else 1]
        loss = loss + pair_loss(logits.log_softmax(-1), best, recipe)
        pick = torch.stack([explored(logits[:, i], ~told.prices.isnan(), generator) for i in range(n)], 1)
        money = told.prices.gather(1, pick)
        rest = rest[index, pick[:, 0], pick[:, 1] if n == 2 else 0]
    else:
        rest = rest[:, 0, 0]
    if "order" in stages:
        sequence = order_sequence(told)
        # The item whose stock is decided first comes first in the table of values.
        rest = torch.where(sequence[:, :1, None] == 0, rest, rest.transpose(1, 2)) if n == 2 else rest
        ordered = torch.full_like(told.present, float("nan"))
        for item in sequence.unbind(1):
            logits = model.order_logits(told, item, chosen, money, ordered)
            width = logits.shape[-1]
            loss = loss + decision_loss(logits.log_softmax(-1), rest[:, :width].flatten(2).max(-1).values, recipe)
            pick = explored(logits, logits > -1e8, generator)
            ordered = ordered.index_put((index, item), pick.to(ordered.dtype))
            rest = rest[index, pick][..., None]
    return loss


def decision_loss(chances: Tensor, values: Tensor, recipe: Recipe) -> Tensor:
    """Cross-entropy and expected regret of one choice: ln chances [B, k], values [B, k]."""
    gap = (values - values.max(-1, keepdim=True).values).clamp(min=LOWEST)
    target = (gap / recipe.temperature).softmax(-1)
    regret = (chances.exp() * gap.clamp(min=-5.0)).sum(-1)
    return (-(target * chances.clamp(min=-50.0)).sum(-1) - recipe.regret * regret).mean()


def pair_loss(chances: Tensor, values: Tensor, recipe: Recipe) -> Tensor:
    """The same for one choice per item, taken together: ln chances [B, n, k], values [B, k, k] or [B, k, 1]."""
    flat = values.flatten(1)
    gap = (flat - flat.max(-1, keepdim=True).values).view_as(values)
    target = (gap.flatten(1) / recipe.temperature).softmax(-1).view_as(values)
    if chances.shape[1] == 1:
        return decision_loss(chances[:, 0], values[..., 0], recipe)
    both = chances[:, 0, :, None].exp() * chances[:, 1, None, :].exp()
    regret = (both * gap.clamp(min=-5.0)).sum((1, 2))
    first, second = chances.clamp(min=-50.0).unbind(1)
    likely = (target.sum(2) * first).sum(-1) + (target.sum(1) * second).sum(-1)
    return (-likely - recipe.regret * regret).mean()


def explored(logits: Tensor, allowed: Tensor, generator: torch.Generator) -> Tensor:
    """A choice [B] of the model for half of the rows, any allowed one for the others."""
    chances = logits.detach().softmax(-1)
    even = allowed.float() / allowed.sum(-1, keepdim=True)
    mixed = torch.where(torch.rand(len(logits), 1, generator=generator) < 0.5, chances, even)
    return torch.multinomial(mixed, 1, generator=generator)[:, 0]


class Course:
    """A model's whole training, one step at a time: `steps` of imitation, then `updates` of fine-tuning.

    Args:
        model: the policy, trained in place.
        taught: the lessons.
        steps: imitation steps.
        updates: score-function steps.
        key: coordinates of batches and seasons.
        recipe: how it learns.
        objective: what fine-tuning maximises.
    """

    def __init__(
        self,
        model: FoundationPolicy,
        taught: list[Lesson],
        *,
        steps: int,
        updates: int,
        key: Key,
        recipe: Recipe,
        objective: Objective,
    ) -> None:
        self.model, self.taught, self.key, self.recipe = model, taught, key, recipe
        self.steps, self.updates, self.objective = steps, updates, objective
        self.share = torch.tensor([SHARES[lesson.task] * (1 if lesson.single else 4) for lesson in taught])
        self.done = 0
        self.optimizer = self.fresh(recipe.rate)

    def fresh(self, rate: float) -> torch.optim.Optimizer:
        """An optimiser without memory."""
        return torch.optim.AdamW(self.model.parameters(), lr=rate, weight_decay=0.01, fused=True)

    @property
    def total(self) -> int:
        """Steps of both phases."""
        return self.steps + self.updates

    def step(self) -> float:
        """One step of the phase that it is time for: the imitation loss, or the mean signal of sampled seasons."""
        if self.done == self.steps:
            self.optimizer = self.fresh(self.recipe.fine_rate)
        loss, shown = self.imitation() if self.done < self.steps else self.fine_tuning(self.done - self.steps)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.done += 1
        return shown

    def imitation(self) -> tuple[Tensor, float]:
        """The loss of one batch of one lesson; the rate warms up over a twentieth and falls along a cosine."""
        generator = self.key.at(site="imitation", step=self.done).generator()
        lesson = self.taught[int(torch.multinomial(self.share, 1, generator=generator))]
        rows = torch.randint(len(lesson.values), (self.recipe.batch,), generator=generator)
        progress = self.done / self.steps
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate * min(1.0, 20 * progress + 0.05) * 0.5 * (1 + math.cos(math.pi * progress))
        loss = imitation_loss(self.model, lesson, rows, self.recipe, generator)
        return loss, float(loss.detach())

    def fine_tuning(self, update: int) -> tuple[Tensor, float]:
        """Minus the weighted ln pi of n seasons of each of b fresh random instances of equal length."""
        drawn = self.key.at(site="fine", step=update).numpy()
        items, periods = (2, 2, 1)[update % 3], int(drawn.integers(6, 15))
        seasons = [replace(draw_season(drawn, items), periods=periods) for _ in range(self.recipe.instances)]
        generator = self.key.at(site="season", step=update).generator()
        signal, log_prob = season_signal(self.model, seasons, self.recipe.copies, generator)
        # Instances differ in scale: each column counts in units of its own spread.
        unit = signal / signal.std(0).clamp(min=1e-3)
        weight, _ = self.objective.weighting()(unit.double(), None)
        return -(weight.float() * log_prob).sum() / self.recipe.instances, float(signal.mean())

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Weights and moments, and the steps done."""
        return module_state("model", self.model, self.optimizer), {"done": self.done}

    def load_state(self, tensors: Mapping[str, Tensor], data: Mapping[str, Any]) -> None:
        """The inverse of `state`."""
        self.done = int(data["done"])
        if self.done > self.steps:
            self.optimizer = self.fresh(self.recipe.fine_rate)
        load_module_state("model", self.model, self.optimizer, tensors)
