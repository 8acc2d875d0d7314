"""The loop: budgets, the guard, resume, competitors, and what closed means."""

import pytest
import torch

from onlyforward.core.allocate import Neyman, Uniform
from onlyforward.core.errors import BudgetSpent, OnlyForwardError, UsageError
from onlyforward.core.keys import Key
from onlyforward.run.oracle import Oracle
from onlyforward.tune.adapters import make_adapter
from onlyforward.tune.loop import Allocated, Settings, Tuning
from onlyforward.tune.peers import make_step
from onlyforward.tune.problem import Classifier

GENERATOR = Key(site="test").generator()
CENTRES = torch.rand(4, 1, 6, 6, generator=GENERATOR)
LABELS = torch.arange(4).repeat(10)
IMAGES = (CENTRES[LABELS] + 0.1 * torch.randn(40, 1, 6, 6, generator=GENERATOR)) * 0.4 + 0.9
"""Seen through a dull lens: a gain of 2.5 and an offset of -2.25 would undo it."""


def closed(rows):
    return -8 * torch.cdist(rows.flatten(1), CENTRES.flatten(1)) ** 2


def problem(ask=closed, seen=None, limit=None):
    oracle = Oracle(ask, batch=64)
    oracle = oracle if limit is None else oracle.limited(queries=limit)
    adapter = make_adapter("affine", (1, 6, 6))

    def rows(theta, items):
        if seen is not None:
            seen.append(items)
        return adapter(IMAGES[items], theta)

    made = Classifier(oracle, rows, LABELS, adapter.start, torch.arange(0, 28), torch.arange(28, 40))
    return made, oracle


SETTINGS = Settings(2500, batch=16, copies=8, sigma=0.05, lr=0.05)


@pytest.mark.parametrize(
    "arm",
    [
        "neyman",
        "uniform",
        "gaussian",
        "bernoulli",
        "halving",
        "mezo",
        "mezo-q",
        "spsa-gc",
        "es",
        "random",
        "importance",
    ],
)
def test_every_arm_stays_within_the_budget_and_never_ends_below_its_start(arm):
    made, oracle = problem()
    tuning = Tuning(made, make_step(arm, SETTINGS, 8, Key()), SETTINGS, Key())
    guard = tuning.run()
    assert made.count.asked == oracle.account.rows <= 2500
    assert made.count.asked > 2500 - 16 * 9 - 12 - 12
    assert (guard.accuracy, -guard.loss) >= (guard.start_accuracy, -float(guard.start.mean()))
    assert torch.isfinite(guard.best).all()


def test_cma_is_the_librarys_own():
    pytest.importorskip("cmaes")
    made, oracle = problem()
    guard = Tuning(made, make_step("cma", SETTINGS, 8, Key()), SETTINGS, Key()).run()
    assert oracle.account.rows <= 2500
    assert guard.accuracy >= guard.start_accuracy


def test_tuning_mends_a_dull_lens():
    made, _ = problem()
    guard = Tuning(made, Allocated(Neyman(), 8, 0.05), SETTINGS, Key()).run()
    assert not guard.kept_start
    assert guard.accuracy > guard.start_accuracy + 0.3


def test_validation_data_are_never_in_a_training_batch():
    seen = []
    made, _ = problem(seen=seen)
    tuning = Tuning(made, Allocated(Uniform(), 8, 0.05), SETTINGS, Key())
    tuning.begin()
    del seen[:]
    for _ in range(6):
        tuning.step.advance(tuning, tuning.batches(), Key(step=tuning.steps))
        tuning.steps += 1
    assert int(torch.cat(seen).max()) < 28


def test_no_graph_is_ever_made():
    def ask(rows):
        assert not rows.requires_grad
        assert not torch.is_grad_enabled()
        return closed(rows)

    made, _ = problem(ask)
    Tuning(made, Allocated(Neyman(), 8, 0.05), Settings(600, batch=16), Key()).run()


def test_a_run_continues_from_its_state_to_the_same_bits():
    whole, _ = problem()
    expected = Tuning(whole, Allocated(Neyman("residual*history"), 8, 0.05), SETTINGS, Key()).run().best
    kept = []
    first, _ = problem()

    def after(tuning):
        if tuning.steps == 7:
            kept.append(tuning.state())

    Tuning(first, Allocated(Neyman("residual*history"), 8, 0.05), SETTINGS, Key()).run(after)
    again, oracle = problem()
    tuning = Tuning(again, Allocated(Neyman("residual*history"), 8, 0.05), SETTINGS, Key())
    tuning.load_state(*kept[0])
    assert torch.equal(tuning.run().best, expected)
    assert oracle.account.rows < whole.count.asked


def test_pilots_size_the_plan_within_the_budget():
    made, oracle = problem()
    Tuning(made, Allocated(Neyman("pilot:2"), 8, 0.05), SETTINGS, Key()).run()
    assert oracle.account.rows <= 2500


def test_a_budget_below_one_step_names_the_smallest_that_works():
    made, _ = problem()
    with pytest.raises(UsageError, match="smallest that works here is 192"):
        Tuning(made, Allocated(Uniform(), 8, 0.05), Settings(150, batch=16), Key()).run()


def test_a_limit_of_the_oracle_ends_the_run_with_the_best_so_far():
    made, _ = problem(limit=900)
    with pytest.raises(BudgetSpent) as spent:
        Tuning(made, Allocated(Uniform(), 8, 0.05), SETTINGS, Key()).run()
    assert spent.value.partial.best.shape == (8,)


def test_some_broken_rows_are_dropped_and_many_end_the_run():
    def some(rows):
        answers = closed(rows)
        answers[::25] = torch.nan
        return answers

    made, _ = problem(some)
    guard = Tuning(made, Allocated(Uniform(), 8, 0.05), SETTINGS, Key()).run()
    assert made.count.broken > 0
    assert torch.isfinite(guard.best).all()

    def many(rows):
        answers = closed(rows)
        answers[::5] = torch.nan
        return answers

    made, _ = problem(many)
    with pytest.raises(OnlyForwardError, match="NaN or infinite"):
        Tuning(made, Allocated(Uniform(), 8, 0.05), SETTINGS, Key()).run()


def test_labels_beyond_the_outputs_point_to_the_output_adapter():
    made, _ = problem(lambda rows: closed(rows)[:, :3])
    with pytest.raises(UsageError, match="--adapter output"):
        Tuning(made, Allocated(Uniform(), 8, 0.05), SETTINGS, Key()).run()
