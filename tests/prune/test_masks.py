"""Safe masks: exact counts, every output reachable, every kept weight on a path."""

import itertools

import pytest
import torch
from torch import nn

from onlyforward.core.errors import Diverged, UsageError
from onlyforward.data.residual import cifar_resnet, vgg8
from onlyforward.prune import scores
from onlyforward.prune.inspection import inspect
from onlyforward.prune.masks import minimum_weights, plain_masks, safe_masks


def dense(seed=0, widths=(16, 20, 20, 20, 5)):
    torch.manual_seed(seed)
    parts = []
    for a, b in itertools.pairwise(widths):
        parts += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


NETS = {
    "mlp": (dense, (1, 16)),
    "resnet20": (lambda: cifar_resnet(20), (1, 3, 8, 8)),
    "vgg8": (lambda: vgg8(3, 10), (1, 3, 8, 8)),
}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("scope", ["global", "layer", "erk"])
@pytest.mark.parametrize("sparsity", [0.5, 0.98])
def test_masks_have_the_exact_count_and_no_dead_weight_or_output(name, scope, sparsity):
    make, shape = NETS[name]
    torch.manual_seed(1)
    model, x = make(), torch.ones(shape)
    masks = safe_masks(model, x, sparsity, scope=scope, steps=10)
    report = inspect(model, x, masks)
    assert report.nonzero == round((1 - sparsity) * report.weights)
    assert report.dead_outputs == 0
    assert report.live >= 0.98 * report.nonzero
    if scope == "global":
        assert report.live == report.nonzero


def test_the_largest_sparsity_is_named_and_reachable():
    model, x = dense(), torch.ones(1, 16)
    least = minimum_weights(model, x)
    assert least == 5 + 3
    total = 16 * 20 + 2 * 400 + 100
    with pytest.raises(UsageError, match=f"At least {least} of {total} weights must stay for the 5 outputs"):
        safe_masks(model, x, 1 - 4 / total)
    masks = safe_masks(model, x, 1 - least / total, steps=5)
    report = inspect(model, x, masks)
    assert (report.nonzero, report.live, report.dead_outputs) == (least, least, 0)


def test_ignored_layers_stay_whole_and_earlier_masks_stay():
    model, x = dense(), torch.ones(1, 16)
    first = safe_masks(model, x, 0.8, ignore=("0.*",), steps=5)
    assert "0.weight" not in first
    second = safe_masks(model, x, 0.9, start=first, ignore=("0.*",), steps=5)
    assert all(not bool((second[name] & ~first[name]).any()) for name in second)


def test_n_of_m_patterns_hold_in_every_group():
    model, x = dense(), torch.ones(1, 16)
    masks = safe_masks(model, x, 0.5, n_m=(2, 4))
    for mask in masks.values():
        assert bool((mask.view(-1, 4).sum(1) == 2).all())
    assert inspect(model, x, masks).dead_outputs == 0


def test_bad_requests_are_sentences():
    model, x = dense(), torch.ones(1, 16)
    with pytest.raises(UsageError, match="pattern 4:2 keeps no part of a group"):
        safe_masks(model, x, 0.5, n_m=(4, 2))
    with pytest.raises(UsageError, match="sparsity is 1"):
        safe_masks(model, x, 1.0)
    with torch.no_grad():
        model[2].weight[0, 0] = float("nan")
    with pytest.raises(Diverged, match=r"2\.weight"):
        safe_masks(model, x, 0.5)


def test_share_is_synflows_score_over_phi():
    model, x = dense(), torch.ones(1, 16)
    plain = nn.Sequential(
        *(nn.Linear(m.in_features, m.out_features, bias=False) for m in model if isinstance(m, nn.Linear))
    )
    plain = plain.double()
    with torch.no_grad():
        for a, b in zip(plain, [m for m in model if isinstance(m, nn.Linear)]):
            a.weight.copy_(b.weight.abs())
    flow = plain(x.double()).sum()
    flow.backward()
    for layer, share in zip(plain, scores.share(model, x).values()):
        assert torch.allclose(layer.weight * layer.weight.grad, share * flow, rtol=1e-10)


def test_magnitude_equals_torchs_global_pruning():
    from torch.nn.utils import prune

    model, x = dense(), torch.ones(1, 16)
    masks = plain_masks(scores.magnitude(scores.prunable(model, x)), 0.7)
    pairs = [(m, "weight") for m in model if isinstance(m, nn.Linear)]
    prune.global_unstructured(pairs, prune.L1Unstructured, amount=0.7)
    for (module, _), mask in zip(pairs, masks.values()):
        assert torch.equal(module.weight_mask.bool(), mask)


def test_snip_and_grasp_equal_dense_derivatives():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x, y = torch.randn(8, 3).double(), torch.randint(2, (8,))
    weights = {name: p for name, p in model.named_parameters() if p.ndim > 1}

    def loss(module):
        return nn.functional.cross_entropy(module(x), y)

    snip = scores.snip(model, weights, loss)
    slopes = torch.autograd.grad(loss(model), list(weights.values()))
    for (name, w), g in zip(weights.items(), slopes):
        assert torch.allclose(snip[name], (w * g).abs())

    shapes = [w.shape for w in weights.values()]
    counts = [w.numel() for w in weights.values()]

    def flat_loss(flat):
        parts = [p.view(s) for p, s in zip(flat.split(counts), shapes)]
        values = dict(model.named_parameters()) | dict(zip(weights, parts))
        return nn.functional.cross_entropy(torch.func.functional_call(model, values, (x,)), y)

    flat = torch.cat([w.detach().flatten() for w in weights.values()])
    hessian = torch.autograd.functional.hessian(flat_loss, flat)
    gradient = torch.cat([g.flatten() for g in slopes])
    exact = (flat * (hessian @ gradient)).split(counts)
    for found, truth in zip(scores.grasp(model, weights, loss).values(), exact):
        assert torch.allclose(found.flatten(), truth, atol=1e-10)


def test_lamp_divides_by_what_is_not_smaller():
    found = scores.lamp({"w": torch.tensor([[1.0, -2.0, 3.0]])})["w"]
    assert torch.allclose(found, torch.tensor([[1 / 14, 4 / 13, 1.0]], dtype=torch.float64))


def test_wanda_and_coactivation_equal_triple_loops():
    torch.manual_seed(0)
    weight, x, gate = torch.randn(2, 3), torch.randn(5, 3), torch.randn(5, 2)
    plain, joint = scores.wanda(weight, x), scores.coactivation(weight, x, gate)
    for i in range(2):
        for j in range(3):
            norm = sum(float(x[n, j]) ** 2 for n in range(5)) ** 0.5
            assert float(plain[i, j]) == pytest.approx(abs(float(weight[i, j])) * norm, rel=1e-5)
            act = sum(abs(float(x[n, j])) * abs(float(torch.nn.functional.silu(gate[n, i]))) for n in range(5)) ** 0.5
            assert float(joint[i, j]) == pytest.approx(abs(float(weight[i, j])) * act, rel=1e-5)
