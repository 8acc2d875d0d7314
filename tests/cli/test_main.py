import json
import os
import subprocess
import sys

import pytest


def onlyforward(*arguments, **more):
    return subprocess.run(
        [sys.executable, "-m", "onlyforward", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        **more,
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["decied"], ["decide"]),
        (["decide"], ["subcommand"]),
        (["decide", "trian"], ["train"]),
        (["decide", "train", "--no-such-option"], ["no-such-option"]),
        (["decide", "train", "--env", "Suply"], ["SupplyChain"]),
        (["decide", "train", "--alpha", "1.5"], ["between 0 and 1"]),
        (["decide", "train", "--seed", "x"], ["--seed takes INT, not x."]),
        (["prune", "run", "--epochs", "two"], ["--epochs takes INT, not two."]),
        (["prune", "run", "--epochs"], ["--epochs needs a value."]),
        (["prune", "run", "--n-m", "2", "x"], ["--n-m takes INT INT, not 2 x."]),
        (["prune", "run", "--sparsity", "a", "b"], ["--sparsity takes [FLOAT [FLOAT ...]], not a b."]),
        (["prune", "model"], ["error: Missing: PATH, --arch STR. See onlyforward prune model --help"]),
        (["demo", "--only", "nothing"], ["known"]),
        (["report", "nowhere"], ["no result"]),
    ],
)
def test_bad_usage_is_one_line_with_exit_code_two(arguments, words):
    done = onlyforward(*arguments)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert "Traceback" not in done.stderr
    assert all(word in lines[0] for word in words)


def test_a_failure_with_json_still_prints_one_object():
    done = onlyforward("decide", "train", "--env", "Nowhere", "--json")
    found = json.loads(done.stdout)
    assert (found["status"], found["exit_code"], found["metrics"]) == ("failed", 2, {})
    done = onlyforward("decide", "train", "--wrong", "--json")
    assert json.loads(done.stdout)["exit_code"] == 2


def test_help_names_every_command_and_imports_nothing_heavy():
    done = onlyforward("--help")
    assert done.returncode == 0
    assert all(word in done.stdout for word in ("decide", "demo", "bench", "resume", "report", "doctor"))
    code = (
        "import sys, onlyforward.cli.main as m; m.main(['decide', 'train', '--help']);"
        "raise SystemExit(any(x in sys.modules for x in ('torch', 'numpy', 'pandas', 'matplotlib', 'ray')))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_a_run_writes_its_folder_and_a_second_one_is_refused(tmp_path):
    arguments = ["decide", "solve", "--env", "Newsvendor", "--out", str(tmp_path / "run")]
    first = onlyforward(*arguments, "--json")
    found = json.loads(first.stdout)
    assert found["status"] == "done"
    assert json.loads((tmp_path / "run" / "result.json").read_text())["digest"] == found["digest"]
    assert (tmp_path / "run" / "report.html").stat().st_size > 1000
    again = onlyforward(*arguments)
    assert again.returncode == 2
    assert "onlyforward resume" in again.stderr
    other = onlyforward("decide", "envs", "--out", str(tmp_path / "run"))
    assert other.returncode == 2
    assert "decide solve" in other.stderr
    stored = onlyforward("resume", str(tmp_path / "run"), "--json")
    assert json.loads(stored.stdout)["digest"] == found["digest"]


def test_a_report_can_be_rebuilt_in_every_format(tmp_path):
    onlyforward("decide", "solve", "--env", "SS", "--out", str(tmp_path / "run"))
    for form, sign in (("md", "###"), ("latex", "tabular"), ("csv", ",")):
        assert sign in onlyforward("report", str(tmp_path / "run"), "--format", form).stdout
    done = onlyforward("report", str(tmp_path / "run"), "--json")
    assert json.loads(done.stdout)["metrics"]["external_references"] == 0


def test_a_closed_pipe_leaves_no_traceback():
    done = subprocess.run(
        f"{sys.executable} -m onlyforward bench list | head -1", shell=True, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr


def test_no_colour_and_no_terminal_mean_plain_text():
    done = onlyforward("bench", "list", env={**os.environ, "NO_COLOR": "1"})
    assert done.returncode == 0
    assert "\x1b" not in done.stdout


def test_resume_of_an_empty_folder_is_exit_six(tmp_path):
    assert onlyforward("resume", str(tmp_path)).returncode == 6
    assert onlyforward("resume", str(tmp_path / "missing")).returncode == 6
