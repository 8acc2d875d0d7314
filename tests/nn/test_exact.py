"""All Hadamard rows in mirrored pairs with a tiny sigma give autograd's gradient, whatever the module."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from onlyforward.data.modules import Spiking
from onlyforward.nn.engine import LikelihoodRatio


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x):
        return self.head(x + torch.tanh(self.b(torch.tanh(self.a(x)))))


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale, self.mix, self.shift = (nn.Parameter(torch.randn(s)) for s in ((4,), (4, 4), (4,)))

    def forward(self, x):
        return torch.tanh(x * self.scale) @ self.mix + self.shift


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.inner, self.out = nn.Embedding(7, 4), nn.Linear(4, 4), nn.Linear(4, 7, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, x):
        return self.out(torch.tanh(self.inner(torch.tanh(self.inner(self.embedding(x).mean(1))))))


class Steps(nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.rnn = kind(3, 4, batch_first=True, **options)
        self.head = nn.Linear(self.rnn.hidden_size * (2 if self.rnn.bidirectional else 1), 3)

    def forward(self, x):
        out, state = self.rnn(x)
        last = state[0] if isinstance(state, tuple) else state
        return self.head(out.mean(1)) + last.sum((0, 2))[:, None].sin()


class SelfAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        out, _ = self.attention(x, x, x, need_weights=False)
        return self.head((x + out).mean(1))


class Pooled(nn.Module):
    def forward(self, x):
        return x.mean(1)


class Positions(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.positions, self.head = nn.Linear(4, 4), nn.Parameter(torch.randn(3, 4)), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.inner(x) + self.positions).mean(1))


class Alone(nn.Module):
    """GCNConv on a graph whose nodes hear themselves only: data that do not interact, so exact mode is exact."""

    def __init__(self):
        super().__init__()
        conv = pytest.importorskip("torch_geometric.nn").GCNConv
        self.first, self.second = (conv(a, b, add_self_loops=False) for a, b in ((5, 4), (4, 3)))
        self.register_buffer("edges", torch.arange(4).repeat(2, 1))

    def forward(self, x):
        return self.second(torch.tanh(self.first(x, self.edges)), self.edges)


def conv(layer, channels=4):
    return nn.Sequential(layer, nn.Tanh(), nn.Flatten(1), nn.LazyLinear(3))


MODELS = {
    "linear": lambda: (nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)), (4, 6)),
    "conv1d stride 2": lambda: (conv(nn.Conv1d(2, 3, 3, stride=2, padding=1)), (4, 2, 7)),
    "conv2d stride 2": lambda: (conv(nn.Conv2d(2, 4, 3, stride=2)), (3, 2, 6, 6)),
    "conv2d dilation 2": lambda: (conv(nn.Conv2d(2, 3, 3, dilation=2, padding="same")), (3, 2, 5, 5)),
    "conv2d groups": lambda: (conv(nn.Conv2d(4, 4, 3, groups=2, bias=False)), (3, 4, 4, 4)),
    "conv2d circular": lambda: (conv(nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular")), (3, 2, 4, 4)),
    "conv3d": lambda: (conv(nn.Conv3d(1, 2, 2)), (2, 1, 3, 3, 3)),
    "layer norm": lambda: (nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 3)), (4, 4)),
    "group norm": lambda: (
        nn.Sequential(nn.Conv2d(1, 4, 2), nn.GroupNorm(2, 4), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3)),
        (3, 1, 3, 3),
    ),
    "batch norm in eval": lambda: (
        nn.Sequential(nn.Conv2d(1, 4, 2), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3)).eval(),
        (3, 1, 3, 3),
    ),
    "embedding": lambda: (nn.Sequential(nn.Embedding(9, 4, padding_idx=0), Pooled(), nn.Linear(4, 3)), "words"),
    "rnn": lambda: (Steps(nn.RNN), (3, 4, 3)),
    "lstm": lambda: (Steps(nn.LSTM), (3, 3, 3)),
    "gru": lambda: (Steps(nn.GRU), (3, 3, 3)),
    "lstm, 2 layers, both directions": lambda: (Steps(nn.LSTM, num_layers=2, bidirectional=True), (2, 3, 3)),
    "gru, 2 layers, both directions": lambda: (Steps(nn.GRU, num_layers=2, bidirectional=True), (2, 3, 3)),
    "attention": lambda: (SelfAttention(), (3, 4, 4)),
    "transformer": lambda: (
        nn.Sequential(nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True), Pooled(), nn.Linear(4, 3)),
        (3, 3, 4),
    ),
    "residual": lambda: (Residual(), (4, 5)),
    "tied": lambda: (Tied(), "words"),
    "own module": lambda: (nn.Sequential(nn.Linear(3, 4), Own(), nn.Tanh(), nn.Linear(4, 3)), (4, 3)),
    "leaky integrators": lambda: (Spiking((5, 3), steps=3, leak=0.9), (4, 5)),
    "graph convolution of nodes alone": lambda: (Alone(), (4, 5)),
    "loose parameter": lambda: (Positions(), (4, 3, 4)),
}


class Words(nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.embedding, self.rnn = nn.Embedding(9, 3, padding_idx=0), kind(3, 4, batch_first=True, **options)
        self.head = nn.Linear(self.rnn.hidden_size * (2 if self.rnn.bidirectional else 1), 3)

    def forward(self, x):
        return self.head(self.rnn(self.embedding(x))[0].mean(1))


def losses(output, target):
    return F.cross_entropy(output, target, reduction="none")


def prepared(name):
    torch.manual_seed(3)
    model, shape = MODELS[name]()
    x = torch.randint(0, 7, (4, 3)) if shape == "words" else torch.randn(shape, dtype=torch.float64)
    model = model.double()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        classes = model(x).shape[1]
    return model, x, torch.arange(len(x)) % classes


def gradients(model):
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    return found


@pytest.mark.parametrize("name", MODELS)
def test_exact_mode_equals_autograd(name):
    model, x, y = prepared(name)
    losses(model(x), y).mean().backward()
    truth = gradients(model)
    engine = LikelihoodRatio(model, copies=1024, sigma=1e-3, noise="hadamard", pairing="pairs")
    loss = engine.backward(losses, x, y)
    found = gradients(model)
    scale = max(float(t.abs().max()) for t in truth.values())
    for parameter, value in truth.items():
        assert (found[parameter] - value).abs().max() < 1e-4 * scale, parameter
    assert loss.item() == pytest.approx(losses(model(x), y).mean().item())


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}])
def test_words_learn_from_the_cotangents_of_the_steps_that_read_them(kind, options):
    """Noise at the gates alone: the embedding's gradient is sum_t delta_t W_x, and no backpropagation through time."""
    torch.manual_seed(3)
    model = Words(kind, **options).double()
    x, y = torch.randint(1, 9, (4, 3)), torch.tensor([0, 1, 2, 0])
    losses(model(x), y).mean().backward()
    truth = gradients(model)
    engine = LikelihoodRatio(model, plan={"embedding": "bp"}, copies=32, sigma=1e-4, noise="hadamard", pairing="pairs")
    engine.backward(losses, x, y)
    found = gradients(model)
    for parameter, value in truth.items():
        assert (found[parameter] - value).abs().max() < 1e-4 * float(value.abs().max()), parameter
    assert not any("embedding" in site for site in engine.memory)


@pytest.mark.parametrize("name", [name for name in MODELS if name != "leaky integrators"])
def test_the_fast_path_equals_the_reference(name):
    """Not with snntorch's spike, an autograd.Function that vmap refuses: those networks have the fast path alone."""
    model, x, y = prepared(name)
    twin = copy.deepcopy(model)
    for net, reference in ((model, False), (twin, True)):
        LikelihoodRatio(net, copies=6, sigma=0.3, noise="gaussian", reference=reference).backward(losses, x, y)
    for (parameter, fast), slow in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert torch.allclose(fast.grad, slow.grad, rtol=1e-6, atol=1e-9), parameter
