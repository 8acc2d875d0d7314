"""Estimator, losses, adapters and shots against independent truths."""

import pytest
import torch
from torch.nn import functional as F

from onlyforward.core.allocate import BernoulliAllocator, Features, GaussianAllocator, Neyman, Uniform
from onlyforward.core.errors import UsageError
from onlyforward.core.keys import Key
from onlyforward.data.corruptions import rotate
from onlyforward.tune.adapters import Affine, Prompt, make_adapter
from onlyforward.tune.estimator import estimate
from onlyforward.tune.scores import CrossEntropy, Objective, fit_temperature
from onlyforward.tune.shots import draw_shots


class Quadratic(Objective):
    """L_i(theta) = g_i theta + h_i |theta|^2 / 2, whose smoothed gradient at 0 is g_i."""

    def signal(self, answers, place):
        return answers[:, 0] - self.clean[place]


SLOPES = (
    torch.randn(6, 3, generator=Key().generator(), dtype=torch.float64) * torch.tensor([0.2, 1, 1, 2, 3, 6])[:, None]
)
CURVES = torch.linspace(0.1, 1.0, 6, dtype=torch.float64)


def ask(theta, place):
    linear = (SLOPES[place] * theta).sum(1)
    return (linear + CURVES[place] * (theta**2).sum(1) / 2)[:, None]


@pytest.mark.parametrize("allocator", [Uniform(), Neyman(floor=0.0), GaussianAllocator(), BernoulliAllocator()])
@pytest.mark.parametrize("antithetic", [False, True])
def test_the_estimate_is_the_gradient_of_the_smoothed_mean_loss(allocator, antithetic):
    size = SLOPES.norm(dim=1)
    objective = Quadratic(torch.zeros(6, dtype=torch.float64), size)
    plan = allocator.plan(12, Features(loss=size, residual=size, ids=torch.arange(6)))
    found = torch.stack(
        [
            estimate(
                ask, objective, torch.zeros(3, dtype=torch.float64), plan, sigma=0.3, key=Key(step=k),
                antithetic=antithetic,
            ).value
            for k in range(3000)
        ]
    )  # fmt: skip
    z = (found.mean(0) - SLOPES.mean(0)) / (found.std(0) / 3000**0.5)
    assert z.abs().max() < 4.2
    assert int(plan.counts.min()) >= 1


def test_the_variance_is_that_of_the_formula():
    size = SLOPES.norm(dim=1)
    objective = Quadratic(torch.zeros(6, dtype=torch.float64), size)
    plan = Neyman(floor=0.0).plan(30, Features(residual=size))
    found = torch.stack(
        [
            estimate(ask, objective, torch.zeros(3, dtype=torch.float64), plan, sigma=1e-3, key=Key(step=k)).value
            for k in range(5000)
        ]
    )
    formula = float(((3 + 1) * size**2 / plan.counts).sum()) / 36
    assert float(found.var(0).sum()) == pytest.approx(formula, rel=0.06)


def test_broken_rows_are_left_out_without_bias():
    size = SLOPES.norm(dim=1)
    objective = Quadratic(torch.zeros(6, dtype=torch.float64), size)
    plan = Uniform().plan(60, Features(residual=size))

    def broken(theta, place):
        answers = ask(theta, place)
        answers[::7] = torch.nan
        return answers

    found = torch.stack(
        [
            estimate(broken, objective, torch.zeros(3, dtype=torch.float64), plan, sigma=0.1, key=Key(step=k)).value
            for k in range(1500)
        ]
    )
    z = (found.mean(0) - SLOPES.mean(0)) / (found.std(0) / 1500**0.5)
    assert z.abs().max() < 4.2


def test_a_temperature_is_found_for_scores_of_any_scale():
    scores = torch.randn(80, 5, generator=Key().generator(), dtype=torch.float64)
    labels = torch.where(torch.rand(80, generator=Key(run=1).generator()) < 0.7, scores.argmax(1), 0)
    small, large = fit_temperature(scores, labels), fit_temperature(scores * 5000, labels)
    assert large.temperature == pytest.approx(5000 * small.temperature, rel=1e-3)
    at = float(small.losses(scores, labels).mean())
    for factor in (0.6, 1.6):
        assert at <= float(CrossEntropy(small.temperature * factor).losses(scores, labels).mean())
    residual = small.residual(scores, labels)
    logits = (scores / small.temperature).requires_grad_(True)
    F.cross_entropy(logits, labels, reduction="sum").backward()
    assert torch.allclose(residual, logits.grad.norm(dim=1))
    assert float(CrossEntropy(1e-9).losses(scores, labels).max()) == 10.0
    worse = fit_temperature(-scores, labels)
    assert worse.temperature == pytest.approx(float((scores - scores.mean(1, keepdim=True)).abs().mean()))


@pytest.mark.parametrize(
    "name", ["affine", "colour", "prompt:4", "border:2", "lowrank:2", "coordinator", "affine+prompt"]
)
def test_every_adapter_starts_as_the_identity(name):
    x = torch.rand(3, 3, 12, 10, generator=Key().generator())
    adapter = make_adapter(name, (3, 12, 10))
    assert torch.allclose(adapter(x, adapter.start.expand(3, -1)), x, atol=1e-5)


def test_the_coordinator_is_small():
    assert len(make_adapter("coordinator", (3, 32, 32)).start) < 4000


def test_an_affine_map_undoes_a_rotation():
    y, x = torch.meshgrid(torch.linspace(-1, 1, 28), torch.linspace(-1, 1, 28), indexing="ij")
    image = torch.exp(-((x - 0.2) ** 2 + 2 * (y + 0.1) ** 2) * 8)[None, None]
    adapter = Affine((1, 28, 28))
    angle = torch.tensor(40.0).deg2rad()
    theta = adapter.start.clone()
    theta[:6] = torch.tensor([angle.cos() - 1, angle.sin(), 0, -angle.sin(), angle.cos() - 1, 0])
    turned = rotate(image, 40.0)
    assert (turned - image).abs().max() > 0.3
    assert (adapter(turned, theta[None]) - image).abs().max() < 0.05


def test_an_affine_map_is_torchs_own():
    x = torch.rand(3, 2, 9, 12, generator=Key().generator(), dtype=torch.float64)
    theta = 0.3 * torch.randn(3, 8, generator=Key(run=1).generator(), dtype=torch.float64)
    square = torch.tensor([[1, 9 / 12, 1], [12 / 9, 1, 1]], dtype=torch.float64)
    warp = torch.eye(2, 3, dtype=torch.float64) + theta[:, :6].reshape(-1, 2, 3) * square
    moved = F.grid_sample(x, F.affine_grid(warp, list(x.shape), align_corners=False), align_corners=False)
    expected = moved * (1 + theta[:, 6, None, None, None]) + theta[:, 7, None, None, None]
    assert torch.allclose(Affine((2, 9, 12))(x, theta), expected, atol=1e-10)


def test_a_prompt_and_its_adjoint_are_one_linear_map():
    for adapter in (Prompt((2, 9, 7), 4), Prompt((2, 9, 7), 2, border=True)):
        c = torch.randn(1, len(adapter.start), generator=Key().generator(), dtype=torch.float64)
        image = torch.randn(1, 2, 9, 7, generator=Key(run=1).generator(), dtype=torch.float64)
        assert float((adapter.lift(c) * image).sum()) == pytest.approx(float((c * adapter.adjoint(image)).sum()))


def test_shots_are_disjoint_over_splits_and_a_poor_class_is_named():
    labels = torch.arange(3).repeat(40)
    seen = [set(draw_shots(labels, shots=8, split=k).rows.tolist()) for k in range(5)]
    assert all(not a & b for i, a in enumerate(seen) for b in seen[:i])
    split = draw_shots(labels, shots=8, split=7)
    assert not set(split.train.tolist()) & set(split.validation.tolist())
    assert labels[split.validation].bincount().tolist() == [2, 2, 2]
    with pytest.raises(UsageError, match="Class 'cat' has 40 examples"):
        draw_shots(labels, shots=41, split=0, names=("cat", "dog", "cow"))


def test_impossible_adapters_are_refused():
    with pytest.raises(UsageError, match="Unknown adapter 'afine'"):
        make_adapter("afine", (1, 28, 28))
    with pytest.raises(UsageError, match="no whole number"):
        make_adapter("prompt:x", (1, 28, 28))
