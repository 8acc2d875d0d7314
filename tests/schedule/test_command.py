"""What a planner types, and every bad input."""

import json
import subprocess
import sys

import numpy as np
import pytest

from onlyforward.cli.main import main
from onlyforward.core.errors import FileError, OnlyForwardError, UsageError
from onlyforward.core.keys import Key
from onlyforward.schedule.generate import weighted_tardiness
from onlyforward.schedule.jobs import Jobs
from onlyforward.schedule.pipeline import solve
from onlyforward.schedule.read import read_instance


@pytest.fixture
def instance(tmp_path):
    jobs = weighted_tardiness(25, Key(1, site="test"), tightness=0.6, spread=0.4)
    jobs.write(tmp_path / "jobs.csv")
    return tmp_path / "jobs.csv"


def call(capsys, *words):
    code = main([*map(str, words), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_solve_writes_plan_chart_and_certificate_that_verify(instance, capsys):
    plan, proof, chart = (instance.with_name(name) for name in ("plan.csv", "c.json", "g.svg"))
    words = ["--plan", plan, "--certificate", proof, "--gantt", chart, "--explain", "3", "--iterations", "200"]
    code, report = call(capsys, "schedule", "solve", instance, "--time-limit", "2", *words)
    assert code == 0
    assert 0 < report["metrics"]["lower_bound"] <= report["metrics"]["objective"]
    assert chart.read_text().count("<title>") == 25
    code, checked = call(capsys, "schedule", "verify", instance, "--plan", plan, "--certificate", proof)
    assert code == 0
    assert checked["metrics"]["objective"] == report["metrics"]["objective"]
    lines = plan.read_text().splitlines()
    cells = lines[5].split(",")
    cells[-1] = str(int(cells[-1]) + 1)
    plan.write_text("\n".join([*lines[:5], ",".join(cells), *lines[6:]]))
    assert call(capsys, "schedule", "verify", instance, "--plan", plan)[0] == 2


def test_batch_reports_hits_and_goes_on_after_a_broken_instance(instance, capsys):
    (instance.parent / "broken.csv").write_text("job,p,d\n1,0,3\n")
    code, report = call(
        capsys, "schedule", "solve", instance.parent, "--pattern", "*.csv", "--all", "--iterations", "50"
    )
    assert code == 0
    assert report["metrics"]["instances"] == 2
    assert report["metrics"]["failures"] == 1
    assert any("row 2, column p" in str(row) for row in report["tables"][0]["rows"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("job,d\n1,2\n", "column p"),
        ("job,p,d\n1,,2\n", "row 2, column p: the cell is empty"),
        ("job,p,d\n1,0,2\n", "row 2, column p: 0 must be above 0"),
        ("job,p,d,r\n1,1,2,-1\n", "column r: -1"),
        ("job,p,d,w\n1,1,2,nan\n", "column w: nan is not finite"),
        ("job,p,d\n1,x,2\n", "'x' is not a number"),
        ("job,p,d\n1,1,2\n1,1,2\n", "row 3, column job: the name '1' occurs twice"),
        ("job,p\n1,1\n", "column d (due date) is missing"),
        ("job,p,d\n", "holds no jobs"),
        ("", "is empty"),
        ("job,p,d\n1,1\n", "2 cells instead of 3"),
        ("job,p,d\n1,9223372036854775808,2\n", "2^62"),
        ("job,p,d\n1,1e308,2\n2,1e308,2\n", "."),
    ],
)
def test_bad_files_are_one_sentence_with_place(tmp_path, content, words):
    path = tmp_path / "bad.csv"
    path.write_text(content)
    with pytest.raises(FileError) as error:
        read_instance(path)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_ragged_orlib_files_and_wrong_indices_are_named(tmp_path):
    path = tmp_path / "wt40.txt"
    path.write_text(" ".join(["1"] * 150))
    with pytest.raises(FileError, match="Give --n 50"):
        read_instance(path)
    path.write_text(" ".join(["1"] * 240))
    with pytest.raises(FileError, match=r"Give --index 1\.\.2"):
        read_instance(path, index=3)


def test_byte_order_mark_semicolons_and_windows_lines_are_read(tmp_path):
    path = tmp_path / "jobs.csv"
    path.write_bytes("\ufeffID;Duration;Due_Date\r\na;3;4\r\nb;2.5;1\r\n".encode())
    jobs = read_instance(path)
    assert jobs.names == ["a", "b"]
    assert jobs.p.tolist() == [3.0, 2.5]
    assert jobs.arithmetic == "float64"


def test_frozen_jobs_stay_and_nothing_else_starts_before_now():
    jobs = weighted_tardiness(20, Key(4, site="test"))
    found = solve(jobs, iterations=100, fixed=[7, 2], now=400, time_limit=3)
    assert found.sequence[:2].tolist() == [7, 2]
    assert found.start[found.sequence[2:]].min() >= 400
    ordered = found.sequence
    assert (found.start[ordered[1:]] >= found.completion[ordered[:-1]]).all()
    assert found.lower_bound <= found.objective
    with pytest.raises(UsageError, match="after the horizon"):
        solve(jobs, now=10**6)


def test_warm_start_is_never_left_worse_and_seed_and_iterations_decide_everything():
    jobs = weighted_tardiness(30, Key(5, site="test"))
    first = solve(jobs, iterations=60, bound=False, seed=3)
    again = solve(jobs, iterations=60, bound=False, seed=3)
    assert first.sequence.tolist() == again.sequence.tolist()
    warm = solve(jobs, initial=first.sequence[:-3].tolist(), search="none", bound=False)
    assert warm.objective <= first.start_objective


def test_scaled_times_and_costs_scale_the_result():
    jobs = weighted_tardiness(20, Key(6, site="test"))
    base = solve(jobs, iterations=40, bound=False).objective
    longer = Jobs(jobs.p * 3, weight=jobs.weight * 2, due=jobs.due * 3)
    assert solve(longer, iterations=40, bound=False).objective == 6 * base


def test_decreasing_costs_are_refused_with_job_and_knot():
    from onlyforward.schedule.cost import Table

    with pytest.raises(OnlyForwardError, match="cost of 2 falls at knot 3"):
        Jobs([1, 1], cost=Table(np.array([[0, 1, 2], [0, 3, 1]]), np.array([1, 2, 3])))


def test_small_solves_and_verify_import_no_torch(instance):
    code = (
        "import sys; from onlyforward.cli.main import main; "
        f"main(['schedule', 'solve', {str(instance)!r}, '--iterations', '5', '--json']); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_one_instance_stands_beside_its_known_optimum(instance, capsys):
    known = instance.parent / "best.txt"
    _, free = call(capsys, "schedule", "solve", instance, "--iterations", "5")
    known.write_text(f"{free['metrics']['objective'] // 2}\n")
    _, report = call(capsys, "schedule", "solve", instance, "--iterations", "5", "--optima", known)
    assert report["metrics"]["gap_to_optimum"] == free["metrics"]["objective"] / report["metrics"]["optimum"] - 1
    _, report = call(capsys, "schedule", "bound", instance, "--time-limit", "0.3", "--optima", known)
    assert report["metrics"]["bound_to_optimum"] == report["metrics"]["lower_bound"] / report["metrics"]["optimum"] - 1


def test_wrong_options_are_one_sentence_and_exit_two(instance, capsys):
    folder = instance.parent
    (folder / "known.txt").write_text("1\n2\n")
    (folder / "plan.csv").write_text("job\nnobody\n")
    (folder / "empty").mkdir()
    many = ["schedule", "solve", instance]
    cases = [
        ([*many, "--fixed", "nobody"], "--fixed"),
        ([*many, "--fixed", "3,3"], "twice"),
        ([*many, "--initial", folder / "plan.csv"], "nobody"),
        ([*many, "--now", "1000000"], "horizon"),
        ([*many, "--plan", folder / "missing" / "plan.csv"], "cannot be written"),
        ([*many, "--all", "--optima", folder / "known.txt"], "2 optima for 1 instances"),
        ([*many, "--optima", folder / "known.txt"], "2 optima for 1 instances"),
        ([*many, "--optima", folder / "absent.txt"], "cannot be read"),
        ([*many, instance, "--optima", folder / "known.txt"], "1 optima files for 2"),
        (["schedule", "solve", folder / "empty", "--all"], "no file"),
        ([*many, "--explain", "nobody"], "--explain"),
        ([*many, "--format", "xml"], "format"),
        (["schedule", "solve", folder / "absent.csv"], "cannot be read"),
        (["schedule", "verify", instance], "--plan"),
    ]
    for words, sentence in cases:
        code, report = call(capsys, *words)
        assert code == 2, words
        assert sentence in report["error"] + report["hint"], report
        assert "\n" not in report["error"]


def test_too_many_jobs_are_refused():
    with pytest.raises(UsageError, match="At most 20000"):
        Jobs(np.ones(20_001, int), due=np.ones(20_001, int))


def test_a_certificate_of_another_instance_is_refused(instance, capsys):
    other, plan, proof = (instance.with_name(name) for name in ("other.csv", "plan.csv", "proof.json"))
    weighted_tardiness(25, Key(2, site="test"), tightness=0.6, spread=0.4).write(other)
    call(capsys, "schedule", "solve", instance, "--iterations", "50", "--plan", plan, "--certificate", proof)
    call(capsys, "schedule", "solve", other, "--iterations", "50", "--plan", plan)
    code, report = call(capsys, "schedule", "verify", other, "--plan", plan, "--certificate", proof)
    assert code == 2
    assert "another instance" in report["error"]
