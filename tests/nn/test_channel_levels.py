import pytest
import torch
from torch import nn
from torch.nn import functional as F

from onlyforward.core.directions import direction
from onlyforward.core.errors import UsageError
from onlyforward.core.keys import Key
from onlyforward.nn.engine import LikelihoodRatio
from onlyforward.nn.levels import Levels, level_name, level_slope

KEY = Key(run=1, site="level")


def loss_fn(out, target):
    return F.cross_entropy(out, target, reduction="none")


def test_every_channel_has_the_closed_form_slope_of_its_own_level():
    # E sum_j c_j (sigma eps_j)^2 over positions p: the slope in log sigma_j is 2 c_j sigma^2 p.
    sigma, copies, shape = 0.7, 15_000, (1, 3, 2)
    cost = torch.tensor([0.5, 1.0, 3.0])[:, None]
    eps = direction("gaussian").draw(KEY, slice(0, copies), shape, torch.zeros(1))
    loss = (cost * (sigma * eps).square()).sum((2, 3))
    slopes = level_slope(direction("gaussian"), (loss - loss.mean(0)) / copies, KEY, shape, axis=-2)
    assert slopes == pytest.approx((2 * cost.flatten() * sigma**2 * 2).tolist(), rel=0.25)
    assert sum(slopes) == pytest.approx(2 * 4.5 * sigma**2 * 2, rel=0.1)
    alone = level_slope(direction("gaussian"), (loss - loss.mean(0)) / copies, KEY, shape)
    assert alone == pytest.approx(sum(slopes), rel=1e-3)


@pytest.mark.parametrize(("shape", "axis"), [((5, 4), -1), ((5, 4, 3), -1), ((5, 4, 3, 3), -3)])
def test_slopes_of_channels_add_up_to_the_slope_of_the_site(shape, axis):
    weight = torch.randn(6, 5, generator=KEY.generator())
    slopes = level_slope(direction("laplace"), weight, KEY, shape, axis=axis)
    assert len(slopes) == shape[axis]
    assert sum(slopes) == pytest.approx(level_slope(direction("laplace"), weight, KEY, shape), rel=1e-4)


def trained(model, x, steps=40, **settings):
    engine = LikelihoodRatio(model, copies=64, noise="gaussian", sigma=1.0, sigma_mode="loss", **settings)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        engine.backward(loss_fn, x, torch.arange(len(x)) % 3)
        optimizer.step()
    return engine


def test_a_channel_that_the_loss_never_sees_keeps_its_level_and_the_state_comes_back():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3))
    with torch.no_grad():
        model[3].weight *= 4
        model[3].weight[:, :4] = 0
    model[3].weight.requires_grad_(False)
    x = torch.randn(12, 1, 4, 4)
    engine = trained(model, x, sigma_per="channel")
    blind, *seen = engine.levels.sigma["0"]
    assert blind == pytest.approx(1, abs=0.05)  # by chance alone
    assert len(seen) == 3
    assert all(level < 0.95 for level in seen)
    assert min(seen) < max(seen)
    twin = LikelihoodRatio(model, noise="gaussian", sigma=1.0, sigma_mode="loss", sigma_per="channel")
    twin.load_state(engine.state())
    assert twin.levels == engine.levels
    floored = trained(model, x, sigma_per="channel", sigma_floor=0.9)
    assert all(level >= 0.9 for level in floored.levels.sigma["0"])


def test_calls_and_time_steps_of_a_module_share_one_level():
    assert level_name("currents.0#5") == "currents.0"
    assert level_name("recurrent_l0@7") == "recurrent_l0"
    torch.manual_seed(0)

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.head = nn.Linear(5, 5), nn.Linear(5, 3)

        def forward(self, x):
            return self.head(torch.tanh(self.inner(torch.tanh(self.inner(x)))))

    model = Twice()
    with torch.no_grad():
        model.head.weight *= 5
    engine = trained(model, torch.randn(12, 5), steps=20)
    assert set(engine.levels.sigma) == {"inner"}
    assert engine.levels.sigma["inner"] < 0.95


def test_a_signal_to_noise_ratio_is_not_measured_per_channel():
    with pytest.raises(UsageError, match="per site"):
        Levels(mode="snr", per="channel")
