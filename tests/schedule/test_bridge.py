"""Exact solvers behind the bridges agree with brute force, take our hint whole, and close a gap."""

import numpy as np
import pytest

from onlyforward.core.errors import UsageError
from onlyforward.core.keys import Key
from onlyforward.schedule import bridge
from onlyforward.schedule.dual import bound
from onlyforward.schedule.generate import weighted_tardiness
from onlyforward.schedule.jobs import Jobs, total_cost
from onlyforward.schedule.pipeline import solve

pytest.importorskip("ortools")
pytest.importorskip("highspy")


def small(n=6, **more):
    draw = Key(31, site="bridge").numpy()
    return Jobs(draw.integers(1, 8, n), weight=draw.integers(1, 6, n), due=draw.integers(1, 12, n), **more)


@pytest.mark.parametrize("family", ["weighted-tardiness", "weighted-completion", "quadratic-tardiness", "late-work"])
def test_cpsat_and_highs_prove_the_optimum_that_the_search_finds(family):
    jobs = small(r=np.array([0, 3, 0, 5, 9, 0]), cost=family)
    found = solve(jobs, iterations=200, time_limit=3, bound=False)
    exact = bridge.cpsat(jobs, 20.0, hint=found.sequence, workers=2)
    assert exact.proved
    assert exact.objective == found.objective
    assert total_cost(jobs, np.argsort(exact.start, kind="stable")) == exact.objective
    other = bridge.highs(jobs, 20.0)
    assert other.proved
    assert round(other.objective) == found.objective


def test_the_hint_names_every_variable_of_the_model():
    for family in ("weighted-tardiness", "late-work"):
        model = bridge.to_cpsat(small(cost=family), hint=np.arange(6))
        assert len(model.proto.solution_hint.vars) == len(model.proto.variables)


def test_certificate_reaches_the_linear_program_of_the_time_indexed_model_with_unit_buckets():
    jobs = small(5)
    exact = bridge.highs(jobs, 20.0, relaxed=True).lower_bound
    found = solve(jobs, iterations=100, time_limit=3, bound=False)
    proof = bound(jobs, found.sequence, time_limit=1.0, K=int(jobs.horizon))
    assert proof["lower_bound"] <= np.ceil(exact - 1e-6) <= found.objective
    assert proof["lower_bound"] >= 0.98 * exact


def test_prove_closes_what_the_certificate_leaves_open():
    jobs = weighted_tardiness(12, Key(5, site="prove"), tightness=0.6, spread=0.4)
    found = solve(jobs, iterations=100, time_limit=10, prove=True)
    assert found.status == "optimal"
    assert found.lower_bound == found.objective == total_cost(jobs, found.sequence)


def test_models_too_large_or_fractional_are_refused():
    with pytest.raises(UsageError, match="cells"):
        bridge.to_highs(weighted_tardiness(300, Key(1)))
    with pytest.raises(UsageError, match="whole"):
        bridge.to_cpsat(Jobs([1.5, 2.0], due=[1, 1]))


def test_mps_files_are_written(tmp_path):
    bridge.to_mps(small(3), tmp_path / "model.mps")
    assert "ROWS" in (tmp_path / "model.mps").read_text()


def test_pyjobshop_problems_become_jobs_and_back():
    pytest.importorskip("pyjobshop")
    from onlyforward.schedule.peers import to_pyjobshop

    jobs = small()
    assert bridge.from_pyjobshop(to_pyjobshop(jobs).data()).hash == jobs.hash
