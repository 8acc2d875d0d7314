"""Curves by hand, ranks against scipy, and the originals of the field where they are installed."""

import pytest
import torch

from onlyforward.core.keys import Key
from onlyforward.explain.answers import AnswerScore, similarity
from onlyforward.explain.checks import infidelity, sensitivity_max
from onlyforward.explain.metrics import curve, deletion, gini, pointing, spearman, top_k_overlap
from onlyforward.explain.saliency import Saliency


def test_a_curve_of_four_pixels_is_what_one_counts_by_hand():
    x = torch.tensor([[[4.0, 3.0], [2.0, 1.0]]])
    values = torch.tensor([[0.9, 0.1], [0.5, 0.5]])  # a tie: the first position goes first
    found = curve(lambda rows: rows.sum((1, 2, 3)), x, torch.zeros_like(x), values, steps=4)
    assert found.score.tolist() == [10.0, 6.0, 4.0, 3.0, 0.0]
    assert found.area == pytest.approx((10 + 6) / 8 + (6 + 4) / 8 + (4 + 3) / 8 + (3 + 0) / 8)


def test_ranks_and_gini_agree_with_known_values():
    stats = pytest.importorskip("scipy.stats")
    a = torch.randn(50, generator=Key().generator()).round(decimals=1)
    b = torch.randn(50, generator=Key(run=1).generator()).round(decimals=1)
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a.numpy(), b.numpy()).statistic, abs=1e-12)
    assert gini(torch.ones(10)) == pytest.approx(0.0)
    assert gini(torch.eye(10)[0]) == pytest.approx(0.9)
    assert top_k_overlap(torch.arange(10.0), torch.arange(10.0)) == 1.0
    inside = torch.tensor([[True, False]])
    assert pointing(torch.tensor([[3.0, 1.0]]), inside) == pytest.approx(0.75)


def model(x):
    return (x.flatten(1) ** 2).sum(1)


def test_infidelity_and_sensitivity_are_captums():
    metrics = pytest.importorskip("captum.metrics")
    x = torch.rand(1, 4, 4, generator=Key().generator(), dtype=torch.float64)
    values = 2 * x + 0.1
    draws = 0.1 * torch.randn(16, 1, 4, 4, generator=Key(run=2).generator(), dtype=torch.float64)
    place = iter(draws)

    def perturb(inputs):
        noise = torch.stack([next(place) for _ in range(len(inputs))])
        return noise, inputs - noise

    theirs = metrics.infidelity(model, perturb, x[None], values[None], n_perturb_samples=16)
    ours = infidelity(model, x, values, key=Key(), perturbations=draws)
    assert ours == pytest.approx(float(theirs), abs=1e-5)

    place = iter(draws)

    def around(inputs, radius):
        return inputs + torch.stack([next(place) for _ in range(len(inputs))])

    def explain(inputs):
        return (explain(inputs[0]),) if isinstance(inputs, tuple) else (2 * inputs).pow(2)

    theirs = metrics.sensitivity_max(explain, x[None], perturb_func=around, n_perturb_samples=16)
    ours = sensitivity_max(lambda v: explain(v[None])[0], x, key=Key(), perturbations=draws)
    assert ours == pytest.approx(float(theirs), abs=1e-5)


def test_attribute_works_inside_captums_metrics():
    metrics = pytest.importorskip("captum.metrics")
    s = Saliency(model, kind="gradient", basis="pixel", sigma=0.01)
    x = torch.rand(2, 1, 4, 4, generator=Key().generator())

    found = metrics.sensitivity_max(s.attribute, x, n_perturb_samples=2, target=0, budget=33)
    assert found.shape == (2,)
    assert bool((found < 0.2).all())


def test_explain_works_as_quantus_explain_function():
    quantus = pytest.importorskip("quantus")
    import numpy as np

    weight = torch.randn(36, 3, generator=Key().generator())
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 3))
    with torch.no_grad():
        net[1].weight.copy_(weight.T)
    s = Saliency(net, kind="gradient", basis="pixel", sigma=0.05)
    x = np.random.default_rng(0).random((2, 1, 6, 6)).astype("float32")
    found = quantus.Sparseness(disable_warnings=True, display_progressbar=False)(
        model=net,
        x_batch=x,
        y_batch=np.array([0, 1]),
        explain_func=s.explain,
        explain_func_kwargs={"budget": 40},
    )
    maps = s.attribute(torch.from_numpy(x), target=[0, 1], budget=40).map
    ours = [gini(one) for one in maps]
    assert np.allclose(found, ours, atol=1e-5)


def test_deletion_prefers_the_right_map():
    x = torch.ones(1, 8, 8)
    truth = torch.zeros(8, 8)
    truth[:2] = 1

    def f(rows):
        return (rows[:, 0] * truth).sum((1, 2))

    assert deletion(f, x, truth, baseline="zero").area < deletion(f, x, -truth, baseline="zero").area


def test_answers_in_words_are_scored():
    assert similarity("a whippet in the snow", "a whippet in the snow") == pytest.approx(1.0)
    assert (
        similarity("a whippet in the snow", "three red cars") < 0.2 < similarity("a whippet", "a whippet in the snow")
    )
    answer = {
        "text": "Yes, 3 dogs.",
        "refused": False,
        "logprobs": [{"token": "Yes", "logprob": -0.1, "top": {"Yes": -0.1, "No": -2.4}}],
    }
    assert AnswerScore("contains:dogs")([answer]).tolist() == [1.0]
    assert AnswerScore("number")([answer]).tolist() == [3.0]
    assert float(AnswerScore("choice:Yes|No")([answer])) == pytest.approx(0.908877, abs=1e-5)
    assert float(AnswerScore("logprob")([answer])) == pytest.approx(0.904837, abs=1e-5)
    assert AnswerScore("similarity", "x")([answer | {"refused": True}]).tolist() == [0.0]
