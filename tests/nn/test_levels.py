import math

import pytest
import torch

from onlyforward.core.directions import direction
from onlyforward.core.errors import UsageError
from onlyforward.core.keys import Key
from onlyforward.nn.levels import Levels, level_slope, signal_to_noise, snr_slope

KEY = Key(run=1, site="level")


@pytest.mark.parametrize(("noise", "variance"), [("gaussian", 1.0), ("laplace", 2.0)])
def test_the_slope_of_a_quadratic_loss_in_log_sigma_is_its_closed_form(noise, variance):
    # E |v + sigma eps|^2 = |v|^2 + d sigma^2 Var eps, so the slope in log sigma is 2 d sigma^2 Var eps.
    kind, sigma, copies, shape = direction(noise), 0.7, 60_000, (1, 3)
    eps = kind.draw(KEY, slice(0, copies), shape, torch.zeros(1))
    loss = (0.3 + sigma * eps).square().sum(2)
    slope = level_slope(kind, (loss - loss.mean(0)) / copies, KEY, shape)
    assert slope == pytest.approx(2 * 3 * sigma**2 * variance, rel=0.05)


def test_directions_of_fixed_length_cannot_learn_a_level():
    with pytest.raises(UsageError, match="gaussian or laplace"):
        level_slope(direction("rademacher"), torch.ones(2, 1), KEY, (1, 4))


def test_loss_descent_shrinks_a_costly_level_and_the_floor_holds():
    levels = Levels({"a": 1.0, "b": 0.1}, mode="loss", rate=0.1, floor=0.3)
    assert levels.moved({"a": 2.0}).sigma["a"] == pytest.approx(math.exp(-0.1 * math.tanh(2)))
    for _ in range(50):
        levels = levels.moved({"a": 2.0, "b": 2.0})
    assert levels.sigma == {"a": 0.3, "b": 0.3}
    assert Levels({"a": 1.0}).moved({"a": 5.0}).sigma["a"] == 1.0
    assert levels.mean == pytest.approx(0.3)


def test_signal_to_noise_is_unbiased_for_a_known_mean_and_variance():
    generator = KEY.generator()
    mean = torch.full((1000,), 0.5)
    halves = [mean + torch.randn(1000, generator=generator) for _ in range(2)]
    # Each half has variance 1, their mean 1/2 per element: SNR = 0.25 / 0.5.
    assert signal_to_noise(*halves) == pytest.approx(0.5, rel=0.2)


def test_the_slope_of_the_ratio_points_to_the_level_where_it_is_largest():
    # delta = g + bias-free noise of size 1/sigma + sigma^2: the ratio is largest where 1/sigma + sigma^2 is least.
    noise = torch.randn(2, 4000, generator=KEY.generator())

    def measure(sigma):
        spread = 1 / sigma + sigma**2
        return 1 + spread * noise[0], 1 + spread * noise[1]

    assert snr_slope(measure, 0.2) > 0.5
    assert snr_slope(measure, 2.0) < -0.5
    assert abs(snr_slope(measure, 0.5 ** (1 / 3))) < 0.3
