"""Training and fine-tuning with penalties, the decoupled step and masks that stay put."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from onlyforward.core.errors import Diverged
from onlyforward.core.keys import Key
from onlyforward.data.sets import Dataset
from onlyforward.prune.connect import CoNNect
from onlyforward.prune.methods import Method
from onlyforward.prune.zoo import Recipe


@dataclass(frozen=True)
class Task:
    """Data as training sees them.

    Attributes:
        data: the set.
        validation: graphs: read the validation nodes in the place of the test nodes.
    """

    data: Dataset
    validation: bool = False

    @property
    def graph(self) -> bool:
        """Whether one datum is the whole graph."""
        return self.data.kind == "graph"

    @property
    def example(self) -> Tensor:
        """One example for the measure."""
        return self.data.x_train if self.graph else self.data.x_train[:1]

    def held_out(self) -> Task:
        """The task on which settings are chosen: no test datum is in it."""
        return Task(self.data, validation=True) if self.graph else Task(self.data.held_out())

    def train_rows(self) -> Tensor:
        """Numbers of the training data."""
        if self.graph:
            return self.data.masks["train"].nonzero().flatten()
        return torch.arange(len(self.data.y_train))

    def loss(self, model: nn.Module, rows: Tensor) -> Tensor:
        """Cross-entropy of some training data."""
        if self.graph:
            return F.cross_entropy(model(self.data.x_train)[rows], self.data.y_train[rows])
        return F.cross_entropy(model(self.data.x_train[rows]), self.data.y_train[rows])

    @torch.no_grad()
    def accuracy(self, model: nn.Module) -> float:
        """Fraction right of the test data (or of the validation nodes)."""
        model.eval()
        if self.graph:
            rows = self.data.masks["validation" if self.validation else "test"]
            right = model(self.data.x_train)[rows].argmax(-1) == self.data.y_train[rows]
            return float(right.double().mean())
        right = [
            (model(x).argmax(-1) == y).sum() for x, y in zip(self.data.x_test.split(500), self.data.y_test.split(500))
        ]
        return float(sum(right)) / len(self.data.y_test)


def split_product(model: nn.Module, names: list[str]) -> Callable[[], None]:
    """Spred (arXiv 2210.01212): every weight becomes U V, so that L2 on both is L1 on it; the function undoes it."""

    class Product(nn.Module):
        def forward(self, u: Tensor, v: Tensor) -> Tensor:
            return u * v

        def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
            root = weight.abs().sqrt()
            return root * weight.sign(), root

    places = []
    for name in names:
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        torch.nn.utils.parametrize.register_parametrization(module, leaf, Product())
        places.append((module, leaf))

    def undo() -> None:
        for module, leaf in places:
            torch.nn.utils.parametrize.remove_parametrizations(module, leaf)

    return undo


def fit(
    model: nn.Module,
    task: Task,
    recipe: Recipe,
    method: Method,
    key: Key,
    *,
    epochs: int,
    weights: list[str],
    masks: Mapping[str, Tensor] | None = None,
    tick: Callable[..., None] | None = None,
) -> float:
    """Train in place and return the seconds it took.

    With masks, what they remove stays zero and the optimiser forgets its momentum there; penalties and the connectivity
    then rest, as fine-tuning only repairs. A recipe with a `peak` then has its learning rate rise and fall.

    Args:
        model: trained in place.
        task: data.
        recipe: batch, learning rates, weight decay of the first layer.
        method: penalties and connectivity.
        key: decides the order of data and the dropout.
        epochs: passes.
        weights: names that penalties and masks are about.
        masks: of fine-tuning.
        tick: called after every epoch.

    Raises:
        Diverged: the loss is not finite.
    """
    begin = time.perf_counter()
    undo = split_product(model, weights) if method.spred and masks is None else None
    parameters = dict(model.named_parameters())
    pruned = [parameters[name] for name in weights if name in parameters]
    factors = [p for name, p in parameters.items() if "parametrizations" in name]
    flags = None if masks is None else [masks[name].to(parameters[name].dtype) for name in weights]
    first = {id(p) for p in list(parameters.values())[:2]} if recipe.decay else set()
    groups = [
        {"params": [p for p in parameters.values() if id(p) in first], "weight_decay": recipe.decay},
        {"params": [p for p in parameters.values() if id(p) not in first]},
    ]
    active = masks is None
    cycled = not active and recipe.peak > 0
    lr = recipe.peak if cycled else recipe.lr
    optimizer = torch.optim.Adam([g for g in groups if g["params"]], lr=lr, fused=True)
    measure = CoNNect(model, task.example, attention="qkv") if active and (method.step or method.connect) else None
    rows = task.train_rows()
    batch = recipe.batch or len(rows)
    total = epochs * math.ceil(len(rows) / batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: cycle(step, total) if cycled else 1.0)
    done = 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key.at(site="prune/dropout").seed)
        for epoch in range(epochs):
            model.train()
            order = rows[torch.randperm(len(rows), generator=key.at(site="prune/order", step=epoch).generator())]
            last = torch.zeros(())
            for chosen in order.split(batch):
                # A batch norm cannot be trained on one datum.
                if len(chosen) == 1 and not task.graph:
                    continue
                loss = task.loss(model, chosen)
                if active:
                    if method.l2:
                        loss = loss + method.l2 * squares(pruned)
                    if method.l1:
                        loss = loss + method.l1 * sum((p.abs().sum() for p in pruned), torch.zeros(()))
                    if method.spred:
                        loss = loss + method.spred * squares(factors)
                due = measure is not None and done >= method.start * total and done % method.every == 0
                if due and method.connect and measure is not None:
                    loss = loss + method.connect * method.every * measure()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                if active and method.prox:
                    shrink_towards_zero(pruned, recipe.lr * method.prox)
                if due and method.step and measure is not None:
                    measure.step_(method.step)
                if flags is not None:
                    hold(optimizer, pruned, flags)
                done += 1
                last = loss
            if not bool(last.isfinite()):
                raise Diverged("The training loss is not finite", "Lower --lr", step=epoch)
            if tick is not None:
                tick(loss=float(last.detach()))
    if undo is not None:
        undo()
    model.eval()
    return time.perf_counter() - begin


def cycle(step: int, steps: int) -> float:
    """Fraction of the peak learning rate at a step: it rises for a fifth of the steps, then falls as a half cosine."""
    rise = max(1, steps // 5)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def squares(tensors: list[Tensor]) -> Tensor:
    """Sum of all squares."""
    return sum((p.square().sum() for p in tensors), torch.zeros(()))


@torch.no_grad()
def shrink_towards_zero(tensors: list[Any], threshold: float) -> None:
    """The proximal step of an L1 penalty."""
    for p in tensors:
        p.copy_(F.softshrink(p, threshold))


@torch.no_grad()
def hold(optimizer: torch.optim.Optimizer, tensors: list[Any], flags: list[Tensor]) -> None:
    """Keep removed weights and their momenta at zero."""
    for p, flag in zip(tensors, flags):
        p.mul_(flag)
        state = optimizer.state.get(p, {})
        for name in ("exp_avg", "exp_avg_sq"):
            if name in state:
                state[name].mul_(flag)
