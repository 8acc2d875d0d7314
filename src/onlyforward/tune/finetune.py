"""A short suffix of a transformer trained on stored features: the exact head first, then small parts by noise.

What moves after the head is a scope: scales and shifts of norms (noise on both, one draw per datum), their shifts
alone, or low-rank additions to the feed-forward layers (noise at the layer's output; LoRA: arXiv 2106.09685).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from onlyforward.core.errors import Diverged
from onlyforward.core.keys import Key
from onlyforward.nn.engine import LikelihoodRatio
from onlyforward.nn.evolution import EvolutionStrategies, MeZO
from onlyforward.tune.guard import Guard
from onlyforward.tune.peers import ALLOCATORS, make_allocator
from onlyforward.tune.suffix import FeedForward, LowRankLinear

HEAD_EPOCHS, HEAD_RATE, PULL = 30, 3e-3, 0.3
"""Of the exact head: passes, Adam's rate, and weight of (PULL / 2) |W - W0|^2 around the pretrained head. Chosen on
training images that belong to no reported split."""
NOISE = 0.05
"""Noise on scales and shifts unless a recipe says otherwise."""
MARGIN = 0.5
"""Standard errors by which the start must be beaten: less than before a closed model, since the head is exact."""


@dataclass(frozen=True)
class Recipe:
    """How the norms are trained after the head.

    Attributes:
        epochs: passes over the shots.
        batch: images of a step.
        copies: mean perturbed runs per image and site.
        sigma: noise; None is 0.05 on scales and shifts, 0.05 of a layer's root mean square on its output.
        lr: of Adam, scope and head.
    """

    epochs: int = 20
    batch: int = 40
    copies: int = 10
    sigma: float | None = None
    lr: float = 1e-3


@dataclass(frozen=True)
class Features:
    """What the suffix reads, computed once.

    Attributes:
        x: features of the shots, training ones first.
        y: labels.
        train: how many train.
        x_test: features of the test images.
        y_test: labels.
    """

    x: Tensor
    y: Tensor
    train: int
    x_test: Tensor
    y_test: Tensor


class Kept:
    """The suffix parameters that the guard likes best; forward runs of the validation shots are counted."""

    def __init__(self, suffix: nn.Module, features: Features) -> None:
        self.suffix, self.features, self.guard = suffix, features, Guard(margin=MARGIN)
        self.forwards = 0
        self.best: dict[str, Tensor] = {}
        self.look()

    def look(self) -> None:
        """Measure the present state and keep it if it is better."""
        y = self.features.y[self.features.train :]
        with torch.no_grad():
            out = self.suffix(self.features.x[self.features.train :])
        self.forwards += len(y)
        hits = (out.argmax(1) == y).double()
        if self.guard.consider(losses(out, y).double(), hits, step=len(self.guard.history), queries=self.forwards):
            self.best = copy.deepcopy(self.suffix.state_dict())


def losses(out: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of each image [b]."""
    return F.cross_entropy(out, target, reduction="none")


def fit_head(suffix: Any, features: Features, kept: Kept, key: Key, first: list[Tensor]) -> int:
    """Train the head on its exact gradient over stored features; returns forward runs (one a shot)."""
    m, head = features.train, suffix.head
    with torch.no_grad():
        x = suffix[:-1](features.x[:m])
    optimizer = torch.optim.Adam(head.parameters(), lr=HEAD_RATE)
    for epoch in range(HEAD_EPOCHS):
        order = torch.randperm(m, generator=key.at(site="vit/head", step=epoch).generator())
        for rows in order.split(32):
            head_gradient(head, x[rows], features.y[rows])
            pull(head, first)
            optimizer.step()
        if epoch % 3 == 2:
            kept.look()
    return m


def head_gradient(head: Any, x: Tensor, y: Tensor) -> None:
    """Exact gradient of the mean cross-entropy, from the head's inputs [b, w] alone."""
    with torch.no_grad():
        error = (head(x).softmax(1) - F.one_hot(y, head.out_features)) / len(x)
        head.weight.grad, head.bias.grad = error.T @ x, error.sum(0)


def pull(head: Any, first: list[Tensor]) -> None:
    """Add the slope of (PULL / 2) |W - W0|^2, `first` being W0: sixteen shots a class overfit a free head."""
    for p, start in zip(head.parameters(), first, strict=True):
        p.grad += PULL * (p.detach() - start)


@dataclass(frozen=True)
class Scope:
    """What moves besides the head.

    Attributes:
        word: head, late, norms, bias or lora.
        size: blocks of late, rank of lora.
    """

    word: str = "late"
    size: int = 1

    @property
    def blocks(self) -> int:
        """How many blocks the suffix has."""
        return {"late": self.size, "norms": 6}.get(self.word, 1)

    def widened(self, suffix: nn.Module, key: Key) -> nn.Module:
        """The suffix, with low-rank additions where the scope asks for them."""
        if self.word == "lora":
            for name, feed in suffix.named_children():
                if isinstance(feed, FeedForward):
                    for part in ("up", "down"):
                        generator = key.at(site=f"vit/lora/{name}/{part}").generator()
                        setattr(feed, part, LowRankLinear(getattr(feed, part), self.size, generator))
        return suffix

    def kinds(self, suffix: nn.Module) -> dict[str, str]:
        """Path -> kind in the engine's plan of every module that moves."""
        if self.word == "lora":
            return {path: "lr" for path, part in suffix.named_modules() if isinstance(part, LowRankLinear)}
        return dict.fromkeys(norms_of(suffix), "channel")

    def parameters(self, suffix: nn.Module) -> list[nn.Parameter]:
        """What moves."""
        names = ("bias",) if self.word == "bias" else ("left", "right") if self.word == "lora" else ("weight", "bias")
        return [getattr(suffix.get_submodule(path), name) for path in self.kinds(suffix) for name in names]


def norms_of(suffix: nn.Module) -> dict[str, nn.LayerNorm]:
    """The norms by name."""
    return {name: part for name, part in suffix.named_children() if isinstance(part, nn.LayerNorm)}


@dataclass
class Recorded:
    """An allocator that notes what its plans promise.

    Attributes:
        inner: the allocator.
        gains: expected gain of every plan.
    """

    inner: Any
    gains: list[float] = field(default_factory=list)

    def plan(self, budget: int, features: Any) -> Any:
        """The inner plan."""
        made = self.inner.plan(budget, features)
        self.gains.append(made.expected_gain)
        return made

    def observe(self, ids: Any, coefficients: Tensor) -> None:
        """Passed on."""
        self.inner.observe(ids, coefficients)


def stepper(
    method: str, suffix: Any, recipe: Recipe, seed: int, scope: Scope, *, gains: list[float] | None = None
) -> Callable[[Tensor, Tensor], int]:
    """One gradient by a method: fills `grad` of the scope and the head, returns forward runs of the suffix."""
    suffix.requires_grad_(False)
    for p in scope.parameters(suffix):
        p.requires_grad_(True)
    if method in ALLOCATORS:
        allocation = Recorded(make_allocator(method, key=Key(run=seed)), gains if gains is not None else [])
        sigma: float | str = recipe.sigma or ("auto" if scope.word == "lora" else NOISE)
        plan = {"*": "frozen", **scope.kinds(suffix), "head": "exact"}
        suffix.head.requires_grad_(True)
        engine = LikelihoodRatio(
            suffix, plan=plan, copies=recipe.copies, sigma=sigma, noise="gaussian", seed=seed, allocation=allocation
        )

        def ours(x: Tensor, y: Tensor) -> int:
            before = engine.runs
            loss = engine.backward(losses, x, y)
            if not bool(loss.isfinite()):
                raise Diverged(f"The loss is {float(loss)} in step {engine.steps}", "Lower --sigma")
            return engine.runs - before + len(x)

        return ours
    if method == "bp":
        suffix.head.requires_grad_(True)

        def exact(x: Tensor, y: Tensor) -> int:
            with torch.enable_grad():
                torch.autograd.backward(losses(suffix(x), y).mean())
            return len(x)

        return exact
    copies = 2 if method == "mezo" else 2 * (recipe.copies // 2)
    made = MeZO(suffix, copies=copies, sigma=1e-3, seed=seed) if method != "es" else None
    shared: Any = made or EvolutionStrategies(suffix, copies=copies, sigma=recipe.sigma or NOISE, seed=seed)

    def noisy(x: Tensor, y: Tensor) -> int:
        shared.backward(losses, x, y)
        with torch.no_grad():
            inside = suffix[:-1](x)
        head_gradient(suffix.head, inside, y)
        return (copies + 1) * len(x)

    return noisy


def tune_suffix(
    method: str,
    suffix: Any,
    features: Features,
    recipe: Recipe,
    seed: int,
    *,
    scope: Scope = Scope(),
    gains: list[float] | None = None,
) -> tuple[Kept, int, int]:
    """Head first, then scope and head by a method ("head" stops after the head).

    Returns:
        What the guard kept, steps, and forward runs of the suffix.
    """
    key = Key(run=seed)
    kept = Kept(suffix, features)
    first = [p.detach().clone() for p in suffix.head.parameters()]
    runs = fit_head(suffix, features, kept, key, first)
    steps = 0
    if method != "head":
        suffix.load_state_dict(kept.best)
        step = stepper(method, suffix, recipe, seed, scope, gains=gains)
        optimizer = torch.optim.Adam([*scope.parameters(suffix), *suffix.head.parameters()], lr=recipe.lr)
        for epoch in range(recipe.epochs):
            order = torch.randperm(features.train, generator=key.at(site="vit/order", step=epoch).generator())
            for rows in order.split(recipe.batch):
                optimizer.zero_grad()
                runs += step(features.x[rows], features.y[rows])
                pull(suffix.head, first)
                optimizer.step()
                steps += 1
            kept.look()
    suffix.load_state_dict(kept.best)
    return kept, steps, runs + kept.forwards
