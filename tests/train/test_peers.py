import pytest
import torch
from torch import nn
from torch.nn import functional as F

from onlyforward.core.errors import UsageError
from onlyforward.train.peers import Backprop, EvoTorch, FeedbackAlignment, TorchZero


def loss_fn(out, target):
    return F.cross_entropy(out, target, reduction="none")


@pytest.fixture
def problem():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    return model, torch.randn(16, 4), torch.arange(16) % 3


def flat(model):
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def exact(model, x, y):
    for p in model.parameters():
        p.grad = None
    loss_fn(model(x), y).mean().backward()
    found = flat(model).clone()
    for p in model.parameters():
        p.grad = None
    return found


def cosine(a, b):
    return float(F.cosine_similarity(a, b, dim=0))


def test_backpropagation_is_autograd_and_its_noise_averages_out(problem):
    model, x, y = problem
    truth = exact(model, x, y)
    engine = Backprop(model)
    assert float(engine.backward(loss_fn, x, y)) == pytest.approx(loss_fn(model(x), y).mean().item(), rel=1e-6)
    assert torch.allclose(flat(model), truth)
    model.zero_grad()
    noisy = Backprop(model, sigma=0.1, seed=3)
    for _ in range(200):
        noisy.backward(loss_fn, x, y)
    assert cosine(flat(model), truth) > 0.999
    assert not torch.allclose(flat(model) / 200, truth, rtol=1e-6)


@pytest.mark.parametrize(("peer", "copies"), [(TorchZero, 400), (EvoTorch, 2000)])
def test_a_library_peer_estimates_the_gradient_in_size_and_direction_and_leaves_the_weights(peer, copies, problem):
    pytest.importorskip("torchzero" if peer is TorchZero else "evotorch")
    model, x, y = problem
    truth = exact(model, x, y)
    before = [p.clone() for p in model.parameters()]
    engine = peer(model, copies=copies, sigma=0.01)
    engine.backward(loss_fn, x, y)
    assert cosine(flat(model), truth) > 0.8
    assert float(flat(model) @ truth / truth.square().sum()) == pytest.approx(1, abs=0.4)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))
    assert engine.runs >= copies * 16
    first = flat(model).clone()
    model.zero_grad()
    peer(model, copies=copies, sigma=0.01).backward(loss_fn, x, y)
    assert torch.equal(flat(model), first)


def test_feedback_alignment_is_exact_at_the_head_and_a_fixed_random_projection_below(problem):
    model, x, y = problem
    truth = exact(model, x, y)
    engine = FeedbackAlignment(model)
    engine.backward(loss_fn, x, y)
    found = flat(model)
    assert torch.allclose(found[-21:], truth[-21:], atol=1e-7)
    assert not torch.allclose(found[:-21], truth[:-21], atol=1e-4)
    hidden = model[2](model[1](x))
    error = (model[3](hidden).softmax(1) - F.one_hot(y, 3)) / 16
    expected = ((error @ engine.feedback[0]) * (1 - hidden**2)).T @ x
    assert torch.allclose(model[1].weight.grad, expected, atol=1e-6)
    with pytest.raises(UsageError, match="Sequential"):
        FeedbackAlignment(nn.Linear(2, 2))
