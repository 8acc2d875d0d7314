"""Paid endpoints over real HTTP: a killed run goes on without paying twice, a lost one leaves by its own exit code."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from onlyforward.data.sets import load
from onlyforward.tune.endpoint import ScoreServer

pytest.importorskip("httpx")


def classify():
    data = load("digits")
    means = torch.stack([data.x_train[data.y_train == k].flatten(1).mean(0) for k in range(10)])
    return lambda rows: -30 * torch.cdist(rows.flatten(1), means) ** 2


def command(url, out):
    task = f"--model {url} --data digits --shift rotation --severity 25 --shots 4 --budget 700 --batch 16"
    return [
        sys.executable, "-m", "onlyforward", "tune", "vision", *task.split(),
        "--test-limit", "20", "--json", "--out", str(out), "--checkpoint-seconds", "0",
    ]  # fmt: skip


def test_a_killed_paid_run_goes_on_without_paying_twice(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with ScoreServer(classify()) as server:
        child = subprocess.Popen(
            command(server.url, tmp_path / "a"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        )
        deadline = time.monotonic() + 120
        while server.seen < 300 and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        child.send_signal(signal.SIGKILL)
        child.communicate()
        lost = server.repeated
        resume = [sys.executable, "-m", "onlyforward", "resume", str(tmp_path / "a"), "--json"]
        done = subprocess.run(resume, capture_output=True, text=True, env=environment, timeout=200, check=False)
        assert done.returncode == 0, done.stderr
        metrics = json.loads(done.stdout)["metrics"]
        # Rows in flight at the kill may be asked again; test images are asked outside the ledger.
        assert server.repeated - lost <= 64
        assert metrics["queries"] <= 700
    with ScoreServer(classify()) as server:
        whole = subprocess.run(
            command(server.url, tmp_path / "b"),
            capture_output=True,
            text=True,
            env=environment,
            timeout=200,
            check=False,
        )
        assert whole.returncode == 0, whole.stderr
        assert json.loads(whole.stdout)["metrics"]["digest48"] == metrics["digest48"]
