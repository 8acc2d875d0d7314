import pytest
import torch
from torch import nn
from torch.nn import functional as F

from onlyforward.nn.engine import LikelihoodRatio


def loss_fn(out, target):
    return F.cross_entropy(out, target, reduction="none")


@pytest.mark.parametrize(
    ("noise", "copies", "cache"), [("hadamard", 32, "seed"), ("gaussian", 1024, "seed"), ("gaussian", 1024, "full")]
)
def test_a_network_in_half_precision_keeps_the_gradient_that_its_noise_shows(noise, copies, cache):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))
    x, y = torch.randn(32, 6), torch.arange(32) % 3
    loss_fn(model(x), y).mean().backward()
    truth = model[0].weight.grad.flatten()
    model.zero_grad()
    model.to(torch.bfloat16)
    LikelihoodRatio(model, copies=copies, sigma=0.2, noise=noise, pairing="pairs", cache=cache).backward(
        loss_fn, x.bfloat16(), y
    )
    found = model[0].weight.grad
    assert found.dtype == torch.bfloat16
    assert F.cosine_similarity(found.float().flatten(), truth, dim=0) > 0.95
    assert float(found.float().flatten() @ truth / truth.square().sum()) == pytest.approx(1, abs=0.1)
