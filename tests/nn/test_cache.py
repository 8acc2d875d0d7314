import math

import pytest
import torch

from onlyforward.core.directions import direction
from onlyforward.core.keys import Key
from onlyforward.nn.cache import CachedDirection, pack_signs, predicted_bytes, unpack_signs

KEY = Key(run=5, site="layer")
SHAPE = (7, 3, 5)
LIKE = torch.zeros(1)


@pytest.mark.parametrize("shape", [(4, 1), (3, 8), (2, 5, 7), (1, 17)])
def test_packed_signs_come_back_exactly(shape):
    x = torch.randn(shape, generator=KEY.generator())
    packed = pack_signs(x)
    assert packed.shape == (shape[0], math.ceil(math.prod(shape[1:]) / 8))
    assert torch.equal(unpack_signs(packed, shape[1:], x), torch.where(x >= 0, 1.0, -1.0))


def drawn(cache, noise="gaussian", copies=16, shape=SHAPE):
    cached = CachedDirection(direction(noise), cache)
    parts = [cached.draw(KEY, slice(a, a + copies // 2), shape, LIKE) for a in (0, copies // 2)]
    return cached, torch.cat(parts)


@pytest.mark.parametrize(("cache", "tolerance"), [("full", 1e-6), ("bf16", 2e-2)])
def test_a_stored_score_correlates_as_the_replayed_one(cache, tolerance):
    cached, noise = drawn(cache)
    weight = torch.randn(16, 7, generator=Key(run=1).generator())
    assert torch.equal(noise, direction("gaussian").draw(KEY, slice(0, 16), SHAPE, LIKE))
    replayed = direction("gaussian").correlate(weight, KEY, SHAPE, 0.5)
    assert torch.allclose(
        cached.correlate(weight, KEY, SHAPE, 0.5), replayed, atol=tolerance * float(replayed.abs().max())
    )


@pytest.mark.parametrize("cache", ["full", "bf16", "sign"])
def test_the_bytes_held_are_the_predicted_ones_and_are_given_back(cache):
    cached, _ = drawn(cache)
    kept = cached.ledger
    assert kept.held == kept.peak == predicted_bytes(cache, elements=math.prod(SHAPE), copies=16)
    cached.correlate(torch.ones(16, 7), KEY, SHAPE, 1.0)
    assert kept.held == 0


def test_one_bit_is_at_least_31_times_smaller_than_a_float_and_a_seed_is_nothing():
    sizes = {cache: predicted_bytes(cache, elements=64 * 64, copies=64) for cache in ("seed", "full", "sign", "none")}
    assert sizes["full"] / sizes["sign"] == 32
    assert sizes["seed"] == sizes["none"] == 0


def test_the_signs_of_gaussian_noise_keep_the_size_of_a_linear_gradient_and_lose_pi_over_two_in_copies():
    shape, d = (400, 15), 15
    slope = torch.randn(shape, generator=Key(run=2).generator())
    errors = {}
    for cache in ("full", "sign"):
        cached, noise = drawn(cache, copies=400, shape=shape)
        signal = (noise * slope).sum(2)
        found = cached.correlate(signal / 400, KEY, shape, 1.0)
        assert float((found * slope).sum() / slope.square().sum()) == pytest.approx(1, abs=0.02)
        errors[cache] = float((found - slope).square().mean())
    # Per element the variance is |g|^2 + g_i^2 with the score and pi/2 |g|^2 - g_i^2 with its sign.
    assert errors["sign"] / errors["full"] == pytest.approx((math.pi / 2 * d - 1) / (d + 1), rel=0.08)


def test_one_bit_of_laplace_noise_is_its_whole_score():
    cached, _ = drawn("sign", noise="laplace")
    weight = torch.randn(16, 7, generator=Key(run=1).generator())
    replayed = direction("laplace").correlate(weight, KEY, SHAPE, 0.5)
    assert torch.allclose(cached.correlate(weight, KEY, SHAPE, 0.5), replayed, atol=1e-5)
