"""Noise models against Aer and hand-made products, and what calibration does and does not change."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

from onlyforward.core.keys import Key
from onlyforward.detect.ansatz import Ansatz
from onlyforward.detect.backends import Density, FastNoise, TorchBackend, plan_shots
from onlyforward.detect.engine import reversed_bits
from onlyforward.detect.estimator import QuantumSVDD
from onlyforward.detect.noise import Noise, contraction, depolarised, misread
from onlyforward.detect.score import crossfit, threshold


def states(b, n):
    psi = np.random.default_rng(n).normal(size=(b, 2**n))
    return torch.from_numpy(psi / np.linalg.norm(psi, axis=1, keepdims=True))


@pytest.mark.parametrize("family", ["ry_brick", "su4_shared"])
def test_the_density_engine_is_aers_with_the_same_channel(family):
    aer = pytest.importorskip("qiskit_aer")
    from qiskit_aer.noise import NoiseModel, depolarizing_error

    from onlyforward.detect.qiskit import ParametricCircuit

    ansatz = Ansatz(family, 3, 1)
    noise = Noise(p1=0.01, p2=0.05, readout01=0.0, readout10=0.0)
    theta = torch.randn(ansatz.parameters, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    psi = states(3, 3)
    ours = Density(ansatz, noise=noise).law(psi, theta, shots=None, key=Key())
    model = NoiseModel()
    model.add_all_qubit_quantum_error(depolarizing_error(0.01, 1), ["ry", "rz"])
    model.add_all_qubit_quantum_error(depolarizing_error(0.05, 2), ["cx"])
    exported = ParametricCircuit(ansatz, theta.numpy())
    simulator = aer.AerSimulator(method="density_matrix", noise_model=model)
    for row, values in enumerate(exported.values(psi.numpy())):
        circuit = exported.circuit.assign_parameters(dict(zip(exported.parameters, values, strict=True)))
        circuit.save_density_matrix()
        rho = simulator.run(circuit).result().data()["density_matrix"].data
        assert np.abs(np.diag(rho).real[reversed_bits(3)] - ours[row].numpy()).max() < 1e-10


def test_readout_errors_are_products_of_confusion_matrices():
    law = torch.tensor([[0.4, 0.3, 0.2, 0.1]], dtype=torch.float64)
    table = np.array([[0.98, 0.05], [0.02, 0.95]])
    assert np.abs(misread(law, 0.02, 0.05).numpy()[0] - np.kron(table, table) @ law.numpy()[0]).max() < 1e-15


def test_a_global_mix_scales_features_and_leaves_the_calibrated_ranking():
    x, y = load_digits(return_X_y=True)
    train, test = x[y == 3][:60], np.concatenate([x[y == 3][60:], x[y != 3][:200]])
    anomalous = np.arange(len(test)) >= (y == 3).sum() - 60
    noise = Noise(p1=0.001, p2=0.02, readout01=0.0, readout10=0.0)
    areas = {}
    for statistic in ("distance", "mahalanobis"):
        detector = QuantumSVDD.preset(
            "device", statistic=statistic, center="refit", threshold="train", max_epochs=3, random_state=0
        ).fit(train)
        there = detector.calibrate(train, FastNoise(detector.circuit_, noise=noise), shots=None)
        areas[statistic] = [roc_auc_score(anomalous, made.anomaly_scores(test)) for made in (detector, there)]
        a = contraction(detector.circuit_, noise)
        assert np.abs(there.latents(test) - a * detector.latents(test)).max() < 1e-12
    assert areas["distance"][0] == areas["distance"][1]
    # The shrinkage of Ledoit-Wolf depends on the scale of the features only through rounding.
    assert areas["mahalanobis"][0] == pytest.approx(areas["mahalanobis"][1], abs=1e-9)


def test_depolarised_laws_stay_laws():
    law = depolarised(torch.tensor([[1.0, 0.0, 0.0, 0.0]], dtype=torch.float64), 0.2)
    assert law.tolist()[0] == pytest.approx([0.85, 0.05, 0.05, 0.05])


def test_shots_grow_like_the_fourth_power_of_the_contraction():
    assert plan_shots(0.5, 0.02) == pytest.approx(16 * plan_shots(1.0, 0.02), rel=1e-3)


def test_scoring_on_a_noisy_backend_without_calibration_warns_and_with_it_does_not():
    x = np.random.default_rng(0).normal(size=(30, 3))
    detector = QuantumSVDD(max_epochs=2, random_state=0).fit(x)
    before = detector.radius_
    with pytest.warns(UserWarning, match="use calibrate"):
        detector.anomaly_scores(x, backend="fast", shots=256)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        there = detector.calibrate(x, "fast", shots=1024)
        assert (there.predict(x) == 1).mean() > 0.7
        detector.anomaly_scores(x, backend="torch")
    assert there.calibrated_on_ == "fast"
    assert detector.radius_ == before
    assert there.radius_ != before


def test_crossfit_thresholds_hold_on_gaussian_latents():
    alarms = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        train, new = rng.normal(size=(100, 8)), rng.normal(size=(400, 8))
        from onlyforward.detect.score import fit_law, mahalanobis

        limit = threshold(crossfit(train, Key(run=seed)), 0.1)
        alarms.append((mahalanobis(new, *fit_law(train)) > limit).mean())
    assert 0.05 < np.mean(alarms) < 0.16


def test_every_backend_of_ours_counts_what_it_ran():
    ansatz = Ansatz("ry_brick", 3, 2)
    theta = torch.zeros(ansatz.parameters, dtype=torch.float64)
    for made in (TorchBackend(ansatz), FastNoise(ansatz), Density(ansatz)):
        made.expect_features(states(5, 3), theta, shots=10, key=Key())
        made.expect_features(states(5, 3), theta, shots=None, key=Key())
        assert (made.jobs, made.shots) == (made.account.jobs, made.account.shots) == (5, 50)
