import pytest
import torch
from torch import nn
from torch.nn import functional as F

from onlyforward.core.errors import UsageError
from onlyforward.core.memory import PeakMemory
from onlyforward.data.modules import row_reader
from onlyforward.nn.engine import LikelihoodRatio


def loss_fn(out, target):
    return F.cross_entropy(out, target, reduction="none")


def gradient(model, **settings):
    model.zero_grad()
    x = torch.randn(4, 1, 3, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    y = torch.arange(4)
    if settings:
        LikelihoodRatio(model, **settings).backward(loss_fn, x, y)
    else:
        loss_fn(model(x), y).mean().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_local_flow_is_the_full_flow_and_in_exact_mode_backpropagation_through_time(kind):
    torch.manual_seed(0)
    model = row_reader(kind, size=5, units=4, classes=4).double()
    settings = {"copies": 32, "sigma": 1e-3, "noise": "hadamard", "pairing": "pairs"}
    truth = gradient(model)
    local, full = (gradient(model, flow=flow, **settings) for flow in ("local", "full"))
    assert torch.allclose(local, full, atol=1e-10)
    assert torch.allclose(local, truth, atol=1e-4 * float(truth.abs().max()))


def test_a_network_that_reads_all_outputs_is_refused():
    class Mean(nn.Module):
        def forward(self, found):
            return found[0].mean(1)

    model = nn.Sequential(nn.LSTM(5, 4, batch_first=True), Mean(), nn.Linear(4, 3))
    with pytest.raises(UsageError, match="last recurrent output"):
        LikelihoodRatio(model, flow="local", copies=4).backward(loss_fn, torch.randn(2, 6, 5), torch.tensor([0, 1]))
    deep = nn.Sequential(nn.LSTM(5, 4, num_layers=2, batch_first=True), Mean(), nn.Linear(4, 3))
    with pytest.raises(UsageError, match="several layers"):
        LikelihoodRatio(deep, flow="local", copies=4).backward(loss_fn, torch.randn(2, 6, 5), torch.tensor([0, 1]))


def test_local_flow_keeps_as_much_for_many_time_steps_as_for_few():
    def peak(steps):
        model, x, y = (
            row_reader("lstm", size=8, units=16, classes=4),
            torch.randn(16, 1, steps, 8),
            torch.arange(16) % 4,
        )
        with PeakMemory() as watched:
            LikelihoodRatio(model, copies=2, flow="local").backward(loss_fn, x, y)
        return watched.peak

    peak(5)  # tables that are made once
    assert peak(40) < 1.01 * peak(10)
