"""The measure against brute force, its laws, and what it must leave alone."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from onlyforward.core.errors import UsageError
from onlyforward.prune.connect import CoNNect, gradients, live_flags, probe, sizes
from onlyforward.prune.rules import register_rule
from onlyforward.prune.tropical import support


def chain(widths, seed):
    torch.manual_seed(seed)
    parts = []
    for a, b in itertools.pairwise(widths):
        parts += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*parts[:-1]).double()


def paths(model):
    """All paths of a chain of linear layers: (units, product of |W|)."""
    layers = [m.weight.detach().abs() for m in model if isinstance(m, nn.Linear)]
    for units in itertools.product(*(range(n) for n in [layers[0].shape[1], *(w.shape[0] for w in layers)])):
        product = 1.0
        for w, (i, j) in zip(layers, itertools.pairwise(units)):
            product *= float(w[j, i])
        yield units, product


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=2, max_size=5), st.integers(0, 999))
def test_phi_shares_and_best_paths_equal_an_enumeration_of_all_paths(widths, seed):
    model = chain(widths, seed)
    x = torch.ones(1, widths[0]).double()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(torch.rand_like(p) < 0.8)
    totals = [float(m.weight.detach().abs().sum()) for m in model if isinstance(m, nn.Linear)]
    found = list(paths(model))
    flow = sum(product for _, product in found)
    if flow == 0:
        return
    connect = CoNNect(model, x)
    assert connect.phi() == pytest.approx(flow / math.prod(totals), abs=1e-12)
    shares = list(connect.shares().values())
    live = list(live_flags(connect.probe, sizes(model))[0].values())
    best = list(support(probe(model, x), sizes(model)).values())
    for k, share in enumerate(shares):
        exact = torch.zeros_like(share)
        for units, product in found:
            exact[units[k + 1], units[k]] += product / flow
        assert (share - exact).abs().max() < 1e-12
        assert torch.equal(live[k], exact > 0)
    for output in range(widths[-1]):
        ending = [pair for pair in found if pair[0][-1] == output and pair[1] > 0]
        if ending:
            units, _ = max(ending, key=lambda pair: pair[1])
            assert all(best[k][units[k + 1], units[k]] for k in range(len(shares)))


def test_the_mean_normaliser_shifts_a_chain_by_its_widths_alone():
    model = chain([5, 7, 6, 3], 0)
    connect = CoNNect(model, torch.ones(1, 5))
    assert float(-connect().detach()) == pytest.approx(math.log(connect.phi()) + math.log(42), abs=1e-10)


def test_a_layers_scale_does_not_matter_and_its_gradient_is_orthogonal_to_it():
    model = chain([5, 7, 6, 3], 1)
    connect = CoNNect(model, torch.ones(1, 5))
    before = connect()
    before.backward()
    for layer in (model[0], model[2], model[4]):
        assert abs(float((layer.weight.detach() * layer.weight.grad).sum())) < 1e-12
    with torch.no_grad():
        model[2].weight.mul_(37.0)
    assert float(connect().detach()) == pytest.approx(float(before.detach()), abs=1e-12)


def test_the_gradient_is_path_share_minus_weight_share():
    model = chain([4, 5, 3], 2)
    connect = CoNNect(model, torch.ones(1, 4))
    connect().backward()
    for name, share in connect.shares().items():
        weight = dict(model.named_parameters())[name]
        theta = weight.abs() / weight.abs().sum()
        assert torch.allclose(-weight * weight.grad, (share - theta).to(weight), atol=1e-12)


def test_one_live_neuron_per_hidden_layer_gives_phi_one():
    model = chain([4, 5, 5, 3], 3)
    with torch.no_grad():
        model[0].weight[1:] = 0
        model[2].weight[:, 1:] = 0
        model[2].weight[:] = 0
        model[4].weight[:, :4] = 0
    assert CoNNect(model, torch.ones(1, 4)).phi() == 0.0
    with torch.no_grad():
        model[2].weight[4, 0] = 1.0
        model[4].weight[:, 4] = 1.0
    assert CoNNect(model, torch.ones(1, 4)).phi() == pytest.approx(1.0, abs=1e-12)


def test_the_baum_eagon_step_never_decreases_phi():
    model = chain([3, 4, 4, 2], 4)
    connect = CoNNect(model, torch.ones(1, 3))
    parameters = dict(model.named_parameters())
    last = connect.phi()
    for _ in range(30):
        for name in connect.shares():
            with torch.no_grad():
                parameters[name].copy_(connect.shares()[name])
            phi = connect.phi()
            assert phi >= last - 1e-12
            last = phi
    assert last > 0.999


def test_two_hundred_layers_stay_in_range_in_float32():
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(64, 64) for _ in range(200)))
    with torch.no_grad():
        for p in model.parameters():
            p.uniform_(0.5, 1.5)
    value = CoNNect(model, torch.ones(1, 64))()
    assert abs(float(value.detach())) < 1e-2
    value.backward()
    assert all(bool(layer.weight.grad.isfinite().all()) for layer in model)


def test_a_network_without_a_path_warns_and_has_gradient_zero():
    model = chain([3, 4, 2], 5)
    with torch.no_grad():
        model[2].weight.zero_()
    with pytest.warns(RuntimeWarning, match="no path"):
        value = CoNNect(model, torch.ones(1, 3))()
    value.backward()
    assert float(value.detach()) > 100
    assert float(model[0].weight.grad.abs().sum()) == 0.0


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(36, 2)
    )
    model.train()
    fired = []
    model[0].register_forward_hook(lambda *_: fired.append(1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    connect = CoNNect(model, torch.randn(1, 1, 5, 5, generator=torch.Generator().manual_seed(0)))
    first, second = connect(), connect()
    assert torch.equal(first, second)
    assert torch.equal(state, torch.get_rng_state())
    assert not fired
    assert all(module.training for module in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    model(torch.randn(2, 1, 5, 5))
    assert fired == [1]


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.shift = Shift()

    def forward(self, x):
        return self.shift(self.inner(x))


class Shift(nn.Module):
    def forward(self, x):
        return torch.digamma(x)


def test_an_unknown_operation_names_its_module_and_takes_a_rule():
    model = Odd()
    with pytest.raises(UsageError, match=r"'shift'.*'digamma'.*register_rule"):
        CoNNect(model, torch.ones(1, 3))()
    rules = register_rule("digamma", lambda call: call.mode.put(call.mode.get(call.args[0]).value * 1))
    assert math.isfinite(float(CoNNect(model, torch.ones(1, 3), rules=rules)().detach()))
    rules = register_rule(Shift, lambda flow, module, args, kwargs: args[0])
    assert math.isfinite(float(CoNNect(model, torch.ones(1, 3), rules=rules)().detach()))


def test_the_step_keeps_each_layers_norm_and_moves_weight_to_shared_paths():
    model = chain([6, 8, 8, 3], 6)
    connect = CoNNect(model, torch.ones(1, 6))
    norms = [float(m.weight.detach().abs().sum()) for m in model if isinstance(m, nn.Linear)]
    before = connect.phi()
    connect.step_(0.05)
    after = [float(m.weight.detach().abs().sum()) for m in model if isinstance(m, nn.Linear)]
    assert after == pytest.approx(norms, rel=1e-12)
    assert connect.phi() > before
    with pytest.raises(UsageError, match="destroys training"):
        connect.step_(0.1)


def test_shares_of_a_convolution_sum_to_one_and_can_be_summed_over_taps():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1, bias=False), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 2)
    )
    connect = CoNNect(model, torch.ones(1, 2, 4, 4))
    shares = connect.shares()
    assert all(float(share.sum()) == pytest.approx(1.0, abs=1e-12) for share in shares.values())
    assert connect.shares("channel")["0.weight"].shape == (3, 2)


def test_the_slope_is_that_of_finite_differences():
    model = chain([3, 4, 2], 7)
    how = probe(model, torch.ones(1, 3))
    weights = sizes(model)
    slopes, base = gradients(how, weights)
    weights["0.weight"][1, 2] += 1e-6
    assert (gradients(how, weights)[1] - base) / 1e-6 == pytest.approx(float(slopes["0.weight"][1, 2]), rel=1e-4)
