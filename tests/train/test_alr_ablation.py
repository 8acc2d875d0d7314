"""The ablation rows of `bench alr` really keep signs alone."""

import torch
from torch.nn import functional as F

from onlyforward.train.bench_alr import engine


def gradient(compress):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    x, y = torch.rand(8, 6), torch.arange(8) % 3
    engine(model, 0, compress=compress, cache="full").backward(
        lambda output, target: F.cross_entropy(output, target, reduction="none"), x, y
    )
    return [p.grad.clone() for p in model.parameters()]


def test_signs_of_x_change_the_hidden_weights_alone_and_signs_of_the_loss_its_bias_too():
    plain, x, loss = gradient(()), gradient(("x",)), gradient(("loss",))
    assert [torch.equal(a, b) for a, b in zip(plain, x, strict=True)] == [False, True, True, True]
    assert [torch.equal(a, b) for a, b in zip(plain, loss, strict=True)] == [False, False, True, True]
