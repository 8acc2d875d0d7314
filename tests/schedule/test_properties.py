"""What must hold for every instance: round trips, symmetry, no overlap, the same answer again, known optima."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onlyforward.cli.main import main
from onlyforward.core.keys import Key
from onlyforward.run.signals import Interrupted
from onlyforward.schedule.cost import FAMILIES, sample
from onlyforward.schedule.generate import weighted_tardiness
from onlyforward.schedule.jobs import Jobs, total_cost
from onlyforward.schedule.pipeline import solve
from onlyforward.schedule.problem import make_problem
from onlyforward.schedule.read import read_instance
from onlyforward.schedule.special import subset_optimum, tardiness

QUICK = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def instances(draw, most=7):
    n = draw(st.integers(1, most))
    column = lambda low, high: draw(st.lists(st.integers(low, high), min_size=n, max_size=n))  # noqa: E731
    families = draw(st.lists(st.sampled_from(sorted(FAMILIES)), min_size=n, max_size=n))
    return Jobs(column(1, 30), r=column(0, 40), weight=column(0, 9), due=column(0, 90), cost=families)


@QUICK
@given(jobs=instances())
def test_any_instance_survives_a_csv_file(jobs, tmp_path):
    jobs.write(tmp_path / "jobs.csv")
    again = read_instance(tmp_path / "jobs.csv")
    assert again.hash == jobs.hash
    assert again.names == jobs.names


@QUICK
@given(jobs=instances(), seed=st.integers(0, 99))
def test_plans_never_overlap_nor_start_early_and_their_cost_is_what_they_say(jobs, seed):
    found = solve(jobs, iterations=5, time_limit=2, seed=seed, bound=False)
    order = found.sequence
    assert (found.start[order] >= jobs.r[order]).all()
    assert (found.start[order][1:] >= found.completion[order][:-1]).all()
    assert found.objective == total_cost(jobs, order)
    assert found.lower_bound <= found.objective


@QUICK
@given(jobs=instances(), factor=st.integers(2, 50))
def test_longer_units_of_time_change_nothing_but_the_unit(jobs, factor):
    jobs = jobs.with_cost("weighted-tardiness")
    longer = Jobs(jobs.p * factor, r=jobs.r * factor, weight=jobs.weight, due=jobs.due * factor)
    base, scaled = (solve(some, iterations=5, time_limit=2, bound=False).objective for some in (jobs, longer))
    assert scaled == factor * base


def test_order_of_the_rows_does_not_matter_to_the_optimum():
    for step in range(5):
        jobs = weighted_tardiness(11, Key(41, step=step))
        best = subset_optimum(jobs)[0]
        mixed = Key(42, step=step).numpy().permutation(jobs.n)
        other = Jobs(jobs.p[mixed], weight=jobs.weight[mixed], due=jobs.due[mixed])
        assert solve(jobs, iterations=150, bound=False).objective == best
        assert solve(other, iterations=150, bound=False).objective == best


def test_search_reaches_the_optimum_of_the_subset_program_in_a_hundred_cases():
    for step in range(100):
        jobs = weighted_tardiness(9, Key(43, step=step))
        best = subset_optimum(jobs)[0]
        assert solve(jobs, iterations=200, bound=False, goal=best).objective == best


def test_special_instances_of_a_thousand_jobs_take_under_a_second_of_processor_time():
    import time

    begin = time.process_time()
    jobs, value, sequence = tardiness(1000, Key(44))
    assert time.process_time() - begin < 1
    assert total_cost(jobs, sequence) == value


def test_sampled_callables_become_step_costs_and_falling_ones_are_refused():
    table = sample(lambda j, c: (j + 1) * c**2, 3, 30, resolution=30)
    jobs = Jobs([5, 10, 15], cost=table)
    assert jobs.costs(np.array([5, 10, 30])).tolist() == [25, 200, 2700]
    with pytest.raises(Exception, match="falls"):
        Jobs([5, 10], cost=sample(lambda j, c: -c, 2, 15))


def batch(capsys, folder, *words):
    code = main(
        ["schedule", "solve", str(folder), "--pattern", "*.csv", "--all", "--iterations", "40", *words, "--json"]
    )
    return code, json.loads(capsys.readouterr().out)


def without_times(report):
    return [row[:8] for row in report["tables"][0]["rows"]]


def test_batches_give_the_same_table_with_two_workers_and_after_an_interruption(tmp_path, capsys, monkeypatch):
    from onlyforward.run.context import Context

    for i in range(5):
        weighted_tardiness(15, Key(45, step=i)).write(tmp_path / f"job{i}.csv")
    whole = batch(capsys, tmp_path)[1]
    assert without_times(batch(capsys, tmp_path, "--workers", "2")[1]) == without_times(whole)
    plain = Context.save

    def stopping(self, step, state):
        plain(self, step, state)
        if step == 2:
            raise Interrupted(2)

    monkeypatch.setattr(Context, "save", stopping)
    assert batch(capsys, tmp_path, "--out", str(tmp_path / "cut"), "--checkpoint-seconds", "0")[0] == 130
    monkeypatch.setattr(Context, "save", plain)
    assert main(["resume", str(tmp_path / "cut"), "--json"]) == 0
    resumed = json.loads(capsys.readouterr().out)
    assert resumed["resumed_from"] == [2]
    assert without_times(resumed) == without_times(whole)


def test_first_published_optima_are_reached_exactly():
    from onlyforward.data.sets import folder
    from onlyforward.schedule.read import read_optima

    try:
        place = folder("scheduling")
    except Exception as error:
        pytest.skip(str(error))
    known = [value for _, value in read_optima(place / "wtopt40.txt")]
    for i in range(25):
        jobs = read_instance(place / "wt40.txt", format="orlib", index=i + 1)
        assert solve(jobs, iterations=3000, time_limit=20, bound=False, goal=known[i]).objective == known[i]


def test_all_free_jobs_settled_gives_a_plan_without_search():
    jobs = Jobs([3, 2], weight=[0, 0], due=[0, 0])
    found = solve(jobs)
    assert found.status == "optimal"
    assert make_problem(jobs).n == 0
