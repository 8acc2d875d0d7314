import pytest
import torch

from onlyforward.core.errors import UsageError
from onlyforward.core.keys import Key
from onlyforward.data.corruptions import SEVERITIES, apply, blur, corrupt, rotate

KEY = Key(run=3, site="corruption")


@pytest.mark.parametrize("kind", SEVERITIES)
def test_a_corruption_grows_with_severity_and_keeps_shape_and_range(kind):
    x = torch.rand(4, 3, 16, 16, generator=KEY.generator())
    shifts = [float((corrupt(x, kind, severity, key=KEY) - x).square().mean()) for severity in (1, 3, 5)]
    assert 0 < shifts[0] < shifts[1] < shifts[2]
    made = corrupt(x, kind, 5, key=KEY)
    assert made.shape == x.shape
    assert float(made.min()) >= 0
    assert float(made.max()) <= 1
    assert torch.equal(made, corrupt(x, kind, 5, key=KEY))


def test_gaussian_noise_has_the_stated_standard_deviation():
    x = torch.full((50, 1, 28, 28), 0.5)
    assert float((apply(x, "gaussian", 0.1, key=KEY) - x).std()) == pytest.approx(0.1, rel=0.02)


def test_contrast_keeps_the_mean_of_an_image_and_scales_the_rest():
    x = torch.rand(2, 1, 8, 8)
    made = apply(x, "contrast", 0.5, key=KEY)
    assert torch.allclose(made.mean((1, 2, 3)), x.mean((1, 2, 3)), atol=1e-6)
    assert float(made.std() / x.std()) < 0.8


def test_blur_keeps_a_flat_image_and_spreads_a_point_by_its_width():
    assert torch.allclose(blur(torch.full((1, 3, 9, 9), 0.3), 1.0), torch.full((1, 3, 9, 9), 0.3), atol=1e-6)
    point = torch.zeros(1, 1, 21, 21)
    point[0, 0, 10, 10] = 1
    made = blur(point, 1.5)[0, 0]
    offsets = torch.arange(-10.0, 11.0)
    assert float(made.sum()) == pytest.approx(1, abs=1e-5)
    assert float((made.sum(0) * offsets**2).sum()) == pytest.approx(1.5**2, rel=0.03)


def test_a_quarter_turn_counter_clockwise_is_the_exact_one_and_angles_may_differ_by_image():
    x = torch.rand(2, 1, 8, 8)
    assert torch.allclose(rotate(x, 90.0), torch.rot90(x, 1, (2, 3)), atol=1e-5)
    both = rotate(x, torch.tensor([0.0, 90.0]))
    assert torch.allclose(both[0], x[0], atol=1e-5)
    assert torch.allclose(both[1], torch.rot90(x[1], 1, (1, 2)), atol=1e-5)


def test_unknown_kinds_and_severities_are_refused():
    x = torch.rand(1, 1, 8, 8)
    with pytest.raises(UsageError, match="gaussian"):
        corrupt(x, "gausian", 1, key=KEY)
    with pytest.raises(UsageError, match="severity"):
        corrupt(x, "blur", 6, key=KEY)
