import pytest
import torch
from torch import nn
from torch.nn import functional as F

from onlyforward.nn.credit import causal, reach
from onlyforward.nn.engine import LikelihoodRatio

PATH = torch.tensor([[0, 1, 1, 2, 2, 3], [1, 0, 2, 1, 3, 2]])


def test_a_message_on_a_path_reaches_its_neighbours_and_no_further():
    one = torch.zeros(4, 4)
    one[tuple(reach(PATH, 4, 1))] = 1
    assert torch.equal(one, torch.tensor([[1.0, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1]]))
    assert reach(PATH, 4, 0).tolist() == [[0, 1, 2, 3], [0, 1, 2, 3]]
    assert reach(PATH, 4, 2).shape[1] == 14


class Smooth(nn.Module):
    """Two message-passing layers with parameters of their own."""

    def __init__(self):
        super().__init__()
        layers = pytest.importorskip("torch_geometric.nn")
        self.first, self.second = layers.GCNConv(5, 4), layers.GCNConv(4, 3)
        self.edges = PATH

    def forward(self, x):
        return self.second(torch.tanh(self.first(x, self.edges)), self.edges)


def losses(output, target):
    return F.cross_entropy(output, target, reduction="none")


@pytest.mark.parametrize("credit", ["auto", "none"])
def test_graph_gradients_are_unbiased_and_credit_takes_variance_away(credit):
    torch.manual_seed(0)
    model, x, y = Smooth().double(), torch.randn(4, 5).double(), torch.tensor([0, 1, 2, 0])
    losses(model(x), y).mean().backward()
    truth = model.first.lin.weight.grad.clone()
    total, spread = torch.zeros_like(truth), 0.0
    engine = LikelihoodRatio(model, copies=64, sigma=1e-3, noise="gaussian", pairing="pairs", credit=credit)
    rounds = 60
    for _ in range(rounds):
        model.zero_grad()
        engine.backward(losses, x, y)
        total += model.first.lin.weight.grad / rounds
        spread += float((model.first.lin.weight.grad - truth).square().sum()) / rounds
    assert (total - truth).norm() < 4 * (spread / rounds) ** 0.5
    assert engine.stack


def test_causal_credit_has_less_error_than_none_and_both_are_right():
    torch.manual_seed(1)

    class Sequence(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.head = nn.LSTM(2, 3, batch_first=True), nn.Linear(3, 1)

        def forward(self, x):
            return self.head(self.rnn(x)[0])[..., 0]

    model, x, y = Sequence().double(), torch.randn(8, 5, 2).double(), torch.randn(8, 5).double()

    def step_losses(output, target):
        return (output - target).square()

    step_losses(model(x), y).sum(1).mean().backward()
    truth = {n: p.grad.clone() for n, p in model.named_parameters()}
    errors = {}
    for credit in ("causal", "none", causal(5)):
        errors[str(credit)[:6]] = 0.0
        engine = LikelihoodRatio(model, copies=32, sigma=1e-2, noise="gaussian", pairing="pairs", credit=credit)
        for _ in range(10):
            model.zero_grad()
            engine.backward(step_losses, x, y)
            errors[str(credit)[:6]] += sum(
                float((p.grad - truth[n]).square().sum()) for n, p in model.named_parameters()
            )
    assert errors["causal"] < 0.8 * errors["none"]
    assert errors["causal"] == errors["tensor"]
    model.zero_grad()
    exact = LikelihoodRatio(model, copies=32, sigma=1e-4, noise="hadamard", pairing="pairs", credit="causal")
    exact.backward(step_losses, x, y)
    for name, p in model.rnn.named_parameters():
        assert torch.allclose(p.grad, truth[f"rnn.{name}"], atol=1e-5), name
