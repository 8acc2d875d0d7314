"""The networks of `prune run`, and how each is trained."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from onlyforward.core.checks import check_choice, require
from onlyforward.core.errors import UsageError
from onlyforward.core.keys import Key
from onlyforward.data.modules import Attention, row_reader
from onlyforward.data.nets import features, image
from onlyforward.data.residual import cifar_resnet

if TYPE_CHECKING:
    from torch import Tensor

    from onlyforward.data.sets import Dataset


@dataclass(frozen=True)
class Recipe:
    """How a network is trained and fine-tuned.

    Attributes:
        epochs: passes of the first training.
        finetune: passes after pruning.
        batch: data per step; 0 is the whole set.
        lr: of Adam.
        decay: weight decay of the first layer.
        l2: weight of sum W^2 in the loss of the methods by connectivity; 0 beside a weight decay.
        peak: of the learning rate of fine-tuning, which rises to it and falls again; 0 keeps `lr`.
    """

    epochs: int
    finetune: int
    batch: int = 64
    lr: float = 1e-3
    decay: float = 0.0
    l2: float = 1e-3
    peak: float = 0.0


def mlp(data: Dataset, width: int, depth: int) -> nn.Module:
    """`depth` linear layers, the hidden ones of equal width, with rectifiers."""
    if data.kind == "graph":
        raise UsageError(f"The model mlp does not read the graph of {data.name}", "Take --model gcn, sage, gin or gat")
    sizes = [features(data, "mlp"), *[width] * (depth - 1), data.classes]
    parts: list[nn.Module] = [nn.Flatten()]
    for a, b in itertools.pairwise(sizes):
        parts += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


PLANS: Mapping[str, tuple[int | str, ...]] = {
    "vgg6": (16, 16, "pool", 32, 32, "pool", 64, 64),
    "vgg11": (16, "pool", 32, "pool", 64, 64, "pool", 128, 128, "pool", 128, 128),
    "vgg19": (16, 16, "pool", 32, 32, "pool", *[64] * 4, "pool", *[128] * 4, "pool", *[128] * 4),
}
"""Channels of the 3x3 convolutions; vgg11 and vgg19 have a quarter of the published width."""


def vgg(name: str) -> Callable[[Dataset, int, int], nn.Module]:
    """3x3 convolutions with batch norm, pools, and a linear layer on the mean over places."""

    def make(data: Dataset, width: int, depth: int) -> nn.Module:
        channels, height, _ = image(data, name)
        parts: list[nn.Module] = []
        for step in PLANS[name]:
            if isinstance(step, str):
                parts += [nn.MaxPool2d(2)] if height >= 2 else []
                height //= 2
            else:
                parts += [nn.Conv2d(channels, step, 3, padding=1, bias=False), nn.BatchNorm2d(step), nn.ReLU()]
                channels = step
        if name == "vgg6":
            return nn.Sequential(*parts, nn.Flatten(), nn.Linear(channels * max(1, height) ** 2, data.classes))
        return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, data.classes))

    return make


class Nodes(nn.Module):
    """Two graph layers of torch-geometric on a fixed graph: x [nodes, features] -> [nodes, classes]."""

    def __init__(self, first: nn.Module, second: nn.Module, edge_index: Tensor) -> None:
        super().__init__()
        self.register_buffer("edge_index", edge_index, persistent=False)
        self.first, self.act, self.second = first, nn.ReLU(), second
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of every node."""
        hidden = self.act(self.first(self.dropout(x), self.edge_index))
        return self.second(self.dropout(hidden), self.edge_index)


def graph(kind: str) -> Callable[[Dataset, int, int], nn.Module]:
    """GCN, SAGE, GIN or GAT with 16 hidden units (GAT: 8 heads of 8)."""

    def make(data: Dataset, width: int, depth: int) -> nn.Module:
        if data.edge_index is None:
            raise UsageError(f"The model {kind} needs a graph, but {data.name} is a set of {data.kind}s", "--data cora")
        layers = require("torch_geometric.nn", "graph")
        inputs, classes = data.shape[0], data.classes
        if kind == "gin":

            def inner(a: int, b: int) -> nn.Module:
                return nn.Sequential(nn.Linear(a, 16), nn.ReLU(), nn.Linear(16, b))

            pair = layers.GINConv(inner(inputs, 16)), layers.GINConv(inner(16, classes))
        elif kind == "gat":
            pair = layers.GATConv(inputs, 8, heads=8), layers.GATConv(64, classes, heads=1)
        else:
            layer = layers.GCNConv if kind == "gcn" else layers.SAGEConv
            pair = layer(inputs, 16), layer(16, classes)
        return Nodes(*pair, data.edge_index)

    return make


def lstm(data: Dataset, width: int, depth: int) -> nn.Module:
    """64 units over the rows of an image."""
    channels, _, columns = image(data, "lstm")
    return row_reader("lstm", size=channels * columns, units=64, classes=data.classes)


def vit(data: Dataset, width: int, depth: int) -> nn.Module:
    """One encoder layer of width 32 over the rows of an image."""
    channels, height, columns = image(data, "vit")
    return Attention(size=channels * columns, length=height, width=32, classes=data.classes)


def resnet(depth: int) -> Callable[[Dataset, int, int], nn.Module]:
    """A CIFAR ResNet."""

    def make(data: Dataset, width: int, _: int) -> nn.Module:
        if image(data, f"resnet{depth}")[0] != 3:
            raise UsageError(f"The model resnet{depth} needs colour images", "Take --data cifar10")
        return cifar_resnet(depth, data.classes)

    return make


MODELS: Mapping[str, tuple[Callable[[Any, int, int], nn.Module], Recipe]] = {
    "mlp": (mlp, Recipe(40, 15, peak=3e-2)),
    "vgg6": (vgg("vgg6"), Recipe(15, 6, peak=3e-2)),
    "vgg11": (vgg("vgg11"), Recipe(4, 2, l2=1e-2, peak=1e-2)),
    "vgg19": (vgg("vgg19"), Recipe(4, 2)),
    "resnet20": (resnet(20), Recipe(4, 2)),
    "resnet56": (resnet(56), Recipe(4, 2)),
    "gcn": (graph("gcn"), Recipe(200, 40, batch=0, lr=1e-2, decay=5e-4, l2=0.0)),
    "sage": (graph("sage"), Recipe(200, 40, batch=0, lr=1e-2, decay=5e-4, l2=0.0)),
    "gin": (graph("gin"), Recipe(200, 40, batch=0, lr=1e-2, decay=5e-4, l2=0.0)),
    "gat": (graph("gat"), Recipe(200, 40, batch=0, lr=5e-3, decay=5e-4, l2=0.0)),
    "lstm": (lstm, Recipe(30, 10, lr=3e-3)),
    "vit": (vit, Recipe(30, 10, lr=2e-3)),
}
"""Name -> (function of data set, width and depth; recipe)."""


def build(name: str, data: Dataset, key: Key, *, width: int = 100, depth: int = 5) -> nn.Module:
    """The network `name` for a data set, its initial weights decided by the key."""
    check_choice(name, MODELS, name="model")
    if depth < 2 or width < 1:
        raise UsageError(f"A network of width {width} and depth {depth} cannot be", "At least width 1 and depth 2")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key.at(site=f"prune/init/{name}").seed)
        return MODELS[name][0](data, width, depth)
