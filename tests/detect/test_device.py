"""Exports equal the engine in four formats; devices are simulated, counted, budgeted, calibrated, and never needed."""

import builtins
import json
import runpy

import numpy as np
import pytest
import torch

from onlyforward.cli.main import main
from onlyforward.core.errors import MissingExtra, OracleUnreachable, UsageError
from onlyforward.core.keys import Key
from onlyforward.detect.ansatz import FAMILIES, Ansatz
from onlyforward.detect.backends import Account, make_backend
from onlyforward.detect.engine import Engine, features
from onlyforward.detect.estimator import QuantumSVDD
from onlyforward.detect.prepare import state_angles

pytest.importorskip("qiskit_aer")
pytest.importorskip("pennylane")

from onlyforward.detect import pennylane, qiskit


def states(b, n):
    psi = np.random.default_rng(n).normal(size=(b, 2**n))
    return psi / np.linalg.norm(psi, axis=1, keepdims=True)


def call(capsys, *words):
    code = main([*map(str, words), "--json"])
    return code, json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("device") / "fit"
    words = ["--data", "digits", "--normal", "3", "--preset", "device", "--max-epochs", "20", "--out", str(folder)]
    assert main(["detect", "fit", *words, "--json"]) == 0
    return folder


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("n", [2, 3, 4])
def test_every_format_makes_the_engines_states(family, n):
    ansatz = Ansatz(family, n, 2)
    theta = np.random.default_rng(1).normal(size=ansatz.parameters)
    psi = states(3, n)
    exact = Engine(ansatz, "float64").state(torch.from_numpy(psi), torch.from_numpy(theta)).numpy()
    exported = qiskit.ParametricCircuit(ansatz, theta)
    turns = state_angles(psi)
    for circuit in (exported.bound(), qiskit.read_qasm3(exported.qasm3()), qiskit.read_qpy(exported.qpy())):
        assert np.abs(qiskit.amplitudes(circuit, turns) - exact).max() < 1e-10
    assert np.abs(pennylane.states(ansatz, psi, theta) - exact).max() < 1e-10


def test_pennylanes_source_and_qnode_give_the_latents(tmp_path):
    ansatz = Ansatz("ry_rz_brick", 3, 2)
    theta = np.random.default_rng(0).normal(size=ansatz.parameters)
    psi = states(4, 3)
    exact = Engine(ansatz, "float64").expect(torch.from_numpy(psi), torch.from_numpy(theta)).numpy()
    (tmp_path / "circuit.py").write_text(pennylane.source(ansatz, theta))
    module = runpy.run_path(str(tmp_path / "circuit.py"))
    for circuit in (module["circuit"], pennylane.qnode(ansatz, theta)):
        assert np.abs(np.stack(circuit(psi), axis=1) - exact).max() < 1e-10


@pytest.mark.parametrize("index", [1, 2, 4, 6])
def test_basis_states_keep_their_order_of_bits(index):
    ansatz = Ansatz("ry_brick", 3, 1)
    psi = torch.eye(8, dtype=torch.float64)[index : index + 1]
    theta = torch.zeros(3, dtype=torch.float64)
    law = make_backend("aer", ansatz).law(psi, theta, shots=20, key=Key())
    assert law[0].tolist() == Engine(ansatz, "float64").probabilities(psi, theta)[0].tolist()


@pytest.mark.parametrize("spec", ["aer", "pennylane"])
def test_simulators_draw_from_the_engines_law_and_rows_are_independent(spec):
    ansatz = Ansatz("ry_brick", 2, 1)
    psi = torch.from_numpy(states(1, 2)).expand(200, -1)
    theta = torch.tensor([0.4, 0.8], dtype=torch.float64)
    made = make_backend(spec, ansatz)
    law = made.law(psi, theta, shots=200, key=Key(run=1)).numpy()
    exact = Engine(ansatz, "float64").probabilities(psi[:1], theta)[0].numpy()
    error = np.sqrt(exact * (1 - exact) / (200 * 200))
    assert (np.abs(law.mean(0) - exact) < 4 * error + 1e-12).all()
    assert (np.abs(law.var(0) * 200 / (exact * (1 - exact)) - 1) < 0.5).all()
    assert (made.law(psi[:3], theta, shots=200, key=Key(run=1)).numpy() == law[:3]).all()


def test_one_transpilation_serves_120_rows_and_their_own_angles():
    ansatz, account = Ansatz("ry_brick", 3, 2), Account()
    made = make_backend("fake_manila", ansatz, account=account)
    theta = torch.randn(120, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    psi = torch.from_numpy(states(120, 3))
    f, spread = made.expect_features(psi, theta, shots=64, key=Key(), latent="z+zz", spread=True)
    made.expect_features(psi, theta[0], shots=64, key=Key(step=1))
    assert made.transpiles == 1
    assert f.shape == (120, 6)
    assert spread.shape == (120, 6, 6)
    assert (made.jobs, made.shots) == (account.jobs, account.shots) == (240, 240 * 64)
    exact = features(Engine(ansatz, "float64").probabilities(psi, theta), "z+zz")
    assert np.corrcoef(f.flatten(), exact.flatten())[0, 1] > 0.8


def test_unknown_devices_missing_tokens_and_small_devices_are_said(monkeypatch):
    ansatz = Ansatz("ry_brick", 6, 1)
    with pytest.raises(UsageError, match="nearest names are fake_manila"):
        make_backend("fake_manilla", ansatz)
    monkeypatch.delenv(qiskit.TOKEN, raising=False)
    with pytest.raises(OracleUnreachable, match="QISKIT_IBM_TOKEN"):
        make_backend("ibm:nowhere", ansatz)
    small = make_backend("fake_manila", ansatz)
    with pytest.raises(UsageError, match="5 qubits, the detector 6"):
        small.expect_features(torch.eye(64, dtype=torch.float64)[:1], torch.zeros(6), shots=8, key=Key())
    with pytest.raises(UsageError, match="measures with shots"):
        make_backend("aer", ansatz).law(torch.eye(64)[:1], torch.zeros(6), shots=None, key=Key())


def test_a_dry_run_says_everything_and_sends_nothing(fitted, capsys, monkeypatch):
    monkeypatch.setattr(qiskit.QiskitBackend, "sampled", lambda *_: pytest.fail("something was sent"))
    code, report = call(capsys, "detect", "run-on-device", fitted, "--dry-run", "--max-shots", "1000")
    assert code == 0
    metrics = report["metrics"]
    assert metrics["jobs"] == 100 + 120
    assert metrics["shots"] == 220 * 4096
    assert metrics["sent_jobs"] == metrics["sent_shots"] == 0
    assert metrics["depth"] > metrics["two_qubit_gates"] > 14
    assert "Nothing was sent" in report["answer"]
    assert "--max-shots 1000 would end it earlier" in report["answer"]


def test_a_run_on_a_device_is_judged_against_the_simulator(fitted, tmp_path, capsys):
    words = ["detect", "run-on-device", fitted, "--backend", "fake_manila", "--shots", "256", "--rows", "40"]
    code, report = call(capsys, *words, "--calibration-rows", "40", "--out", tmp_path / "run")
    assert code == 0
    metrics = report["metrics"]
    for arm in ("exact", "ideal", "uncalibrated", "refit", "mahalanobis"):
        assert 0.4 < metrics[f"{arm}_auroc"] <= 1.0
        assert 0.3 < metrics[f"{arm}_accuracy"] <= 1.0
    assert metrics["mahalanobis_accuracy"] > 0.7
    assert metrics["worst_accuracy"] == metrics["mahalanobis_worst_accuracy"]
    assert 0.5 < metrics["contraction"] < 1.0
    assert metrics["transpiles"] == 1
    assert (metrics["jobs"], metrics["shots"]) == (80, 80 * 256) == (metrics["sent_jobs"], metrics["sent_shots"])
    assert "classically" not in report["answer"]
    again = call(capsys, *words, "--calibration-rows", "40")[1]
    assert again["digest"] == report["digest"]


def test_budgets_hold_and_keep_what_was_paid(tmp_path, capsys):
    words = ["--data", "digits", "--normal", "all", "--preset", "device", "--max-epochs", "1"]
    assert call(capsys, "detect", "fit", *words, "--out", tmp_path / "fit")[0] == 0
    words = ["detect", "run-on-device", tmp_path / "fit", "--backend", "fast", "--shots", "64"]
    words += ["--rows", "20", "--calibration-rows", "20", "--out", tmp_path / "run"]
    code, _ = call(capsys, *words, "--max-shots", "8000")
    assert code == 3
    kept = json.loads((tmp_path / "run" / "result.json").read_text())
    assert kept["status"] == "partial"
    assert kept["metrics"]["shots"] == 3 * 40 * 64 <= 8000
    assert kept["metrics"]["refit_auroc"] > 0.5


def test_a_paid_run_that_is_killed_counts_what_it_had_sent(tmp_path, capsys, monkeypatch):
    from onlyforward.detect import device
    from onlyforward.detect.backends import FastNoise
    from onlyforward.run.signals import Interrupted

    words = ["--data", "digits", "--normal", "all", "--preset", "device", "--max-epochs", "1"]
    assert call(capsys, "detect", "fit", *words, "--out", tmp_path / "fit")[0] == 0
    monkeypatch.setattr(device, "make_backend", lambda _, ansatz, *, account, seed: FastNoise(ansatz, account))
    plain, calls = device.measure, []

    def dying(*given):
        calls.append(given)
        if isinstance(given[1], FastNoise) and given[3].step == 2:
            raise Interrupted(2)
        return plain(*given)

    monkeypatch.setattr(device, "measure", dying)
    words = ["detect", "run-on-device", tmp_path / "fit", "--backend", "ibm:test", "--shots", "64", "--rows", "20"]
    words += ["--calibration-rows", "20", "--out", tmp_path / "run"]
    assert main([*map(str, words), "--json"]) == 130
    capsys.readouterr()
    monkeypatch.setattr(device, "measure", plain)
    code, report = call(capsys, "resume", tmp_path / "run")
    assert code == 0
    assert report["metrics"]["sent_shots"] == 8 * 40 * 64
    assert report["metrics"]["shots"] == 11 * 40 * 64


def test_a_calibrated_detector_scores_where_it_was_calibrated(fitted, tmp_path, capsys):
    code, report = call(
        capsys, "detect", "calibrate", fitted, "--backend", "fast", "--shots", "512", "--out", tmp_path / "there"
    )
    assert code == 0
    assert report["metrics"]["shots"] == 100 * 512
    assert report["metrics"]["threshold"] != report["metrics"]["threshold_before"]
    code, scored = call(capsys, "detect", "score", tmp_path / "there", "--data", "digits")
    assert code == 0
    assert scored["metrics"]["auroc"] > 0.8
    detector = QuantumSVDD.load(tmp_path / "there" / "detector")
    assert (detector.calibrated_on_, detector._calibrated_shots) == ("fast", 512)
    assert call(capsys, "detect", "calibrate", fitted, "--backend", "fast")[0] == 2
    assert call(capsys, "detect", "run-on-device", fitted, "--backend", "fake_manilla", "--dry-run")[0] == 2
    assert call(capsys, "detect", "run-on-device", "--backend", "fast")[0] == 2


@pytest.mark.parametrize(("form", "name"), [("qiskit", "qpy"), ("qasm3", "qasm"), ("pennylane", "py")])
def test_exports_are_written_and_compared(fitted, tmp_path, capsys, form, name):
    code, report = call(capsys, "detect", "export", fitted, "--format", form, "--out", tmp_path / form)
    assert code == 0
    assert report["metrics"]["max_state_error"] < 1e-10
    assert report["metrics"]["two_qubit_gates"] == 14 + 12
    assert (tmp_path / form / f"circuit.{name}").stat().st_size == report["metrics"]["bytes"]


@pytest.mark.parametrize("spec", ["aer", "fake_manila", "pennylane"])
def test_a_missing_extra_is_one_sentence(spec, monkeypatch):
    plain = builtins.__import__

    def blocked(name, *rest, **more):
        if name.split(".")[0] in ("qiskit", "qiskit_aer", "qiskit_ibm_runtime", "pennylane"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return plain(name, *rest, **more)

    def absent(module, *_):
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr(builtins, "__import__", blocked)
    monkeypatch.setattr("onlyforward.core.checks.importlib.import_module", absent)
    with pytest.raises(MissingExtra, match=r"onlyforward\[quantum\]"):
        make_backend(spec, Ansatz("ry_brick", 2, 1)).expect_features(
            torch.eye(4, dtype=torch.float64)[:1], torch.zeros(2), shots=8, key=Key()
        )
