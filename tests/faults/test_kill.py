"""Real child processes of the real command line, killed at random moments, must end in the same bits."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

JOBS = {
    "train": [
        "train",
        "fit",
        "--data",
        "digits",
        "--model",
        "mlp",
        "--method",
        "lr",
        "--copies",
        "16",
        "--epochs",
        "6",
    ],
    "decide": [
        "decide",
        "train",
        "--env",
        "BeyondGreed",
        "--agent",
        "qpo",
        "--episodes",
        "19200",
        "--eval-episodes",
        "500",
    ],
}


def command(*arguments):
    return [sys.executable, "-m", "onlyforward", *arguments]


def finish(*arguments):
    done = subprocess.run(command(*arguments), capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def start(*arguments):
    return subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def saved_steps(folder):
    return [int(path.stem.split("-")[1]) for path in (folder / "checkpoints").glob("step-*.json")]


def wait_for_checkpoint(folder, process, count=1, beyond=0):
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        steps = saved_steps(folder)
        if len(steps) >= count and max(steps) > beyond:
            return
        time.sleep(0.01)


def straight(name, folder):
    return JOBS[name], finish(*JOBS[name], "--out", str(folder / "run"), "--json")


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    return straight("train", tmp_path_factory.mktemp("straight"))


@pytest.mark.timeout(280)
@pytest.mark.parametrize("name", JOBS)
def test_a_run_killed_at_random_moments_ends_in_the_same_bits(name, tmp_path):
    arguments, truth = straight(name, tmp_path / "straight")
    folder = tmp_path / "run"
    moments = random.Random(7)
    process = start(*arguments, "--out", str(folder), "--checkpoint-seconds", "0", "--json")
    kills = 0
    for _ in range(4):
        wait_for_checkpoint(folder, process, beyond=max(saved_steps(folder), default=0))
        time.sleep(moments.uniform(0.0, 0.3))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += 1
        process = start("resume", str(folder))
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert kills >= 2
    found = json.loads(out)
    for name in ("digest", "forward_runs"):
        assert found[name] == truth[name], name
    assert found["metrics"]["digest48"] == truth["metrics"]["digest48"]
    assert len(found["resumed_from"]) == kills
    checkpoints = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert len(checkpoints) <= 4
    assert not any(name.startswith(".") for name in checkpoints)
    begin = time.monotonic()
    again = finish("resume", str(folder))
    assert again == json.loads((folder / "result.json").read_text()) == found
    assert again["digest"] == truth["digest"]
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_checkpoints_and_names_the_resume_command(job, tmp_path, number, code):
    arguments, truth = job
    folder = tmp_path / "run"
    process = start(*arguments, "--out", str(folder), "--checkpoint-seconds", "0")
    wait_for_checkpoint(folder, process)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert f"onlyforward resume {folder}" in err
    assert "Traceback" not in err
    assert finish("resume", str(folder), "--json")["digest"] == truth["digest"]


def test_two_processes_in_one_folder_are_refused(job, tmp_path):
    arguments, _ = job
    folder = tmp_path / "run"
    process = start(*arguments, "--out", str(folder), "--checkpoint-seconds", "0")
    wait_for_checkpoint(folder, process)
    other = subprocess.run(command("resume", str(folder)), capture_output=True, text=True, check=False)
    process.kill()
    process.communicate()
    assert other.returncode == 2
    assert "Another process" in other.stderr


def interrupted_run(job, tmp_path):
    arguments, truth = job
    folder = tmp_path / "run"
    process = start(*arguments, "--out", str(folder), "--checkpoint-seconds", "0")
    wait_for_checkpoint(folder, process, count=2)
    process.kill()
    process.communicate()
    return folder, truth


def newest(folder):
    return max((folder / "checkpoints").glob("step-*.json"), key=lambda path: int(path.stem.split("-")[1]))


def test_a_flipped_bit_in_the_newest_checkpoint_falls_back_by_name(job, tmp_path):
    folder, truth = interrupted_run(job, tmp_path)
    broken = newest(folder).with_suffix(".safetensors")
    content = bytearray(broken.read_bytes())
    content[len(content) // 2] ^= 4
    broken.write_bytes(bytes(content))
    done = subprocess.run(command("resume", str(folder), "--json"), capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert broken.stem in done.stderr
    assert json.loads(done.stdout)["digest"] == truth["digest"]


def test_checkpoints_that_are_all_broken_end_with_code_six(job, tmp_path):
    folder, _ = interrupted_run(job, tmp_path)
    for path in (folder / "checkpoints").glob("*.safetensors"):
        path.write_bytes(b"")
    done = subprocess.run(command("resume", str(folder), "--json"), capture_output=True, text=True, check=False)
    assert done.returncode == 6
    assert json.loads(done.stdout)["exit_code"] == 6
    assert "Traceback" not in done.stderr


def test_no_space_is_one_sentence_and_the_previous_checkpoint_still_loads(job, tmp_path):
    folder, truth = interrupted_run(job, tmp_path)
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600));"
        "from onlyforward.cli.main import main; raise SystemExit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "resume", str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert sum(line.startswith("error:") for line in done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr
    assert finish("resume", str(folder), "--json")["digest"] == truth["digest"]


def test_a_folder_that_vanishes_in_mid_run_is_one_sentence(job, tmp_path):
    arguments, _ = job
    folder = tmp_path / "run"
    process = start(*arguments, "--out", str(folder), "--checkpoint-seconds", "0")
    wait_for_checkpoint(folder, process)
    os.rename(folder, tmp_path / "moved")
    _, err = process.communicate(timeout=60)
    assert process.returncode in (1, 2)
    assert sum(line.startswith("error:") for line in err.splitlines()) == 1
    assert "Traceback" not in err


def test_a_run_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    done = subprocess.run(
        command(*JOBS["decide"], "--out", str(tmp_path / "file" / "run")), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
