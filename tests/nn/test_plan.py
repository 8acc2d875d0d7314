import pytest
import torch
from torch import nn
from torch.nn import functional as F

from onlyforward.core.errors import UsageError
from onlyforward.nn.engine import LikelihoodRatio


def losses(output, target):
    return F.cross_entropy(output, target, reduction="none")


def network():
    torch.manual_seed(0)
    parts = [nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 4), nn.Tanh()]
    return nn.Sequential(*parts, nn.Linear(4, 3)).double()


class Skip(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        h = torch.tanh(self.a(x))
        h = h + torch.tanh(self.b(h))
        return self.d(h + torch.tanh(self.c(h)))


@pytest.mark.parametrize(
    ("make", "plan"),
    [
        (network, {"0": "bp"}),
        (network, {"5": "bp", "7": "bp"}),
        (network, {"*": "bp", "2": "lr"}),
        (network, {"3": "channel"}),
        (network, {"2": "weights"}),
        (network, {"5": "exact", "7": "bp"}),
        (Skip, {"a": "bp"}),
        (Skip, {"a": "bp", "c": "bp"}),
        (Skip, {"b": "bp", "d": "bp"}),
        (Skip, {"b": "weights"}),
    ],
)
def test_hybrid_plans_in_exact_mode_equal_autograd(make, plan):
    model = make().double()
    x, y = torch.randn(4, 5).double(), torch.tensor([0, 1, 2, 0])
    losses(model(x), y).mean().backward()
    truth = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    LikelihoodRatio(model, plan=plan, copies=512, sigma=1e-3, noise="hadamard", pairing="pairs").backward(losses, x, y)
    for name, p in model.named_parameters():
        assert torch.allclose(p.grad, truth[name], atol=1e-5), name


def test_a_hard_sign_in_the_middle_passes_delta_to_backpropagation_upstream():
    class Sign(nn.Module):
        def forward(self, x):
            return torch.where(x >= 0, 1.0, -1.0).to(x)

    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4), Sign(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)
    )
    engine = LikelihoodRatio(model, plan={"0": "bp", "4": "bp", "6": "bp"}, copies=64)
    engine.backward(losses, torch.randn(8, 5), torch.arange(8) % 3)
    assert all(float(p.grad.abs().sum()) > 0 for p in model.parameters())
    assert engine.memory["2"].noise == "gaussian"


def test_frozen_modules_get_no_gradient_and_wrong_plans_are_named():
    model = network()
    LikelihoodRatio(model, plan={"*": "frozen", "7": "exact"}).backward(
        losses, torch.randn(4, 5).double(), torch.arange(4) % 3
    )
    assert {name for name, p in model.named_parameters() if p.grad is not None} == {"7.weight", "7.bias"}
    with pytest.raises(UsageError, match="matches no module"):
        LikelihoodRatio(model, plan={"encoder.*": "bp"})
    with pytest.raises(UsageError, match="nearest names are"):
        LikelihoodRatio(model, plan={"0": "backprop"})
    with pytest.raises(UsageError, match="no scale and shift"):
        LikelihoodRatio(model, plan={"0": "channel"}).backward(losses, torch.randn(4, 5).double(), torch.arange(4) % 3)


def test_batch_norm_in_training_mode_is_refused_with_the_reason():
    model = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
    with pytest.raises(UsageError, match="depends on the whole batch"):
        LikelihoodRatio(model).backward(losses, torch.randn(4, 5), torch.arange(4) % 3)


def test_a_loss_that_is_one_number_is_refused_with_the_remedy():
    model = network()
    with pytest.raises(UsageError, match="reduction"):
        LikelihoodRatio(model).backward(F.cross_entropy, torch.randn(4, 5).double(), torch.arange(4) % 3)


def test_no_backward_call_happens_but_for_the_slope_of_the_loss(monkeypatch):
    model = network().float()
    calls = []
    real = torch.autograd.grad
    monkeypatch.setattr(
        torch.autograd, "grad", lambda out, *rest, **named: calls.append(out) or real(out, *rest, **named)
    )
    monkeypatch.setattr(torch.Tensor, "backward", lambda *_: pytest.fail("backward was called"))
    LikelihoodRatio(model).backward(losses, torch.randn(4, 5), torch.arange(4) % 3)
    assert len(calls) == 1


def test_dropout_is_the_same_for_all_copies_and_modes_and_buffers_stay():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 40), nn.Dropout(0.5), nn.Linear(40, 3)).double()
    x, y = torch.randn(4, 5).double(), torch.arange(4) % 3
    grads = []
    for noise in ("hadamard", "rademacher"):
        model.zero_grad()
        engine = LikelihoodRatio(
            model, copies=128 if noise == "hadamard" else 60_000, sigma=1e-3, noise=noise, pairing="pairs"
        )
        engine.backward(losses, x, y)
        grads.append(model[0].weight.grad.clone())
    assert (grads[0] - grads[1]).norm() < 0.05 * grads[0].norm()
    assert model.training
    assert "forward" not in model[1].__dict__
