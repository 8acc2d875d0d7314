"""Several real processes share a run and end in the bits of one."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from onlyforward.core.errors import EngineError
from onlyforward.run import workers

JOB = [
    "decide",
    "train",
    "--env",
    "BeyondGreed",
    "--agent",
    "qpo",
    "--episodes",
    "8192",
    "--batch",
    "1024",
    "--eval-episodes",
    "500",
    "--json",
]


def digest(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "onlyforward", *JOB, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["metrics"]["digest48"]


@pytest.mark.timeout(280)
def test_one_and_two_workers_end_in_the_same_bits():
    assert digest("--workers", "2") == digest()


@pytest.mark.timeout(280)
@pytest.mark.parametrize("policy", ["mlp", "base-stock"])
def test_rays_actors_end_in_the_same_bits(policy):
    pytest.importorskip("ray")
    job = [
        "decide",
        "train",
        "--env",
        "SupplyChain",
        "--episodes",
        "800",
        "--batch",
        "200",
        "--eval-episodes",
        "200",
        "--json",
    ]
    job += ["--policy", policy, "--agent", "qpo" if policy == "mlp" else "params"]
    found = []
    for arguments in ([], ["--engine", "ray", "--workers", "2"]):
        done = subprocess.run(
            [sys.executable, "-m", "onlyforward", *job, *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout)["metrics"]["digest48"])
    assert found[0] == found[1]


@pytest.mark.timeout(280)
def test_rays_engine_obeys_the_laws_of_engines():
    pytest.importorskip("ray")
    code = (
        "from onlyforward.run.ray import RayEngine; from onlyforward.testing import check_engine\n"
        "with RayEngine(2) as engine: check_engine(engine)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr


def test_no_workers_are_refused():
    done = subprocess.run(
        [sys.executable, "-m", "onlyforward", *JOB, "--workers", "0"], capture_output=True, check=False
    )
    assert done.returncode == 2


def test_a_worker_that_ends_before_it_joins_is_named_at_once(monkeypatch):
    def ended(*told):
        return subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])

    monkeypatch.setattr(workers, "started", ended)
    for name in ("RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    options = SimpleNamespace(workers=2)
    expected = pytest.raises(EngineError, match="Worker 1 ended before it joined, exit code 3")
    with expected, workers.group(options, None):
        pass
