"""Whole channels: exact groups, ratios that are met, readable shortcuts, and libraries that take our parts."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

from onlyforward.core.errors import UsageError
from onlyforward.data.residual import cifar_resnet
from onlyforward.prune.connect import CoNNect
from onlyforward.prune.counting import cost, macs_at, places
from onlyforward.prune.integrations import ConnectImportance, ConnectPruner, ConnectUnstructured
from onlyforward.prune.peers import prune_with
from onlyforward.prune.recovery import recalibrate
from onlyforward.prune.shortcuts import replace_shortcuts
from onlyforward.prune.structured import narrowest, prune_structured, weight_scores

tp = pytest.importorskip("torch_pruning")


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 24, 3, padding=1, groups=2),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.Conv2d(24, 24, 3, padding=1, groups=24),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, 10),
    )


X = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
DATA = (torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(40) % 10)


def test_option_a_shortcuts_become_convolutions_with_the_same_bits():
    model = cifar_resnet(20).eval()
    replaced, found = replace_shortcuts(model, X)
    assert sorted(found) == ["layer2.0.shortcut", "layer3.0.shortcut"]
    y = torch.rand(5, 3, 8, 8)
    assert torch.equal(model(y), replaced(y))


@pytest.mark.parametrize("score", ["l2", "taylor", "connect", "share"])
def test_the_ratio_is_met_on_the_real_model_which_equals_the_masked_one(score):
    torch.manual_seed(0)
    model = cifar_resnet(20).eval()
    found = prune_structured(model, X, score=score, macs_ratio=2, steps=3, data=DATA, calibration=20)
    assert 2 <= cost(model, X).macs / cost(found.model, X).macs < 2.2
    assert found.macs_ratio == cost(model, X).macs / cost(found.model, X).macs
    y = torch.rand(4, 3, 8, 8)
    assert (found.masked(model, X)(y) - found.model(y)).abs().max() < 1e-5
    assert narrowest(found.model, X) >= 2


def test_grouped_and_depthwise_convolutions_lose_channels_of_all_groups_alike():
    found = prune_structured(net(), X, score="l2", parameters_ratio=1.5, steps=2)
    grouped = found.model[3]
    assert grouped.groups == 2
    assert grouped.out_channels % 2 == grouped.in_channels % 2 == 0
    assert found.parameters_ratio >= 1.5
    y = torch.rand(4, 3, 8, 8)
    assert (found.masked(net().eval(), X)(y) - found.model(y)).abs().max() < 1e-5


def test_widths_keep_their_multiple_and_ignored_layers_stay():
    found = prune_structured(cifar_resnet(20), X, score="l2", macs_ratio=1.5, steps=2, round_to=8, ignore=("layer3.*",))
    widths = [m.out_channels for m in found.model.modules() if isinstance(m, nn.Conv2d)]
    assert all(width % 8 == 0 for width in widths)
    assert found.model.layer3[0].conv1.out_channels == 64


def test_requests_that_cannot_be_met_are_sentences():
    with pytest.raises(UsageError, match="The largest is"):
        prune_structured(net(), X, score="l2", macs_ratio=1000.0, steps=2)
    with pytest.raises(UsageError, match="needs data"):
        prune_structured(net(), X, score="taylor", macs_ratio=2.0)
    with pytest.raises(UsageError, match="One ratio"):
        prune_structured(net(), X)


def test_auto_says_what_it_tried_and_keeps_the_best():
    found = prune_structured(net(), X, macs_ratio=1.5, steps=2, data=DATA)
    assert set(found.choices) == {"l2", "taylor", "connect"}
    assert found.choices[found.score] == max(found.choices.values())


def test_taylor_of_j_is_the_slope_of_finite_differences():
    model = net().double().eval()
    x, y = DATA[0].double(), DATA[1]
    scored = weight_scores("connect", model, X.double(), lambda: F.cross_entropy(model(x), y))
    weight = model[0].weight

    def j():
        with torch.no_grad():
            return float(F.cross_entropy(model(x), y) + 0.01 * CoNNect(model, X.double(), attention="qkv")())

    before = j()
    with torch.no_grad():
        weight[3, 1, 0, 2] += 1e-6
    slope = (j() - before) / 1e-6
    assert slope * float(weight[3, 1, 0, 2].detach()) == pytest.approx(float(scored["0.weight"][3, 1, 0, 2]), rel=1e-3)


def test_counts_of_operations_equal_those_of_torch_pruning_on_plain_layers():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, bias=False), nn.Flatten(), nn.Linear(72, 10, bias=False))
    macs, parameters = tp.utils.count_ops_and_params(model, X)
    mine = cost(model, X)
    assert (mine.macs, mine.parameters) == (macs, parameters)
    assert macs_at(model, places(model, X)) == mine.macs


def test_recalibrated_batch_norms_hold_the_statistics_of_the_data():
    model = nn.Sequential(nn.BatchNorm2d(3))
    recalibrate(model, DATA[0], batch=40)
    assert torch.allclose(model[0].running_mean, DATA[0].mean((0, 2, 3)), atol=1e-6)
    assert not model.training
    assert model[0].momentum == 0.1


def test_peers_reach_the_ratio_with_the_same_replaced_shortcuts():
    found = prune_with("tp-l2", cifar_resnet(20).eval(), X, 2.0, macs=True, data=None)
    assert 2 <= found.macs_ratio < 2.3
    assert found.model(X).shape == (1, 10)


@pytest.mark.parametrize("kind", ["BasePruner", "GroupNormPruner", "BNScalePruner", "GrowingRegPruner"])
def test_connect_importance_runs_in_torch_prunings_own_pruners(kind):
    model = nn.Sequential(*(m for k, m in enumerate(net()) if k not in (3, 4, 5, 6, 7)))
    model[-1] = nn.Linear(16, 10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pruner = getattr(tp.pruner, kind)(
            model,
            X,
            importance=ConnectImportance(model, X),
            iterative_steps=2,
            pruning_ratio=0.5,
            ignored_layers=[model[-1]],
        )
        before = ConnectImportance(model, X)(next(iter(pruner.DG.get_all_groups(ignored_layers=[model[-1]]))))
        for _ in range(2):
            pruner.step()
    assert before.mean() == pytest.approx(1.0)
    assert model[0].out_channels == 8
    assert model(X).shape == (1, 10)


def test_connect_pruner_adds_the_slope_of_r_and_goes_on_after_a_step():
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 3))
    x = torch.rand(1, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pruner = ConnectPruner(model, x, strength=0.5, pruning_ratio=0.5, ignored_layers=[model[4]])
        model(x).sum().backward()
        before = model[0].weight.grad.clone()
        pruner.regularize(model)
        slope = torch.autograd.grad(0.5 * CoNNect(model, x)(), model[0].weight)[0]
        assert torch.allclose(model[0].weight.grad - before, slope, atol=1e-7)
        pruner.step()
    pruner.update_regularizer()
    pruner.regularize(model)
    assert model[0].weight.grad.shape == (6, 6)


def test_connect_unstructured_is_a_method_of_torchs_pruning():
    model = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 3))
    x = torch.rand(2, 8)
    original = copy.deepcopy(model)
    ConnectUnstructured.global_unstructured(model, torch.rand(1, 8), 0.8, steps=5)
    assert {"weight_orig", "bias"} == {name for name, _ in model[0].named_parameters()}
    assert torch.equal(model[0].weight, original[0].weight * model[0].weight_mask)
    before = model(x)
    for layer in (model[0], model[2]):
        prune.remove(layer, "weight")
    assert torch.equal(model(x), before)
    assert sum(int((layer.weight != 0).sum()) for layer in (model[0], model[2])) == round(0.2 * 132)
