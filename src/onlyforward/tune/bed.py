"""The test bed of the variance benchmarks: a small digits network whose per-datum gradients are known exactly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from onlyforward.core.allocate.plan import Features
from onlyforward.core.keys import Key
from onlyforward.data.corruptions import apply
from onlyforward.data.sets import Dataset, load

B, Q = 64, 20
"""Data of a batch, queries per datum."""
SHIFTS: Mapping[str, tuple[str, float]] = {"clean": ("", 0.0), "noise": ("gaussian", 0.35), "rotated": ("rotate", 35.0)}
GOAL = 0.93
"""Accuracy at which training stops: how sure a network has become decides how much its losses differ."""
RECIPES: Mapping[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
    "sgd-plain": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=3e-3),
}
"""Ways to train the bed; the benchmarks' own is sgd, the others show what depends on it."""


def network() -> nn.Sequential:
    """One 3x3 convolution of 8 channels, pooling, a hidden layer of 32, ten outputs: 4,538 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, 10),
    )  # fmt: skip


@dataclass
class Bed:
    """The trained network and its data.

    Attributes:
        model: in double precision.
        data: digits.
        accuracy: on the clean test part.
    """

    model: nn.Sequential
    data: Dataset
    accuracy: float

    @cached_property
    def parameters(self) -> dict[str, Tensor]:
        """Named parameters without gradients."""
        return {name: p.detach() for name, p in self.model.named_parameters()}

    @property
    def dimension(self) -> int:
        """Number of parameters."""
        return sum(p.numel() for p in self.parameters.values())

    def flat(self) -> Tensor:
        """All parameters [d]."""
        return torch.cat([p.flatten() for p in self.parameters.values()])

    def named(self, flat: Tensor) -> dict[str, Tensor]:
        """Flat parameters [..., d] by name."""
        found, first = {}, 0
        for name, p in self.parameters.items():
            found[name] = flat[..., first : first + p.numel()].reshape(*flat.shape[:-1], *p.shape)
            first += p.numel()
        return found

    def batch(self, shift: str, number: int) -> tuple[Tensor, Tensor]:
        """Images [B, 1, 8, 8] and labels [B] of batch `number` of the shifted test and training images."""
        kind, amount = SHIFTS[shift]
        x = torch.cat((self.data.x_test, self.data.x_train)).double()
        y = torch.cat((self.data.y_test, self.data.y_train))
        rows = torch.arange(number * B, number * B + B) % len(y)
        x = x[rows]
        return (apply(x, kind, amount, key=Key(step=number, site="bed")) if kind else x), y[rows]

    def features(self, x: Tensor, y: Tensor) -> Features:
        """Loss and residual of the clean run, as an allocator sees them."""
        with torch.no_grad():
            z = self.model(x)
        residual = (z.softmax(1) - F.one_hot(y, 10)).norm(dim=1)
        return Features(loss=F.cross_entropy(z, y, reduction="none"), residual=residual, ids=torch.arange(len(y)))

    def gradients(self, x: Tensor, y: Tensor) -> Tensor:
        """Exact gradient of every datum's loss: [B, d]."""

        def loss(p: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
            return F.cross_entropy(functional_call(self.model, p, (image[None],)), label[None])

        found = vmap(grad(loss), in_dims=(None, 0, 0))(self.parameters, x, y)
        return torch.cat([found[name].flatten(1) for name in self.parameters], 1)

    def losses(self, theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Losses [n] of images [n, 1, 8, 8], each under parameters of its own [n, d]: one batched product a layer."""
        p = self.named(theta)
        n = len(x)
        patches = F.unfold(x, 3, padding=1)
        hidden = p["0.weight"].reshape(n, 8, 9) @ patches + p["0.bias"][:, :, None]
        hidden = F.max_pool2d(hidden.reshape(n, 8, 8, 8).relu(), 2).reshape(n, 128, 1)
        hidden = (p["4.weight"] @ hidden + p["4.bias"][:, :, None]).relu()
        scores = (p["6.weight"] @ hidden)[:, :, 0] + p["6.bias"]
        return F.cross_entropy(scores, y, reduction="none")


def make_bed(seed: int = 0, recipe: str = "sgd") -> Bed:
    """Train by backpropagation on clean digits, until an epoch ends at the accuracy GOAL on the clean test part.

    Args:
        seed: of weights and order.
        recipe: a name in RECIPES.
    """
    data = load("digits")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(Key(run=seed, site="bed").seed)
        model = network()
    optimizer = RECIPES[recipe](model.parameters())
    accuracy, epoch = 0.0, 0
    while accuracy < GOAL:
        order = torch.randperm(len(data.y_train), generator=Key(run=seed, step=epoch, site="bed/order").generator())
        for rows in order.split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(data.x_train[rows]), data.y_train[rows]).backward()
            optimizer.step()
        with torch.no_grad():
            accuracy = float((model(data.x_test).argmax(1) == data.y_test).double().mean())
        epoch += 1
    return Bed(model.double().requires_grad_(False).eval(), data, accuracy)
