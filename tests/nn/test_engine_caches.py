import pytest
import torch
from torch import nn
from torch.nn import functional as F

from onlyforward.core.errors import UsageError
from onlyforward.nn.engine import LikelihoodRatio


def loss_fn(out, target):
    return F.cross_entropy(out, target, reduction="none")


def problem():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 3))
    return model, torch.randn(16, 6), torch.arange(16) % 3


def gradient(**settings):
    model, x, y = problem()
    engine = LikelihoodRatio(model, copies=32, sigma=0.1, noise="gaussian", **settings)
    engine.backward(loss_fn, x, y)
    return torch.cat([p.grad.flatten() for p in model.parameters()]), engine


@pytest.mark.parametrize("pairing", ["pairs", "single"])
@pytest.mark.parametrize(("cache", "tolerance"), [("full", 1e-5), ("bf16", 2e-2), ("none", 1e-5)])
def test_a_cache_gives_the_gradient_of_replayed_seeds(cache, tolerance, pairing):
    replayed, _ = gradient(pairing=pairing)
    found, engine = gradient(cache=cache, pairing=pairing)
    assert torch.allclose(found, replayed, atol=tolerance * float(replayed.abs().max()))
    directions = 16 if pairing == "pairs" else 32
    assert engine.kept.peak == engine.kept.predicted == {"full": 4, "bf16": 2, "none": 0}[cache] * directions * 160
    assert engine.kept.held == 0


def test_one_bit_points_where_the_whole_score_points():
    replayed, _ = gradient()
    found, engine = gradient(cache="sign")
    assert F.cosine_similarity(found[:70], replayed[:70], dim=0) > 0.6
    assert engine.kept.peak == 32 * 160 / 8


def test_a_one_pass_sum_refuses_a_baseline_that_is_known_only_afterwards():
    with pytest.raises(UsageError, match="one-pass"):
        gradient(cache="none", baseline="loo")


def levels_after(steps, **settings):
    model, x, y = problem()
    engine = LikelihoodRatio(model, copies=64, noise="gaussian", sigma_rate=0.05, **settings)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        engine.backward(loss_fn, x, y)
        optimizer.step()
    return engine


def test_loss_descent_shrinks_a_learned_level_the_floor_holds_and_the_state_comes_back():
    engine = levels_after(60, sigma=1.0, sigma_mode="loss")
    assert engine.levels.sigma["0"] < 0.9
    held = levels_after(60, sigma=1.0, sigma_mode="loss", sigma_floor=0.97)
    assert held.levels.sigma["0"] >= 0.97
    twin = LikelihoodRatio(problem()[0], sigma=1.0, sigma_mode="loss", noise="gaussian")
    twin.load_state(engine.state())
    assert twin.levels.sigma == engine.levels.sigma
    assert levels_after(3, sigma="snr").levels.mode == "snr"


def test_ascent_on_signal_to_noise_leaves_a_level_at_which_the_response_is_flat():
    engine = levels_after(60, sigma=8.0, sigma_mode="snr")
    assert engine.levels.sigma["0"] < 7.0
