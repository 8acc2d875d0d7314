import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from onlyforward.nn.activations import chunk_copies

FIT = ["train", "fit", "--epochs", "2", "--copies", "64", "--train-limit", "512", "--json"]


def command(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("RANK", None)
    return [sys.executable, "-m", "onlyforward", *arguments], environment


def metrics(*arguments):
    argv, environment = command(*arguments)
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["metrics"]


def children(process):
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def gone(pids, patience=30):
    deadline = time.monotonic() + patience
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.fixture(scope="module")
def alone():
    return metrics(*FIT)


@pytest.mark.parametrize(("copies", "chunks"), [(32, 2), (64, 4)])
def test_each_of_two_workers_has_a_share_of_the_copies_of_a_small_network(copies, chunks):
    assert -(-copies // chunk_copies(64, 64, copies)) == chunks


def test_three_workers_end_in_the_bits_of_one_and_exchange_losses_only(alone):
    shared = metrics(*FIT, "--workers", "3")
    assert shared["digest48"] == alone["digest48"]
    assert shared["accuracy"] == alone["accuracy"]
    assert alone["exchanged_bytes_per_step"] == 0
    # 64 copies at 2 sites for 64 data, 4 bytes each; three workers pad uneven shares of four chunks.
    assert shared["exchanged_bytes_per_step"] == 1.5 * 4 * 64 * 2 * 64


def test_a_killed_run_of_two_workers_resumes_to_the_bits_of_one_worker_uninterrupted(tmp_path, alone):
    out = tmp_path / "run"
    argv, environment = command(*FIT, "--workers", "2", "--out", str(out), "--checkpoint-seconds", "0")
    process = subprocess.Popen(argv, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    kept = out / "checkpoints"
    deadline = time.monotonic() + 200
    while len(list(kept.glob("step-*.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    followers = children(process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert followers
    assert gone(followers), "a killed run leaves no orphans"
    assert not (out / "result.json").exists()
    resumed = metrics("resume", str(out), "--json")
    assert resumed["digest48"] == alone["digest48"]
    assert json.loads((out / "result.json").read_text())["resumed_from"]


def test_torchrun_itself_may_start_the_workers(tmp_path, alone):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    argv = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "onlyforward"]
    done = subprocess.run([*argv, *FIT], env=environment, capture_output=True, text=True, timeout=240, check=False)
    objects = [line for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(objects) == 1, done.stderr
    assert json.loads(objects[0])["metrics"]["digest48"] == alone["digest48"]


def test_workers_are_refused_where_they_cannot_share():
    argv, environment = command(*FIT, "--workers", "2", "--method", "bp")
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 2
    assert "method lr" in done.stderr
