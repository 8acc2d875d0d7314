import pytest
import torch
from torch import nn
from torch.nn import functional as F

from onlyforward.core.errors import UsageError
from onlyforward.nn.engine import LikelihoodRatio
from onlyforward.nn.lag import Lagged


def loss_fn(out, target):
    return F.cross_entropy(out, target, reduction="none")


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))


def batches():
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(12, 5, generator=generator), torch.arange(12) % 3) for _ in range(6)]


def run_lagged(model, engine, rate=0.5, data=None):
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    for x, y in data or batches():
        optimizer.zero_grad()
        engine.backward(loss_fn, x, y)
        optimizer.step()
    return [p.detach().clone() for p in model.parameters()]


def test_a_lag_of_one_is_the_hand_written_delayed_loop():
    model = net()
    found = run_lagged(model, Lagged(LikelihoodRatio(model, copies=8)))
    twin = net()
    engine = LikelihoodRatio(twin, copies=8)
    waiting = None
    for x, y in batches():
        twin.zero_grad()
        engine.backward(loss_fn, x, y)
        now = [p.grad.clone() for p in twin.parameters()]
        if waiting is not None:
            with torch.no_grad():
                for p, g in zip(twin.parameters(), waiting):
                    p -= 0.5 * g
        waiting = now
    for a, b in zip(found, twin.parameters()):
        assert torch.equal(a, b)


def test_the_first_call_delivers_nothing_and_a_saved_gradient_is_delivered_after_loading():
    model = net()
    engine = Lagged(LikelihoodRatio(model, copies=8))
    x, y = batches()[0]
    engine.backward(loss_fn, x, y)
    assert all(p.grad is None for p in model.parameters())
    whole = net()
    expected = run_lagged(whole, Lagged(LikelihoodRatio(whole, copies=8)))
    first = net()
    half = Lagged(LikelihoodRatio(first, copies=8))
    run_lagged(first, half, data=batches()[:3])
    second = net()
    second.load_state_dict(first.state_dict())
    rest = Lagged(LikelihoodRatio(second, copies=8))
    rest.load_state(half.state())
    for a, b in zip(run_lagged(second, rest, data=batches()[3:]), expected):
        assert torch.equal(a, b)


def test_a_module_without_a_closed_form_is_refused():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(5))

        def forward(self, x):
            return x * self.w

    model = nn.Sequential(Own(), nn.Linear(5, 3))
    with pytest.raises(UsageError, match="closed-form"):
        Lagged(LikelihoodRatio(model, copies=4)).backward(loss_fn, *batches()[0])
