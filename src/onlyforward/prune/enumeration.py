"""Brute force beside the measure: small networks as explicit edges, and every path walked."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Place = tuple[str, int]
"""Parameter name and flat index."""


@dataclass
class Stage:
    """Edges between two levels of nodes.

    Attributes:
        inputs: nodes before.
        outputs: nodes after.
        edges: (from, to, place of the weight, or None for an edge of weight 1).
    """

    inputs: int
    outputs: int
    edges: list[tuple[int, int, Place | None]] = field(default_factory=list)


@dataclass(frozen=True)
class Walkable:
    """A module and the same network as edges.

    Attributes:
        kind: what it shows.
        module: the module, in float64.
        example: one input.
        stages: levels from input to output nodes.
    """

    kind: str
    module: nn.Module
    example: Tensor
    stages: tuple[Stage, ...]

    def paths(self) -> Iterator[tuple[float, list[Place], int]]:
        """Every path that carries weight: product of |W|, the weights on it, the output node."""
        weights = {name: p.detach().abs().flatten().tolist() for name, p in self.module.named_parameters()}
        after: list[dict[int, list[tuple[int, Place | None]]]] = []
        for stage in self.stages:
            table: dict[int, list[tuple[int, Place | None]]] = {}
            for a, b, place in stage.edges:
                table.setdefault(a, []).append((b, place))
            after.append(table)

        def walk(level: int, node: int, product: float, on: list[Place]) -> Iterator[tuple[float, list[Place], int]]:
            if level == len(after):
                yield product, on, node
                return
            for b, place in after[level].get(node, []):
                weight = 1.0 if place is None else weights[place[0]][place[1]]
                if weight:
                    yield from walk(level + 1, b, product * weight, on if place is None else [*on, place])

        for node in range(self.stages[0].inputs):
            yield from walk(0, node, 1.0, [])


def linear_edges(
    name: str, outputs: int, inputs: int, *, at: int = 0, to: int = 0
) -> list[tuple[int, int, Place | None]]:
    """The edges of a linear layer whose inputs begin at node `at` and outputs at node `to`."""
    return [(at + i, to + j, (name, j * inputs + i)) for j in range(outputs) for i in range(inputs)]


def identity_edges(count: int, *, at: int = 0, to: int = 0) -> list[tuple[int, int, Place | None]]:
    """Edges of weight 1."""
    return [(at + i, to + i, None) for i in range(count)]


def conv_edges(layer: nn.Conv1d, name: str, length: int) -> tuple[Stage, int]:
    """The edges of a one-dimensional convolution on nodes channel * length + place; also the length after it."""
    kernel, stride = layer.kernel_size[0], layer.stride[0]
    padding, groups = int(layer.padding[0]), layer.groups
    per_in, per_out = layer.in_channels // groups, layer.out_channels // groups
    after = (length + 2 * padding - kernel) // stride + 1
    stage = Stage(layer.in_channels * length, layer.out_channels * after)
    for o, c, t, place in itertools.product(range(layer.out_channels), range(per_in), range(kernel), range(after)):
        source = place * stride + t - padding
        if 0 <= source < length:
            channel = o // per_out * per_in + c
            stage.edges.append((channel * length + source, o * after + place, (name, (o * per_in + c) * kernel + t)))
    return stage, after


def transposed_edges(layer: nn.ConvTranspose1d, name: str, length: int) -> tuple[Stage, int]:
    """The edges of a transposed convolution without padding."""
    kernel, stride = layer.kernel_size[0], layer.stride[0]
    after = (length - 1) * stride + kernel
    stage = Stage(layer.in_channels * length, layer.out_channels * after)
    for i, o, t, place in itertools.product(
        range(layer.in_channels), range(layer.out_channels), range(kernel), range(length)
    ):
        target = o * after + place * stride + t
        stage.edges.append((i * length + place, target, (name, (i * layer.out_channels + o) * kernel + t)))
    return stage, after


class Residual(nn.Module):
    """x + b(a(x)), then a head."""

    def __init__(self, n: int, m: int, k: int) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(n, m), nn.Linear(m, n), nn.Linear(n, k)

    def forward(self, x: Tensor) -> Tensor:
        """[b, n] -> [b, k]."""
        return self.head(F.relu(x + self.b(F.relu(self.a(x)))))


class Concatenated(nn.Module):
    """head([a(x), x])."""

    def __init__(self, n: int, m: int, k: int) -> None:
        super().__init__()
        self.a, self.head = nn.Linear(n, m), nn.Linear(n + m, k)

    def forward(self, x: Tensor) -> Tensor:
        """[b, n] -> [b, k]."""
        return self.head(torch.cat([F.gelu(self.a(x)), x], -1))


class Shared(nn.Module):
    """The same layer twice."""

    def __init__(self, n: int, k: int) -> None:
        super().__init__()
        self.a, self.head = nn.Linear(n, n), nn.Linear(n, k)

    def forward(self, x: Tensor) -> Tensor:
        """[b, n] -> [b, k]."""
        return self.head(torch.tanh(self.a(torch.tanh(self.a(x)))))


def chain(widths: list[int]) -> tuple[nn.Module, Tensor, list[Stage]]:
    """Linear layers with rectifiers."""
    parts: list[nn.Module] = []
    stages = []
    for k, (a, b) in enumerate(itertools.pairwise(widths)):
        parts += [nn.Linear(a, b), nn.ReLU()]
        stages.append(Stage(a, b, linear_edges(f"{2 * k}.weight", b, a)))
    return nn.Sequential(*parts[:-1]), torch.ones(1, widths[0]), stages


def residual(n: int, m: int, k: int) -> tuple[nn.Module, Tensor, list[Stage]]:
    """A residual block."""
    first = Stage(n, m + n, linear_edges("a.weight", m, n) + identity_edges(n, to=m))
    second = Stage(m + n, n, linear_edges("b.weight", n, m) + identity_edges(n, at=m))
    return Residual(n, m, k), torch.ones(1, n), [first, second, Stage(n, k, linear_edges("head.weight", k, n))]


def concatenated(n: int, m: int, k: int) -> tuple[nn.Module, Tensor, list[Stage]]:
    """A dense block."""
    first = Stage(n, m + n, linear_edges("a.weight", m, n) + identity_edges(n, to=m))
    return Concatenated(n, m, k), torch.ones(1, n), [first, Stage(n + m, k, linear_edges("head.weight", k, n + m))]


def shared(n: int, k: int) -> tuple[nn.Module, Tensor, list[Stage]]:
    """A tied layer."""
    twice = [Stage(n, n, linear_edges("a.weight", n, n)) for _ in range(2)]
    return Shared(n, k), torch.ones(1, n), [*twice, Stage(n, k, linear_edges("head.weight", k, n))]


def convolutional(groups: int, stride: int, padding: int, transposed: bool) -> tuple[nn.Module, Tensor, list[Stage]]:
    """A convolution (grouped, strided, padded) or a transposed one, then a linear head."""
    if transposed:
        up = nn.ConvTranspose1d(2, 2, 3, stride=stride)
        stage, _ = transposed_edges(up, "0.weight", 3)
        layer: nn.Module = up
    else:
        down = nn.Conv1d(2, 4, 3, stride=stride, padding=padding, groups=groups)
        stage, _ = conv_edges(down, "0.weight", 3)
        layer = down
    module = nn.Sequential(layer, nn.ReLU(), nn.Flatten(), nn.Linear(stage.outputs, 2))
    example = torch.ones(1, 2, 3)
    return module, example, [stage, Stage(stage.outputs, 2, linear_edges("3.weight", 2, stage.outputs))]


def random_network(seed: int) -> Walkable:
    """One of eight kinds of small networks with a fifth of its weights zero, decided by the seed."""
    pick = torch.Generator().manual_seed(seed)

    def upto(n: int) -> int:
        return int(torch.randint(1, n + 1, (), generator=pick))

    kinds: dict[str, Callable[[], tuple[nn.Module, Tensor, list[Stage]]]] = {
        "chain": lambda: chain([upto(4) for _ in range(2 + upto(3))]),
        "residual": lambda: residual(upto(4), upto(4), upto(3)),
        "concatenated": lambda: concatenated(upto(4), upto(4), upto(3)),
        "shared": lambda: shared(upto(4), upto(3)),
        "convolution": lambda: convolutional(1, 1, 1, False),
        "grouped": lambda: convolutional(2, 1, 1, False),
        "strided": lambda: convolutional(1, 2, 0, False),
        "transposed": lambda: convolutional(1, upto(2), 0, True),
    }
    kind = list(kinds)[seed % len(kinds)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module, example, stages = kinds[kind]()
        module = module.double()
        with torch.no_grad():
            for p in module.parameters():
                p.mul_(torch.rand_like(p) < 0.8)
    return Walkable(kind, module, example.double(), tuple(stages))
