"""The normalised size against its formula, by numeric and automatic differentiation."""

import pytest
import torch

from onlyforward.prune.normal import Gain, Normal


def by_formula(weight, fan):
    """|W| / (fan mean |W|) of plain operations."""
    return weight.abs() / (fan * weight.abs().mean())


@pytest.mark.parametrize(("shape", "fan"), [((7,), 1.0), ((4, 6), 6.0), ((3, 2, 3, 3), 18.0), ((5, 4), 20.0)])
def test_values_and_gradients_equal_the_formula(shape, fan):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator, dtype=torch.float64)
    weight.flatten()[::3] = 0.0
    weight.requires_grad_()
    upstream = torch.randn(shape, generator=generator, dtype=torch.float64)
    ours, plain = Normal.apply(weight, fan), by_formula(weight, fan)
    assert torch.allclose(ours, plain, rtol=1e-14, atol=0)
    (a,) = torch.autograd.grad(ours, weight, upstream)
    (b,) = torch.autograd.grad(plain, weight, upstream)
    assert torch.allclose(a, b, rtol=1e-12, atol=1e-14)
    assert bool((a.flatten()[::3] == 0).all())


def test_first_and_second_derivatives_pass_the_numeric_check():
    weight = torch.randn(3, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda w: Normal.apply(w, 5.0), weight)
    assert torch.autograd.gradgradcheck(lambda w: Normal.apply(w, 5.0), weight)


def test_a_layer_of_zeros_stays_zero_with_gradient_zero():
    weight = torch.zeros(4, 3, requires_grad=True)
    theta = Normal.apply(weight, 3.0)
    theta.backward(torch.full((4, 3), 1e30))
    assert bool((theta == 0).all())
    assert bool((weight.grad == 0).all())


@pytest.mark.parametrize("shape", [(3, 4), (2, 4, 5), (1, 4, 3, 2)])
def test_the_gain_of_a_batch_norm_passes_the_numeric_check_twice(shape):
    generator = torch.Generator().manual_seed(2)
    x, gamma, root = (torch.rand(s, generator=generator, dtype=torch.float64) + 0.2 for s in (shape, (4,), (4,)))
    gamma[1] *= -1
    gain = gamma.abs() * root
    plain = x * (gain / gain.mean()).view(-1, *(1,) * (len(shape) - 2))
    assert torch.allclose(Gain.apply(x, gamma, root), plain, rtol=1e-14, atol=0)
    pair = (x.requires_grad_(), gamma.requires_grad_())
    assert torch.autograd.gradcheck(lambda a, b: Gain.apply(a, b, root), pair)
    assert torch.autograd.gradgradcheck(lambda a, b: Gain.apply(a, b, root), pair)
