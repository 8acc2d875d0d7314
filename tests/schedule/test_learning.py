"""Surrogate, gradients, network, training: against enumeration, sampling, differences and their own symmetries."""

import json
from hashlib import sha256

import numpy as np
import pytest
import torch

from onlyforward.cli.main import main
from onlyforward.core.keys import Key
from onlyforward.run.signals import Interrupted
from onlyforward.schedule import train
from onlyforward.schedule.command import Train
from onlyforward.schedule.exact import exact_gradient, exact_order_gradient
from onlyforward.schedule.generate import releases, weighted_tardiness
from onlyforward.schedule.jobs import Jobs
from onlyforward.schedule.lessons import lessons, validation
from onlyforward.schedule.network import SHIPPED, Network, load_network
from onlyforward.schedule.online import FORMS, METHODS, Plan, learn
from onlyforward.schedule.pipeline import solve
from onlyforward.schedule.problem import make_problem
from onlyforward.schedule.ratio import likelihood_ratio, plackett_luce
from onlyforward.schedule.search import Clock
from onlyforward.schedule.surrogate import make_terms, surrogate

FAMILIES = ("weighted-completion", "weighted-tardiness", "weighted-tardy-jobs", "late-work", "quadratic-tardiness")


def instance(n, step=0, *, family="weighted-tardiness", tightness=0.6):
    return weighted_tardiness(n, Key(21, site="learning", step=step), tightness=tightness, spread=0.4).with_cost(family)


@pytest.mark.parametrize("family", FAMILIES)
def test_surrogate_of_a_certain_order_is_its_exact_cost(family):
    problem = make_problem(instance(20, family=family))
    order = Key(3).numpy().permutation(problem.n)
    x = torch.zeros(problem.n, problem.n, dtype=torch.float64)
    x[torch.from_numpy(order), torch.arange(problem.n)] = 1
    assert float(surrogate(x, make_terms(problem, torch.float64))) == pytest.approx(problem.cost(order), rel=1e-3)


def test_surrogate_with_releases_is_exact_for_feasible_starts_as_the_maximum_sharpens():
    jobs = Jobs([3, 2, 4, 1], r=[2, 0, 9, 4], weight=[2, 3, 1, 5], due=[3, 1, 10, 4])
    problem = make_problem(jobs)
    order = np.array([1, 0, 3, 2])
    start = problem.completion(order) - problem.p[order]
    x = torch.zeros(problem.n, int(problem.horizon), dtype=torch.float64)
    x[torch.from_numpy(order), torch.from_numpy(start)] = 1
    errors = [
        abs(float(surrogate(x, make_terms(problem, torch.float64), kappa)) - problem.cost(order)) for kappa in (5, 500)
    ]
    assert errors[1] < 0.02 * problem.cost(order)
    assert errors[1] <= errors[0]


@pytest.mark.parametrize("released", [False, True])
def test_surrogate_gradient_equals_finite_differences(released):
    jobs = releases(8, Key(2)) if released else instance(8, family="quadratic-tardiness")
    terms = make_terms(make_problem(jobs), torch.float64)
    logits = torch.randn(len(terms.p), 6, generator=Key(5).generator(), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda free: surrogate(free.softmax(1), terms) / 1e4, (logits,), atol=1e-6)


def test_surrogate_is_within_two_percent_of_sampled_orders():
    problem = make_problem(instance(50))
    logits = torch.randn(problem.n, 24, generator=Key(6).generator(), dtype=torch.float64)
    x = logits.softmax(1)
    draw = Key(7).numpy()
    windows = (draw.random((20_000, problem.n, 1)) > x.cumsum(1).numpy()[None]).sum(2)
    order = np.argsort(windows + draw.random(windows.shape), axis=1)
    done = np.cumsum(problem.p[order], 1)
    sampled = problem.value(order, done).sum(1).mean()
    assert float(surrogate(x, make_terms(problem, torch.float64))) == pytest.approx(sampled, rel=0.02)


@pytest.mark.parametrize("control", [False, True])
def test_window_gradient_is_unbiased_against_enumeration(control):
    problem = make_problem(instance(4, step=2, tightness=0.9))
    terms = make_terms(problem, torch.float64) if control else None
    logits = torch.randn(problem.n, 3, generator=Key(8).generator(), dtype=torch.float64)
    scale = float(problem.cost(np.arange(problem.n)))
    draws = torch.stack(
        [likelihood_ratio(problem.cost, logits, terms, Key(9, step=i), scale=scale) for i in range(400)]
    )
    error = (draws.mean(0) - exact_gradient(problem, logits, scale)).abs() / (draws.std(0) / 20).clamp(min=1e-12)
    assert float(error.max()) < 4


def test_order_gradient_is_unbiased_against_enumeration():
    problem = make_problem(instance(4, step=2, tightness=0.9))
    scores = torch.randn(problem.n, generator=Key(8).generator(), dtype=torch.float64)
    scale = float(problem.cost(np.arange(problem.n)))
    draws = torch.stack([plackett_luce(problem.cost, scores, Key(9, step=i), scale=scale) for i in range(400)])
    error = (draws.mean(0) - exact_order_gradient(problem, scores, scale)).abs() / (draws.std(0) / 20)
    assert float(error.max()) < 4


def test_the_surrogate_lowers_the_variance_of_the_likelihood_ratio():
    problem = make_problem(instance(30))
    terms = make_terms(problem, torch.float64)
    place = (torch.arange(problem.n, dtype=torch.float64) + 0.5) / problem.n
    logits = -((torch.linspace(0, 1, 16, dtype=torch.float64) - place[:, None]) ** 2) / (2 * 0.1**2)
    scale = float(problem.cost(np.arange(problem.n)))
    spread = [
        torch.stack([likelihood_ratio(problem.cost, logits, some, Key(1, step=i), scale=scale) for i in range(30)])
        for some in (None, terms)
    ]
    assert spread[0].var(0).sum() > 1.3 * spread[1].var(0).sum()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("form", FORMS)
def test_every_gradient_improves_every_form(method, form):
    problem = make_problem(instance(15))
    order = np.arange(problem.n)
    plan = Plan(method=method, form=form, sigma=0.15, steps=25)
    found, steps = learn(problem, order, plan, Clock(60.0), Key(2), network=Network(16))
    assert steps == 25
    assert sorted(found.tolist()) == order.tolist()
    assert problem.cost(found) < problem.cost(order)


def test_a_black_box_is_minimised_without_its_formula():
    jobs = instance(10)

    def setups(sequence):
        return float(np.abs(np.diff(sequence)).sum())

    found = solve(jobs, evaluate=setups, iterations=400, time_limit=5)
    assert found.objective == setups(found.sequence)
    assert found.objective < found.start_objective


def test_network_is_equivariant_and_knows_no_unit():
    torch.manual_seed(0)
    network = Network(32).eval()
    jobs = instance(12)
    base = network.keys(make_problem(jobs))
    mixed = Key(4).numpy().permutation(12)
    permuted = Jobs(jobs.p[mixed], weight=jobs.weight[mixed], due=jobs.due[mixed])
    scaled = Jobs(jobs.p * 7, weight=jobs.weight * 3, due=jobs.due * 7)
    assert torch.allclose(network.keys(make_problem(permuted)), base[:, torch.from_numpy(mixed)], atol=1e-5)
    assert torch.allclose(network.keys(make_problem(scaled)), base, atol=1e-5)


def test_shipped_network_is_the_one_its_json_describes():
    told = json.loads(SHIPPED.with_suffix(".json").read_text())
    content = SHIPPED.read_bytes()
    assert sha256(content).hexdigest() == told["sha256"]
    assert len(content) < 2_000_000
    network = load_network()
    problem = make_problem(instance(40))
    best = solve(instance(40), iterations=100, bound=False).objective
    assert problem.cost(network.orders(problem)[0]) < 1.3 * best


def test_no_training_or_validation_instance_is_a_benchmark_instance():
    from onlyforward.data.sets import folder
    from onlyforward.schedule.read import read_instance

    try:
        place = folder("scheduling")
    except Exception as error:
        pytest.skip(str(error))
    known = {
        sha256(read_instance(place / f"{name}.txt", format="orlib", index=i).p.tobytes()).hexdigest()
        for name in ("wt40", "wt50", "wt100")
        for i in range(1, 126, 5)
    }
    drawn = [
        lesson
        for step in range(3)
        for lesson in lessons(Key(0, site="train", step=step), n_max=100, windows=16, labels=("special", "search"))
    ]
    drawn += validation(16, count=10)
    assert not known & {sha256(np.ascontiguousarray(lesson.problem.p).tobytes()).hexdigest() for lesson in drawn}


def test_training_lowers_the_loss_of_a_batch_that_comes_again():
    options = Train(steps=30, n_max=12, windows=16)
    torch.manual_seed(0)
    network = Network(16)
    optimiser = torch.optim.AdamW(network.parameters())
    parts = (train.LABELS, train.LOSSES)
    losses = [train.one_step(network, optimiser, Key(0), 1, options, *parts) for _ in range(12)]
    assert losses[-1] < losses[0] - 0.05


def test_training_resumes_to_the_same_bits(tmp_path, capsys, monkeypatch):
    from onlyforward.run.context import Context

    monkeypatch.setattr(train, "validation", lambda windows: validation(windows, count=4))
    words = ["schedule", "train", "--steps", "12", "--n-max", "12", "--windows", "16", "--checkpoint-seconds", "0"]
    assert main([*words, "--out", str(tmp_path / "whole"), "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    plain = Context.save

    def stopping(self, step, state):
        plain(self, step, state)
        if step == 5:
            raise Interrupted(2)

    monkeypatch.setattr(Context, "save", stopping)
    assert main([*words, "--out", str(tmp_path / "cut"), "--json"]) == 130
    capsys.readouterr()
    monkeypatch.setattr(Context, "save", plain)
    assert main(["resume", str(tmp_path / "cut"), "--json"]) == 0
    resumed = json.loads(capsys.readouterr().out)
    assert resumed["resumed_from"] == [5]
    assert resumed["digest"] == whole["digest"]
    weights = (tmp_path / "cut" / "network.safetensors").read_bytes()
    assert weights == (tmp_path / "whole" / "network.safetensors").read_bytes()
