"""The order in which an epoch takes its data, and the loss."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from onlyforward.core.keys import Key
from onlyforward.data.sets import Dataset
from onlyforward.nn.engine import LikelihoodRatio
from onlyforward.train.extras import mean_kappa
from onlyforward.train.loop import batch_order, cross_entropy

SIZE = 8


def dataset(lengths):
    count = 205
    x, y = torch.zeros(count, 3), torch.zeros(count, dtype=torch.long)
    return Dataset("own", "table" if lengths is None else "text", x, y, x, y, 2, ("0", "1"), "", lengths_train=lengths)


def test_texts_of_similar_length_share_a_batch_and_every_text_has_its_turn():
    lengths = torch.randint(1, 60, (205,), generator=torch.Generator().manual_seed(1))
    orders = [batch_order(dataset(lengths), SIZE, Key(step=epoch)) for epoch in (0, 1)]
    for order in orders:
        assert order.sort().values.tolist() == list(range(205))
        longest = sum(int(lengths[batch].max()) for batch in order.split(SIZE))
        plain = sum(int(lengths[batch].max()) for batch in torch.randperm(205).split(SIZE))
        assert longest < 0.7 * plain
        means = torch.stack([lengths[batch].float().mean() for batch in order[:160].split(SIZE)])
        assert not torch.equal(means, means.sort().values)
    assert not torch.equal(*orders)


def test_data_without_lengths_are_permuted_alone():
    key = Key(step=3)
    assert torch.equal(batch_order(dataset(None), SIZE, key), torch.randperm(205, generator=key.generator()))


@pytest.mark.parametrize("rows", [1, 64, 1000])
@pytest.mark.parametrize("shape", [(10,), (2,), (4, 5)])
def test_cross_entropy_is_torchs_own_to_the_bit_and_so_is_its_slope(rows, shape):
    output = (3 * torch.randn(rows, *shape, generator=torch.Generator().manual_seed(rows))).requires_grad_()
    target = torch.arange(rows * (shape[1] if len(shape) > 1 else 1)).reshape(rows, *shape[1:]) % shape[0]
    ours, torchs = cross_entropy(output, target), F.cross_entropy(output, target, reduction="none")
    assert torch.equal(ours, torchs)
    slopes = [torch.autograd.grad(losses.sum(), output)[0] for losses in (ours, torchs)]
    assert torch.allclose(*slopes, atol=1e-7)
    assert torch.allclose(cross_entropy.slope(output.detach(), target), slopes[1], atol=1e-6)


def test_a_loss_that_knows_its_slope_spares_autograd_and_changes_no_gradient(monkeypatch):
    x, y = torch.randn(16, 5), torch.arange(16) % 3
    found = []
    for loss_fn in (lambda output, target: F.cross_entropy(output, target, reduction="none"), cross_entropy):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
        LikelihoodRatio(model, copies=8).backward(loss_fn, x, y)
        found.append([p.grad for p in model.parameters()])
        monkeypatch.setattr(torch.autograd, "grad", None)
    for autograds, ours in zip(*found, strict=True):
        assert torch.allclose(autograds, ours, atol=1e-6)


def test_the_mean_kappa_leaves_out_sites_that_no_datum_reaches():
    class Method:
        def measured(self, *batch):
            return {"rnn@0": {"kappa": 2.0}, "rnn@1": {"kappa": 4.0}, "rnn@40": {"kappa": math.nan}}

    assert mean_kappa(Method(), (None, None, None)) == 3.0
