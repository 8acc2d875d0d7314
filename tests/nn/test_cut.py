import pytest
import torch
from torch import nn

import onlyforward as of
from onlyforward.core.errors import UsageError
from onlyforward.core.keys import Key


def test_a_cut_smooth_function_has_its_own_gradient():
    z = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    mix = torch.randn(4, 2, dtype=torch.float64)
    up = torch.randn(3, 2, dtype=torch.float64)
    (torch.tanh(z) @ mix * up).sum().backward()
    truth, z.grad = z.grad, None
    for baseline in ("clean", "pairs"):
        out = of.cut(
            lambda v: torch.tanh(v) @ mix, z, copies=8, sigma=1e-5, noise="hadamard", baseline=baseline, key=Key()
        )
        (out * up).sum().backward()
        assert torch.allclose(z.grad, truth, atol=1e-4)
        z.grad = None


def test_the_gradient_of_a_cut_step_is_that_of_the_smoothed_step():
    """E[1{z + sigma eps > 0}] = Phi(z / sigma), whose slope at 0.3 is known."""
    z = torch.full((1, 1), 0.3, dtype=torch.float64, requires_grad=True)
    of.cut(lambda v: (v > 0).double()[:, 0], z, copies=200_000, sigma=0.5, key=Key(run=2)).sum().backward()
    exact = torch.distributions.Normal(0.0, 0.5).log_prob(torch.tensor(0.3)).exp().item()
    assert z.grad.item() == pytest.approx(exact, rel=0.02)


def test_autograd_upstream_goes_on_and_a_cut_may_be_used_twice():
    torch.manual_seed(0)
    layer, cut = nn.Linear(3, 3), of.Cut(torch.round, copies=64, sigma=0.3)
    x = torch.randn(5, 3)
    cut(cut(layer(x))).square().sum().backward()
    assert layer.weight.grad.abs().sum() > 0
    first = layer.weight.grad.clone()
    layer.zero_grad()
    cut(cut(layer(x))).square().sum().backward()
    assert not torch.equal(first, layer.weight.grad)


def test_no_grad_and_empty_batches_pass():
    with torch.no_grad():
        assert of.cut(torch.sign, torch.randn(2, 3)).shape == (2, 3)
    z = torch.zeros(0, 3, requires_grad=True)
    of.cut(torch.sign, z).sum().backward()
    assert z.grad.shape == (0, 3)


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"copies": 1}, "compared"), ({"sigma": 0.0}, "signal"), ({"noise": "gauss"}, "gaussian")],
)
def test_wrong_settings_are_named(options, reason):
    with pytest.raises(UsageError, match=reason):
        of.cut(torch.sign, torch.randn(2, 3), **options)


def test_outputs_without_rows_are_named():
    with pytest.raises(UsageError, match=r"Return \[b\]"):
        of.cut(torch.sum, torch.randn(2, 3))


def test_a_surrogate_takes_variance_away_and_leaves_the_mean():
    """A slope as control variate: even a wrong one leaves the mean alone, and a good one shrinks the spread."""
    z = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None].requires_grad_()
    exact = 2 + 0.2 * torch.distributions.Normal(0.0, 0.5).log_prob(z.detach()).exp()

    def draws(**settings):
        found = []
        for run in range(300):
            z.grad = None
            out = of.cut(lambda v: 2 * v + 0.1 * v.sign(), z, copies=16, sigma=0.5, key=Key(run=run), **settings)
            out.sum().backward()
            found.append(z.grad.clone())
        return torch.stack(found)

    plain, good, wrong = draws(), draws(surrogate=lambda v: 2 * v), draws(surrogate=lambda v: -v)
    for estimates in (plain, good, wrong):
        error = (estimates.mean(0) - exact).abs() / (estimates.std(0) / 300**0.5)
        assert error.max() < 4.5
    assert good.var(0).sum() < 0.1 * plain.var(0).sum()


def test_a_threshold_takes_the_mean_score_of_each_side():
    z = torch.tensor([[0.4, -0.7]], dtype=torch.float64, requires_grad=True)
    exact = torch.distributions.Normal(0.0, 0.5).log_prob(z.detach() - 0.2).exp()

    def draws(**settings):
        found = []
        for run in range(300):
            z.grad = None
            out = of.cut(lambda v: (v >= 0.2).double(), z, copies=16, sigma=0.5, key=Key(run=run), **settings)
            out.sum().backward()
            found.append(z.grad.clone())
        return torch.stack(found)

    plain, smooth = draws(), draws(threshold=0.2)
    assert ((smooth.mean(0) - exact).abs() < 4.5 * smooth.std(0) / 300**0.5).all()
    assert (smooth.var(0) < 0.9 * plain.var(0)).all()
    with pytest.raises(UsageError, match="gaussian"):
        of.cut(torch.sign, z, noise="laplace", threshold=0.2)
