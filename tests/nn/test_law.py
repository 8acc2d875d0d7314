"""The law cos^2 = 1 / (1 + r / kappa) against measurement, and the choices that rest on pilot runs."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from onlyforward.nn.advise import advise
from onlyforward.nn.engine import LikelihoodRatio
from onlyforward.nn.law import error_ratio, needed_directions, predicted_cosine


def losses(output, target):
    return F.cross_entropy(output, target, reduction="none")


def mlp():
    return nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 3))


def batch(shape=(6,), data=12):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(data, *shape, generator=generator), torch.arange(data) % 3


@pytest.mark.parametrize("copies", [8, 16, 32])
@pytest.mark.parametrize(("noise", "paired"), [("gaussian", False), ("hadamard", False), ("rademacher", True)])
def test_the_cosine_of_one_sites_gradient_follows_the_law(noise, paired, copies):
    """The law's cosine is a ratio of means over draws, against autograd's gradient of the first layer."""
    torch.manual_seed(0)
    model = mlp()
    x, y = batch()
    exact = torch.autograd.grad(losses(model(x), y).mean(), model[0].weight)[0]
    found = []
    for seed in range(40):
        engine = LikelihoodRatio(
            model, copies=copies, sigma=0.01, noise=noise, pairing="pairs" if paired else "single", seed=seed
        )
        model.zero_grad()
        engine.backward(losses, x, y)
        found.append(model[0].weight.grad.reshape(-1).clone())
    found = torch.stack(found)
    measured = float((found @ exact.reshape(-1)).mean() / (exact.norm() * found.square().sum(1).mean().sqrt()))
    directions = copies // 2 if paired else copies
    assert measured == pytest.approx(predicted_cosine(noise, 10, directions, kappa(model, x, y)), abs=0.06)


def kappa(model, x, y):
    """|sum_b g_b|^2 / sum_b |g_b|^2 of the first layer's weight, by autograd."""
    each = [
        torch.autograd.grad(losses(model(x[k : k + 1]), y[k : k + 1])[0], model[0].weight)[0] for k in range(len(x))
    ]
    return float(torch.stack(each).sum(0).square().sum() / torch.stack(each).square().sum())


def test_measured_kappa_is_the_one_of_autograd():
    torch.manual_seed(0)
    model = mlp()
    x, y = batch()
    engine = LikelihoodRatio(model, copies=16, noise="gaussian", sigma=0.01)
    with torch.no_grad():
        found = [LikelihoodRatio(model, noise="gaussian", sigma=0.01, seed=k).measured(losses, x, y) for k in range(12)]
    mean = sum(stats["0"]["kappa"] for stats in found) / len(found)
    assert mean == pytest.approx(kappa(model, x, y), rel=0.25)
    assert engine.steps == 0


def test_hadamard_rows_are_exact_when_all_have_run():
    assert error_ratio("hadamard", 64, 64) == 0.0
    assert error_ratio("hadamard", 63, 32) == pytest.approx(62 * 32 / (32 * 63))
    assert needed_directions("hadamard", 64, 1.0, 0.9999) <= 64


@pytest.mark.parametrize("noise", ["gaussian", "rademacher", "laplace", "hadamard"])
def test_needed_directions_reach_the_cosine_and_one_fewer_does_not(noise):
    for cosine in (0.5, 0.9):
        count = needed_directions(noise, 200, 3.0, cosine)
        assert predicted_cosine(noise, 200, count, 3.0) >= cosine - 1e-9
        assert predicted_cosine(noise, 200, count - 1, 3.0) < cosine


@pytest.mark.parametrize(("even", "paired"), [(False, False), (True, True)])
def test_pairs_are_chosen_where_the_even_part_outweighs_the_odd_part(even, paired):
    """At weights 0 the loss v^2 answers to noise evenly, the loss sum v oddly."""
    model = nn.Sequential(nn.Linear(3, 4))
    nn.init.zeros_(model[0].weight)
    nn.init.zeros_(model[0].bias)
    engine = LikelihoodRatio(model, copies=8, sigma=0.3, noise="gaussian", plan={"*": "lr"})

    def loss(output, target):
        return output.square().sum(1) if even else output.sum(1)

    engine.backward(loss, torch.randn(5, 3), torch.zeros(5))
    assert bool(engine.stats["0"]["paired"]) is paired


def test_advice_names_the_cost_and_when_to_backpropagate():
    torch.manual_seed(0)
    x, y = batch()
    found = advise(mlp(), losses, x, y, 0.9)
    assert [site.path for site in found.sites] == ["0", "2"]
    assert found.predicted_cosine >= 0.9 - 1e-6
    assert math.isnan(found.law_error)
    wide = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 64, 3))
    told = advise(wide, losses, *batch((1, 8, 8)), 0.95)
    assert "backpropagation unless" in told.sentence
    assert told.cost_over_bp > found.cost_over_bp
