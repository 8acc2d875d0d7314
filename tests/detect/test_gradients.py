"""Measured gradients against autograd, enumeration and another library; every job and shot counted twice."""

import itertools
import math

import numpy as np
import pytest
import torch

from onlyforward.core.errors import BudgetSpent, UsageError
from onlyforward.core.keys import Key
from onlyforward.detect.ansatz import FAMILIES, Ansatz
from onlyforward.detect.backends import Account, TorchBackend
from onlyforward.detect.bench_gradients import gradient_table, pennylane_error, problem
from onlyforward.detect.engine import Engine, feature_count
from onlyforward.detect.estimator import QuantumSVDD
from onlyforward.detect.gradients import METHODS, Plan, choose_plan, estimate, step_size
from onlyforward.detect.objective import Objective


def case(family="ry_brick", n=3, layers=2, rows=4, kind="one-class", latent="z"):
    ansatz = Ansatz(family, n, layers)
    generator = torch.Generator().manual_seed(4)
    psi = torch.randn(rows, 2**n, dtype=torch.float64, generator=generator)
    psi = psi / psi.norm(dim=1, keepdim=True)
    theta = torch.randn(ansatz.parameters, dtype=torch.float64, generator=generator)
    center = torch.linspace(-0.5, 0.6, feature_count(n, latent), dtype=torch.float64)
    return ansatz, psi, theta, Objective(kind, center, 0.3, torch.tensor(0.4, dtype=torch.float64), latent)


def exact(ansatz, psi, theta, objective):
    leaf = theta.clone().requires_grad_()
    objective.of(Engine(ansatz, "float64").expect(psi, leaf, objective.latent)).mean().backward()
    return leaf.grad


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("kind", "latent"), [("one-class", "z"), ("one-class", "z+zz"), ("soft-boundary", "z+zz+zzz")])
def test_the_shift_rule_without_shots_is_autograd_shared_angles_included(family, kind, latent):
    ansatz, psi, theta, objective = case(family, kind=kind, latent=latent)
    found, loss = estimate(Plan("parameter_shift", 1, None), TorchBackend(ansatz), ansatz, psi, theta, objective, Key())
    assert (found - exact(ansatz, psi, theta, objective)).abs().max() < 1e-10
    f = Engine(ansatz, "float64").expect(psi, theta, latent)
    assert float(loss) == pytest.approx(float(objective.of(f).mean()), rel=1e-12)


def test_shifting_all_occurrences_of_a_shared_angle_at_once_is_wrong():
    ansatz, psi, theta, objective = case("su4_shared")
    truth = exact(ansatz, psi, theta, objective)
    engine = Engine(ansatz, "float64")
    slope = objective.slope(engine.expect(psi, theta)) / len(psi)
    wrong = []
    for j in range(ansatz.parameters):
        move = torch.zeros_like(theta)
        move[j] = math.pi / 2
        half = (engine.expect(psi, theta + move) - engine.expect(psi, theta - move)) / 2
        wrong.append(float((slope * half).sum()))
    assert (torch.tensor(wrong) - truth).abs().max() > 0.05


def enumerated(ansatz, psi, theta, objective, chain):
    """The likelihood ratio's mean over all signs of the directions, with exact features."""
    engine, h = Engine(ansatz, "float64"), step_size(ansatz.parameters)
    slope = objective.slope(engine.expect(psi, theta)) / len(psi)

    def signal(angles):
        f = engine.expect(psi, angles)
        return (slope * f).sum(1) if chain else objective.of(f) / len(psi)

    total = torch.zeros_like(theta)
    signs = list(itertools.product((-1.0, 1.0), repeat=len(theta)))
    for row in signs:
        eps = torch.tensor(row, dtype=torch.float64)
        total += float((signal(theta + h * eps) - signal(theta - h * eps)).sum()) / (2 * h) * eps
    return total / len(signs)


@pytest.mark.parametrize(
    ("method", "copies"),
    [
        ("parameter_shift", 4),
        ("random_shift", 2),
        ("likelihood_ratio", 3),
        ("likelihood_ratio_scalar", 3),
        ("spsa", 2),
    ],
)
def test_means_under_shots_are_the_exact_or_the_smoothed_gradient(method, copies):
    ansatz, psi, theta, objective = case(n=2, layers=2, rows=3)
    truth = exact(ansatz, psi, theta, objective)
    if method.startswith("likelihood"):
        truth = enumerated(ansatz, psi, theta, objective, chain=method == "likelihood_ratio")
    elif method == "spsa":
        truth = enumerated(ansatz, psi, theta, objective, chain=False)
    account = Account()
    backend = TorchBackend(ansatz, account)
    plan = Plan(method, copies, 40)
    found = torch.stack(
        [estimate(plan, backend, ansatz, psi, theta, objective, Key(step=i))[0] for i in range(400)]
    ).numpy()
    z = (found.mean(0) - truth.numpy()) / (found.std(0, ddof=1) / np.sqrt(len(found)))
    assert np.abs(z).max() < 4
    assert (account.jobs, account.shots) == (backend.jobs, backend.shots)
    assert account.jobs == 400 * plan.jobs(len(psi), ansatz)
    assert account.shots == 40 * account.jobs


def test_orthogonal_pairs_leave_no_error_of_directions():
    ansatz, psi, theta, objective = case(n=2, layers=2, rows=3)
    errors = {}
    for noise in ("hadamard", "gaussian"):
        plan = Plan("likelihood_ratio", 4, None, noise)
        found = [estimate(plan, TorchBackend(ansatz), ansatz, psi, theta, objective, Key(step=i))[0] for i in range(50)]
        errors[noise] = float(torch.stack(found).std(0).norm())
    assert errors["hadamard"] < errors["gaussian"] / 5


def test_noise_per_row_beats_noise_per_batch_at_equal_shots_and_jobs():
    arms = {"lr": ("likelihood_ratio_scalar", 16), "spsa": ("spsa", 16)}
    lr, spsa = gradient_table(problem(), arms, 66_000, repeats=12)
    assert lr["jobs"] == spsa["jobs"]
    assert lr["shots"] == spsa["shots"]
    assert spsa["error"] > 4 * lr["error"]
    assert lr["counted"]
    assert spsa["ratio"] == 1.0


def test_the_shift_rule_is_pennylanes():
    pytest.importorskip("pennylane")
    assert pennylane_error(problem()) < 1e-9


def test_estimates_are_those_that_were_recorded():
    ansatz, psi, theta, objective = case()
    recorded = {
        "likelihood_ratio": [-0.812117447, 0.558512425, -0.581968671],
        "likelihood_ratio_scalar": [-0.742741117, 0.523551075, -0.569250248],
        "spsa": [-0.187699197, 0.334550023, -0.334550023],
    }
    for method, values in recorded.items():
        found, _ = estimate(
            Plan(method, 2, None), TorchBackend(ansatz), ansatz, psi, theta, objective, Key(run=1, step=2)
        )
        assert found[:3].tolist() == pytest.approx(values, abs=1e-6)


def test_auto_follows_the_budget():
    ansatz = Ansatz("ry_brick", 4, 4)

    def auto(**budget):
        limits = {"max_shots": None, "max_jobs": None, **budget}
        plan = choose_plan("auto", ansatz, copies=8, shots=100, rows=1000, **limits)
        return plan.method, plan.copies

    assert auto() == ("parameter_shift", 16)
    assert auto(max_shots=33 * 100 * 1000) == ("parameter_shift", 16)
    assert auto(max_shots=21 * 100 * 1000) == ("random_shift", 10)
    assert auto(max_jobs=5_000) == ("likelihood_ratio", 2)
    assert auto(max_jobs=3_000) == ("likelihood_ratio", 1)


def test_a_spent_budget_keeps_the_model_and_is_never_exceeded():
    x = np.random.default_rng(0).normal(size=(20, 3))
    detector = QuantumSVDD(
        n_layers=2, max_epochs=4, shots=32, gradient="random_shift", copies=2, max_shots=6_000, random_state=0
    )
    with pytest.raises(BudgetSpent) as spent:
        detector.fit(x)
    kept = spent.value.partial
    assert 0 < kept.n_shots_used_ <= 6_000
    assert len(kept.history_) >= 1
    assert np.isfinite(kept.score_samples(x)).all()


def test_a_budget_that_ends_in_the_last_measurement_keeps_the_whole_training():
    x = np.random.default_rng(0).normal(size=(20, 3))
    options = {"n_layers": 2, "max_epochs": 2, "shots": 32, "gradient": "random_shift", "copies": 2, "random_state": 0}
    whole = QuantumSVDD(**options).fit(x)
    short = QuantumSVDD(**options, max_shots=whole.n_shots_used_ - 1)
    with pytest.raises(BudgetSpent) as spent:
        short.fit(x)
    assert spent.value.partial is short
    assert short.history_ == whole.history_
    assert np.isfinite(short.score_samples(x)).all()


@pytest.mark.parametrize(("name", "value"), [("max_shots", 0), ("max_jobs", -1), ("weight_decay", float("nan"))])
def test_budgets_and_decays_that_cannot_be_are_refused(name, value):
    with pytest.raises(UsageError, match=name):
        QuantumSVDD(**{name: value}).fit(np.random.default_rng(0).normal(size=(20, 3)))


def test_training_by_measured_gradients_lowers_the_loss():
    x = np.random.default_rng(1).normal(size=(30, 3))
    for method in METHODS[:3]:
        detector = QuantumSVDD(
            n_layers=2, max_epochs=6, shots=128, gradient=method, copies=3, random_state=0, lr=0.1
        ).fit(x)
        assert detector.history_[-1] < detector.history_[0]
        assert detector.n_shots_used_ == 128 * detector.n_jobs_used_
