"""The rounds of safe masks against a loop written from the formula, and the best-path product against plain maxima."""

import pytest
import torch
from torch import nn

from onlyforward.prune.connect import gradients, live_flags, probe, sizes
from onlyforward.prune.masks import safe_masks
from onlyforward.prune.semiring import Best
from onlyforward.prune.tropical import support


def small_net():
    """Convolutions with a batch norm, and a head; weights of a fixed seed."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.Flatten(), nn.Linear(32, 5)
    )


def by_formula(model, example, sparsity, kappa, steps):
    """|W|^(1 - kappa) share^kappa over all weights in every round, best paths first, nothing revived."""
    how, start = probe(model, example), sizes(model)
    names = [name for name, w in start.items() if w.ndim > 1]
    total = sum(start[name].numel() for name in names)
    safe = support(how, start)
    now = dict(start)
    for step in range(1, steps + 1):
        slopes, _ = gradients(how, now)
        scored = {n: now[n] ** (1 - kappa) * (now[n] * slopes[n]) ** kappa for n in names}
        flat = torch.cat([torch.where(safe[n], torch.inf, scored[n]).flatten() for n in names])
        count = round(total * (1 - sparsity) ** (step / steps))
        limit = flat.sort(descending=True).values[count - 1]
        now |= {n: torch.where(safe[n] | (scored[n] >= limit), now[n], 0.0) for n in names}
    return {name: now[name] > 0 for name in names}, how, now


@pytest.mark.parametrize("kappa", [0.25, 1.0])
def test_the_rounds_keep_what_the_formula_keeps(kappa):
    model, example = small_net(), torch.rand(1, 1, 4, 4)
    expected, how, left = by_formula(model, example, 0.6, kappa, 7)
    alive, _ = live_flags(how, left)
    assert all(bool((alive[name] == mask).all()) for name, mask in expected.items())
    found = safe_masks(model, example, 0.6, kappa=kappa, steps=7)
    assert {name: int((found[name] != mask).sum()) for name, mask in expected.items()} == dict.fromkeys(expected, 0)


def test_the_best_product_and_its_gradients_equal_plain_maxima_also_for_repeated_rows():
    generator = torch.Generator().manual_seed(1)
    few = torch.rand(3, 4, generator=generator, dtype=torch.float64)
    x = few[[0, 0, 1, 1, 1, 0, 2]].requires_grad_()
    weight = torch.rand(5, 4, generator=generator, dtype=torch.float64).requires_grad_()
    upstream = torch.rand(7, 5, generator=generator, dtype=torch.float64)
    plain = (x[:, None] * weight[None]).amax(-1)
    found = Best.apply(x, weight)
    assert torch.equal(found, plain)
    pairs = zip(torch.autograd.grad(found, (x, weight), upstream), torch.autograd.grad(plain, (x, weight), upstream))
    assert all(torch.allclose(a, b, rtol=1e-14) for a, b in pairs)
