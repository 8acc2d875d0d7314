import pytest
import torch

from onlyforward.run.application import applications
from onlyforward.run.engine import InProcess
from onlyforward.run.oracle import Oracle
from onlyforward.testing import check_application, check_engine, check_oracle

ROWS = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", sorted(applications()))
def test_every_application_keeps_its_contract(name):
    check_application(name)


def test_the_engine_of_this_process_obeys_the_laws():
    check_engine(InProcess())


def test_an_engine_that_loses_or_changes_a_task_is_caught():
    class Losing(InProcess):
        def map(self, task, keys, *, shared):
            return super().map(task, keys[1:], shared=shared)

    class Shared(InProcess):
        def map(self, task, keys, *, shared):
            for key, _ in super().map(task, keys, shared=shared):
                yield key, {"y": shared["x"]}

    with pytest.raises(AssertionError, match="missing"):
        check_engine(Losing())
    with pytest.raises(AssertionError, match="bits"):
        check_engine(Shared())


def test_a_module_as_an_oracle_obeys_the_laws():
    check_oracle(Oracle.from_module(torch.nn.Linear(3, 2)), ROWS)


@pytest.mark.parametrize(
    ("wrong", "law"),
    [
        (lambda x: x.sum(1) - x.mean(), "alone"),
        (lambda x: x.sum(1) + torch.arange(len(x)), "pure"),
    ],
)
def test_a_black_box_that_depends_on_its_batch_is_caught(wrong, law):
    with pytest.raises(AssertionError, match=law):
        check_oracle(Oracle(wrong), ROWS)
