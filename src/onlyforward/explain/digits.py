"""A small classifier of 16 x 16 digits: the black box of demonstration and benchmarks, with a white-box truth."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from onlyforward.core.keys import Key
from onlyforward.data.sets import load

SIDE = 16


def images(x: Tensor) -> Tensor:
    """Digits [n, 1, 8, 8] as [n, 1, 16, 16], bilinear."""
    return nn.functional.interpolate(x.reshape(-1, 1, 8, 8), size=(SIDE, SIDE), mode="bilinear", align_corners=False)


def classifier(*, seed: int = 0, epochs: int = 15) -> tuple[nn.Module, float]:
    """A trained network [n, 1, 16, 16] -> [n, 10] and its test accuracy; trained by backpropagation."""
    data = load("digits")
    x, y = images(data.x_train), data.y_train
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(Key(run=seed, site="digits classifier").seed)
        net = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(16 * 64, 10),
        )
    optimiser = torch.optim.Adam(net.parameters(), lr=2e-3)
    for epoch in range(epochs):
        order = torch.randperm(len(x), generator=Key(run=seed, step=epoch, site="digits order").generator())
        for part in order.split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(x[part]), y[part]).backward()
            optimiser.step()
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    with torch.no_grad():
        right = net.eval()(images(data.x_test)).argmax(1) == data.y_test
    return net, float(right.double().mean())


def test_images(count: int) -> list[tuple[Tensor, int]]:
    """The first test digits: ([1, 16, 16], label)."""
    data = load("digits")
    return [(images(data.x_test[i : i + 1])[0], int(data.y_test[i])) for i in range(count)]
