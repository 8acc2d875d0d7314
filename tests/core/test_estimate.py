import pytest
import torch

from onlyforward.core import Key, gradient
from onlyforward.core.errors import Diverged, UsageError
from onlyforward.core.perturb import Choices, Parameters
from onlyforward.core.perturb.choices import plackett_luce_log_prob, plackett_luce_score
from onlyforward.core.weigh import Antithetic, Clean, ControlVariate, LeaveOneOut, Mean
from onlyforward.testing.problems import fixed, gradient_of, quadratic


def estimate(weigh, perturb, copies=8, step=0, problem=None):
    problem = problem or quadratic()
    return gradient(
        problem.run, problem.params, perturb=perturb, weigh=weigh, key=Key(step=step), copies=copies
    ), problem


def test_a_clean_baseline_costs_one_run_and_is_counted():
    found, problem = estimate(Clean(), Parameters(sigma=0.1))
    assert found.runs == problem.runs == 9


def test_pairs_need_mirrored_copies_and_an_even_number():
    with pytest.raises(UsageError, match="antithetic"):
        estimate(Antithetic(), Parameters(sigma=0.1))
    with pytest.raises(UsageError, match="even"):
        estimate(Antithetic(), Parameters(sigma=0.1, antithetic=True), copies=7)
    with pytest.raises(UsageError, match="at least 2"):
        estimate(Mean(), Parameters(sigma=0.1), copies=1)


def test_sigma_must_be_positive():
    with pytest.raises(UsageError, match="sigma is 0"):
        Parameters(sigma=0.0)


def test_a_signal_that_is_not_finite_is_refused_with_its_site():
    with pytest.raises(Diverged, match="parameters"):
        gradient(
            lambda p, key: p["x"] * float("nan"),
            {"x": torch.ones(1)},
            perturb=Parameters(),
            weigh=Mean(),
            key=Key(),
            copies=2,
        )


def test_baselines_and_pairs_lower_the_variance_in_this_order():
    spread = {}
    for name, weigh, perturb in (
        ("mean", Mean(), Parameters(sigma=0.1)),
        ("loo", LeaveOneOut(), Parameters(sigma=0.1)),
        ("pairs", Antithetic(), Parameters(sigma=0.1, antithetic=True)),
    ):
        values = torch.stack([estimate(weigh, perturb, step=s)[0].value["first"] for s in range(200)])
        spread[name] = float(values.var(0).sum())
    assert spread["loo"] < spread["mean"] / 2
    assert spread["pairs"] < spread["mean"] / 2


def test_all_hadamard_rows_in_pairs_give_the_exact_gradient_of_a_quadratic():
    found, problem = estimate(Antithetic(), Parameters("hadamard", sigma=0.3, antithetic=True), copies=16)
    for name, truth in problem.exact.items():
        assert torch.allclose(found.value[name], truth, atol=1e-12)


def test_the_plackett_luce_score_is_autograds():
    logits = fixed(4, 6, seed=41)
    order = fixed(4, 6, seed=42).argsort(-1)
    truth = gradient_of(lambda s: plackett_luce_log_prob(s, order).sum(), logits)
    assert torch.allclose(plackett_luce_score(logits, order), truth, atol=1e-12)


def test_choices_of_a_users_own_policy_pull_the_gradient_of_their_log_probability():
    logits = fixed(1, 4, seed=43)
    table = fixed(4, seed=44)

    def run(params, key):
        choice = Choices().sample(params["logits"], key)
        return table[choice], choice

    perturb = Choices.from_log_prob(lambda p, c: p["logits"].log_softmax(-1)[0, c])
    values = torch.stack(
        [
            gradient(run, {"logits": logits}, perturb=perturb, weigh=LeaveOneOut(), key=Key(step=s), copies=64).value[
                "logits"
            ]
            for s in range(200)
        ]
    )
    chance = logits.softmax(-1)
    truth = chance * (table - chance @ table)
    error = values.std(0) / 200**0.5
    assert bool(((values.mean(0) - truth).abs() <= 4.5 * error).all())


def test_a_control_variate_that_explains_the_signal_removes_its_variance():
    z = fixed(64, 1, seed=45)
    signal = 3.0 + 2.0 * z**2
    weigh = ControlVariate(LeaveOneOut(), z**2 - 1.0, torch.zeros(1, dtype=torch.float64))
    weight, _ = weigh(signal, None)
    assert float(weight.abs().max()) < 1e-12


def test_the_first_eight_files_hold_at_most_900_lines():
    from pathlib import Path

    import onlyforward.core

    folder = Path(onlyforward.core.__file__).parent
    names = ("probe", "estimate", "keys", "params", "directions", "sums", "checks", "errors")
    assert sum(len((folder / f"{name}.py").read_text().splitlines()) for name in names) <= 900
