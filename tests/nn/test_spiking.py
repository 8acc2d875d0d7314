"""Spiking units against sums over every pattern of spikes: no derivative of a spike is ever asked for."""

import itertools
import math

import pytest
import torch
from torch import nn

from onlyforward.core.directions import direction
from onlyforward.core.keys import Key
from onlyforward.nn.engine import LikelihoodRatio
from onlyforward.nn.levels import level_slope

snntorch = pytest.importorskip("snntorch")

UNITS, SIGMA = 3, 0.6


def losses_of(spikes, target):
    """Any function of the spikes: here the weighted count's squared distance to the target."""
    weights = torch.arange(1.0, UNITS + 1).to(spikes)
    return (spikes @ weights - target).square()


class Leaky(nn.Module):
    """One layer of leaky units, one step from rest: spikes are 1[W x + b >= 1]."""

    def __init__(self):
        super().__init__()
        self.current = nn.Linear(2, UNITS)
        self.neuron = snntorch.Leaky(beta=0.9, reset_mechanism="none")

    def forward(self, x):
        return self.neuron(self.current(x), torch.zeros(1))[0]


def expected_loss(model, x, target, sigma):
    """The mean over every pattern of spikes; each unit fires with Phi((u - 1) / sigma)."""
    fire = torch.special.ndtr((x @ model.current.weight.T + model.current.bias - 1) / sigma)
    total = 0.0
    for pattern in itertools.product((0.0, 1.0), repeat=UNITS):
        s = torch.tensor(pattern)
        chance = (s * fire + (1 - s) * (1 - fire)).prod(1)
        total = total + chance * losses_of(s.expand(len(x), UNITS), target)
    return total


@pytest.fixture
def problem():
    torch.manual_seed(3)
    model = Leaky()
    return model, torch.randn(4, 2), torch.tensor([1.0, 3.0, 0.0, 6.0])


def test_the_gradient_through_hard_thresholds_is_that_of_the_enumerated_mean(problem):
    model, x, target = problem
    expected_loss(model, x, target, SIGMA).mean().backward()
    truth = torch.cat([p.grad.flatten() for p in model.parameters()])
    model.zero_grad()
    engine = LikelihoodRatio(model, copies=50_000, sigma=SIGMA, noise="gaussian", plan={"current": "lr"})
    engine.backward(losses_of, x, target)
    found = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert torch.allclose(found, truth, atol=0.03 * float(truth.norm()))


def test_the_gradient_of_the_noise_level_is_that_of_the_enumerated_mean(problem):
    model, x, target = problem
    log_sigma = torch.tensor(math.log(SIGMA), requires_grad=True)
    expected_loss(model, x, target, log_sigma.exp()).mean().backward()
    copies, key, shape = 80_000, Key(site="spikes"), (4, UNITS)
    with torch.no_grad():
        noise = direction("gaussian").draw(key, slice(0, copies), shape, x)
        spikes = (model.current(x) + SIGMA * noise >= 1).float()
        losses = losses_of(spikes, target)
        weight = (losses - losses.mean(0)) / (copies * len(x))
    found = level_slope(direction("gaussian"), weight, key, shape)
    assert found == pytest.approx(float(log_sigma.grad), rel=0.1)


def neurons():
    spiking = {"reset_mechanism": "subtract"}
    return {
        "Leaky": snntorch.Leaky(beta=0.8, init_hidden=True, **spiking),
        "Synaptic": snntorch.Synaptic(alpha=0.7, beta=0.8, init_hidden=True, **spiking),
        "Alpha": snntorch.Alpha(alpha=0.8, beta=0.7, init_hidden=True, **spiking),
        "RLeaky": snntorch.RLeaky(beta=0.8, linear_features=6, init_hidden=True, **spiking),
    }


class Spiking(nn.Module):
    """Two steps of any snntorch neuron."""

    def __init__(self, neuron):
        super().__init__()
        self.current, self.neuron, self.head = nn.Linear(4, 6), neuron, nn.Linear(6, 3)

    def forward(self, x):
        self.neuron.reset_mem()
        return sum(self.head(self.neuron(3 * self.current(x))) for _ in range(2))


@pytest.mark.parametrize("kind", ["Leaky", "Synaptic", "Alpha", "RLeaky"])
def test_every_kind_of_neuron_learns_and_its_surrogate_is_never_called(kind, monkeypatch):
    torch.manual_seed(0)
    model = Spiking(neurons()[kind])
    x, y = torch.randn(32, 4), torch.arange(32) % 3

    def refuse(*_):
        raise AssertionError("a surrogate derivative was taken")

    monkeypatch.setattr(torch.autograd, "backward", refuse)

    def loss_fn(out, target):
        return nn.functional.cross_entropy(out, target, reduction="none")

    engine = LikelihoodRatio(model, copies=32, sigma=0.5)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    history = []
    for _ in range(25):
        optimizer.zero_grad()
        history.append(float(engine.backward(loss_fn, x, y)))
        optimizer.step()
    assert model.current.weight.grad is not None
    assert history[-1] < history[0] - 0.1
