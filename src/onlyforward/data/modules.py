"""Modules of the small networks that torch lacks: recurrent, spiking and graph classifiers, and a hard sign."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from onlyforward.core.checks import require

if TYPE_CHECKING:
    from torch import Tensor


class Rows(nn.Module):
    """Images as sequences: [b, channels, height, width] -> [b, height, channels * width]."""

    def forward(self, x: Tensor) -> Tensor:
        """Rows in order from the top."""
        return x.transpose(1, 2).flatten(2)


class Normalise(nn.Module):
    """Pixels in 0..1 -> (x - mean) / std per channel; holds no parameter and no entry of the state dict."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised pixels, same shape."""
        return (x - self.mean) / self.std


class HardSign(nn.Module):
    """sign(x) with sign(0) = 1; its derivative is zero almost everywhere, so backpropagation stops here."""

    def forward(self, x: Tensor) -> Tensor:
        """+-1 of the shape of x."""
        return torch.where(x >= 0, 1.0, -1.0).to(x)


class LastOutput(nn.Module):
    """What a recurrent module gives -> its output of the last step: (outputs [b, T, units], states) -> [b, units]."""

    def forward(self, found: tuple[Tensor, Any]) -> Tensor:
        """The last step."""
        return found[0][:, -1]


def row_reader(kind: str, *, size: int, units: int, classes: int) -> nn.Sequential:
    """LSTM or GRU over the rows of an image and a linear head on the last output: rows, recurrent, last, head."""
    recurrent = (nn.LSTM if kind == "lstm" else nn.GRU)(size, units, batch_first=True)
    return nn.Sequential(
        OrderedDict(rows=Rows(), recurrent=recurrent, last=LastOutput(), head=nn.Linear(units, classes))
    )


class Recurrent(nn.Module):
    """Embedding of words, LSTM or GRU, and a linear head on the mean over the words that are there (0 is padding).

    Args:
        kind: "lstm" or "gru".
        size: width of the embedding.
        units: hidden units.
        classes: outputs.
        vocabulary: number of words.
    """

    def __init__(self, kind: str, *, size: int, units: int, classes: int, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, size, padding_idx=0)
        self.recurrent = (nn.LSTM if kind == "lstm" else nn.GRU)(size, units, batch_first=True)
        self.head = nn.Linear(units, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [b, classes]; padding behind the longest text of the batch is cut off."""
        x = x[:, : max(1, int((x != 0).sum(1).max()))]
        outputs, _ = self.recurrent(self.embedding(x))
        here = (x != 0).to(outputs)[..., None]
        return self.head((outputs * here).sum(1) / here.sum(1).clamp_min(1))


class Attention(nn.Module):
    """One transformer encoder layer over image rows or words, mean pooling, linear head; no dropout."""

    def __init__(self, *, size: int, length: int, width: int, classes: int, vocabulary: int = 0) -> None:
        super().__init__()
        self.rows = Rows()
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=0) if vocabulary else nn.Linear(size, width)
        self.positions = nn.Parameter(0.02 * torch.randn(length, width))
        self.encoder = nn.TransformerEncoderLayer(
            width, nhead=4, dim_feedforward=2 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [b, classes]."""
        words = not x.is_floating_point()
        tokens = self.embedding(x if words else self.rows(x)) + self.positions
        encoded = self.encoder(tokens)
        if not words:
            return self.head(encoded.mean(1))
        here = (x != 0).to(encoded)[..., None]
        return self.head((encoded * here).sum(1) / here.sum(1).clamp_min(1))


class Spiking(nn.Module):
    """A spiking network of leaky integrate-and-fire layers (snntorch), the same image shown for T steps.

    The forward threshold is hard. The head integrates without spiking; logits are its mean membrane over the steps.

    Args:
        sizes: units of each layer, input and output included.
        steps: T.
        leak: membrane decay per step.
    """

    def __init__(self, sizes: tuple[int, ...], *, steps: int, leak: float) -> None:
        super().__init__()
        snntorch = require("snntorch", "spiking")
        self.steps = steps
        self.flatten = nn.Flatten()
        self.currents = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        self.neurons = nn.ModuleList(
            snntorch.Leaky(beta=leak, reset_mechanism="none" if last else "subtract")
            for last in (k == len(sizes) - 2 for k in range(len(sizes) - 1))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits [b, classes]."""
        x = self.flatten(x)
        membranes = [torch.zeros(1, device=x.device, dtype=x.dtype)] * len(self.neurons)
        total: Any = 0.0
        for _ in range(self.steps):
            signal = x
            for k, (current, neuron) in enumerate(zip(self.currents, self.neurons)):
                signal, membranes[k] = neuron(current(signal), membranes[k])
            total = total + membranes[-1]
        return total / self.steps


class Graph(nn.Module):
    """Two GCN layers (torch_geometric) on a fixed graph: [..., nodes, features] -> [..., nodes, classes]."""

    def __init__(self, features: int, hidden: int, classes: int, edge_index: Tensor, dropout: float) -> None:
        super().__init__()
        layers = require("torch_geometric.nn", "graph")
        self.register_buffer("edge_index", edge_index, persistent=False)
        self.dropout_in = nn.Dropout(dropout)
        self.first = layers.GCNConv(features, hidden)
        self.act = nn.ReLU()
        self.dropout = nn.Dropout(dropout)
        self.second = layers.GCNConv(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of every node."""
        hidden = self.act(self.first(self.dropout_in(x), self.edge_index))
        return self.second(self.dropout(hidden), self.edge_index)
