import pytest
import torch

from onlyforward.core import Key
from onlyforward.core.directions import KINDS, direction, hadamard_matrix, walsh_hadamard
from onlyforward.core.errors import UsageError

LIKE = torch.zeros(1, dtype=torch.float64)


@pytest.mark.parametrize("kind", KINDS)
def test_any_slice_of_copies_has_the_bits_of_the_whole(kind):
    whole = direction(kind).draw(Key(site="s"), slice(0, 40), (3, 5), LIKE)
    assert torch.equal(whole[9:31], direction(kind).draw(Key(site="s"), slice(9, 31), (3, 5), LIKE))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [5, 600])
def test_correlate_is_the_weighted_sum_of_scores(kind, size):
    copies = 24
    weight = torch.randn(copies, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    noise = direction(kind).draw(Key(), slice(0, copies), (3, size), LIKE)
    explicit = torch.einsum("nb,nbd->bd", weight, direction(kind).score(noise, 0.3))
    assert torch.allclose(direction(kind).correlate(weight, Key(), (3, size), 0.3), explicit, atol=1e-9)


@pytest.mark.parametrize("kind", ["gaussian", "rademacher", "hadamard", "sobol"])
def test_directions_have_unit_second_moments(kind):
    noise = direction(kind).draw(Key(), slice(0, 4096), (1, 4), LIKE)[:, 0]
    assert torch.allclose(noise.T @ noise / 4096, torch.eye(4, dtype=torch.float64), atol=0.08)


def test_laplace_noise_has_unit_scale():
    noise = direction("laplace").draw(Key(), slice(0, 20000), (1, 1), LIKE)
    assert float(noise.abs().mean()) == pytest.approx(1.0, abs=0.03)
    assert float((noise * direction("laplace").score(noise, 1.0)).mean()) == pytest.approx(1.0, abs=0.03)


def test_hadamard_columns_are_orthogonal_and_the_fast_transform_agrees():
    matrix = hadamard_matrix(64)
    assert torch.equal(matrix.T @ matrix, 64 * torch.eye(64))
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(walsh_hadamard(x), x @ matrix, atol=1e-4)
    noise = direction("hadamard").draw(Key(), slice(0, 8), (2, 7), LIKE)
    for datum in range(2):
        assert torch.allclose(noise[:, datum].T @ noise[:, datum], 8 * torch.eye(7, dtype=torch.float64))


def test_sobol_points_are_shifted_for_every_datum_and_finite():
    noise = direction("sobol").draw(Key(), slice(0, 256), (4, 3), LIKE)
    assert bool(noise.isfinite().all())
    assert not torch.equal(noise[:, 0], noise[:, 1])
    with pytest.raises(UsageError, match="21,201"):
        direction("sobol").draw(Key(), slice(0, 2), (1, 30000), LIKE)
