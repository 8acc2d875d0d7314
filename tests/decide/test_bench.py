import numpy as np
import pytest

from onlyforward.core.errors import UsageError
from onlyforward.core.keys import Key
from onlyforward.decide.bench_large import PORTFOLIO, SUPPLY, invest, paired_interval, picked
from onlyforward.decide.bench_management import batched, one_by_one, random_actions, rates_of
from onlyforward.decide.envs.register import make
from onlyforward.decide.sweep import Sweep
from onlyforward.run.checkpoint import Checkpoint


class Memory:
    """A context that keeps its checkpoint in memory."""

    def __init__(self):
        self.kept = None

    def restore(self):
        return self.kept

    def save(self, step, state):
        tensors, data = state()
        self.kept = Checkpoint(step, tensors, data)

    def say(self, text):
        """Silent."""


def test_a_benchmark_remembers_its_finished_runs():
    context, made = Memory(), []

    def work(value):
        made.append(value)
        return [value, 2 * value]

    first = Sweep(context)
    assert first.run("one", lambda: work(1.0))[0] == [1.0, 2.0]
    spent = first.run("two", lambda: work(2.0))[1]
    again = Sweep(context)
    assert again.run("one", lambda: work(5.0))[0] == [1.0, 2.0]
    assert again.run("two", lambda: work(5.0)) == ([2.0, 4.0], spent)
    assert again.run("three", lambda: work(3.0))[0] == [3.0, 6.0]
    assert made == [1.0, 2.0, 3.0]


def test_the_paired_interval_is_students():
    low, high = paired_interval(np.array([1.0, 2.0, 3.0, 4.0]))
    assert (low + high) / 2 == pytest.approx(2.5)
    assert high - low == pytest.approx(2 * 3.182446 * 1.290994 / 2, rel=1e-5)


def test_agents_of_a_case_are_picked_by_name():
    assert [arm.label for arm in picked("params-mean, qppo", SUPPLY)] == ["qppo", "params_mean"]
    assert picked("", SUPPLY) == list(SUPPLY)
    with pytest.raises(UsageError, match="qppo"):
        picked("qpo", SUPPLY)


def test_the_blind_policy_cannot_use_its_wealth_and_the_mix_is_its_careful_end():
    mix = next(arm for arm in PORTFOLIO if arm.label == "mix")
    quantile, mean = invest(mix, make("Portfolio"), 0)
    assert quantile == pytest.approx(-2.2, abs=0.15)
    assert mean > 0


def test_rates_count_the_steps_of_both_forms():
    environment = make("LostSales", periods=6)
    noise = environment.noise(Key(run=1), 0, 8)
    actions = random_actions(environment.action, 6, 8, Key(run=1))
    assert actions.shape == (6, 8, 1)
    works = {
        "plain": (12, one_by_one(environment, noise, actions, 2)),
        "numpy": (48, batched(environment, noise, actions)),
    }
    rates = rates_of(works, rounds=1, seconds=0.01)
    assert set(rates) == {"plain", "numpy"}
    assert min(rates.values()) > 0
