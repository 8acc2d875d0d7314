"""The engine against matrices built gate by gate, and its gradients against central differences."""

import numpy as np
import pytest
import torch

from onlyforward.core.keys import Key
from onlyforward.detect.ansatz import FAMILIES, Ansatz
from onlyforward.detect.engine import Engine, covariance, feature_count, features, frequencies, signs
from onlyforward.detect.prepare import Circuit, preparation, state_angles

PAULI_X = np.array([[0, 1], [1, 0]])


def on(matrix, wire, n):
    total = np.eye(1)
    for qubit in range(n):
        total = np.kron(total, matrix if qubit == wire else np.eye(2))
    return total


def dense(gates, angles, n):
    """The circuit as one matrix, gate by gate."""
    unitary = np.eye(2**n, dtype=complex)
    for gate in gates:
        if gate.name == "cx":
            control, target = gate.wires
            step = on(np.diag([1, 0]), control, n) + on(np.diag([0, 1]), control, n) @ on(PAULI_X, target, n)
        else:
            half = angles[gate.angle] / 2
            if gate.name == "ry":
                matrix = np.array([[np.cos(half), -np.sin(half)], [np.sin(half), np.cos(half)]])
            else:
                matrix = np.diag([np.exp(-1j * half), np.exp(1j * half)])
            step = on(matrix, gate.wires[0], n)
        unitary = step @ unitary
    return unitary


def states(b, n, seed=0):
    psi = np.random.default_rng(seed).normal(size=(b, 2**n))
    return torch.from_numpy(psi / np.linalg.norm(psi, axis=1, keepdims=True))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_states_equal_the_dense_circuit_and_keep_their_norm(family, n):
    ansatz = Ansatz(family, n, 3)
    theta = torch.randn(ansatz.parameters, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    psi = states(7, n)
    engine = Engine(ansatz, "float64")
    exact = psi.numpy() @ dense(ansatz.gates(), ansatz.expand(theta).numpy(), n).T
    for angles in (theta, ansatz.expand(theta), theta.expand(7, -1)):
        got = engine.state(psi, angles)
        assert np.abs(got.numpy() - exact).max() < 1e-12
        assert (got.abs().square().sum(1) - 1).abs().max() < 1e-12
    law = np.abs(exact) ** 2
    many = engine.probabilities(psi.repeat(2**n, 1), theta)
    assert np.abs(many[:7].numpy() - law).max() < 1e-12


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_equal_central_differences_and_no_angle_is_dead(family):
    ansatz = Ansatz(family, 4, 2)
    engine = Engine(ansatz, "float64")
    psi = states(5, 4)
    theta = torch.randn(ansatz.parameters, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    theta.requires_grad_()

    def loss(angles):
        return (engine.expect(psi, angles, "z+zz") - 0.3).square().sum()

    loss(theta).backward()
    step = 1e-5
    found = []
    for j in range(ansatz.parameters):
        move = torch.zeros(ansatz.parameters, dtype=torch.float64)
        move[j] = step
        found.append(float(loss(theta.detach() + move) - loss(theta.detach() - move)) / (2 * step))
    assert np.abs(theta.grad.numpy() - found).max() < 1e-8
    if family != "su4_shared":
        jacobian = torch.autograd.functional.jacobian(lambda t: engine.expect(psi, t), theta.detach())
        assert (jacobian.abs().amax((0, 1)) > 1e-4).all()


def test_per_row_angles_equal_a_loop_over_rows():
    for family in FAMILIES:
        ansatz = Ansatz(family, 3, 2)
        engine = Engine(ansatz, "float64")
        theta = torch.randn(6, ansatz.parameters, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        psi = states(6, 3)
        each = torch.stack([engine.state(psi[i : i + 1], theta[i])[0] for i in range(6)])
        assert (engine.state(psi, theta) - each).abs().max() < 1e-13


def test_the_complex_engine_on_real_rotations_is_the_real_engine():
    ansatz = Ansatz("ry_brick", 5, 3)
    theta = torch.randn(ansatz.parameters, dtype=torch.float64)
    psi = states(4, 5)
    real, complexed = Engine(ansatz, "float64"), Engine(ansatz, "complex128")
    assert (real.expect(psi, theta) - complexed.expect(psi, theta)).abs().max() < 1e-14


def test_features_are_signs_of_bits_with_qubit_0_most_significant():
    table = signs(3, "z+zz+zzz", torch.float64, torch.device("cpu"))
    bits = 1 - 2 * np.array([[k >> 2 & 1, k >> 1 & 1, k & 1] for k in range(8)]).T
    pairs = [bits[0] * bits[1], bits[0] * bits[2], bits[1] * bits[2]]
    assert np.array_equal(table.numpy(), np.concatenate([bits, pairs, [bits[0] * bits[1] * bits[2]]]))
    for latent, count in {"z": 6, "z+zz": 21, "z+zz+zzz": 41}.items():
        assert feature_count(6, latent) == count


def test_shot_covariance_is_that_of_repeated_measurements():
    law = torch.tensor([[0.3, 0.1, 0.05, 0.15, 0.2, 0.1, 0.05, 0.05]], dtype=torch.float64)
    many = frequencies(law.expand(40_000, -1), 50, Key(1))
    empirical = np.cov(features(many, "z+zz+zzz").numpy().T)
    expected = covariance(many, "z+zz+zzz", 50).mean(0).numpy()
    assert np.abs(empirical - expected).max() < 4e-4
    assert abs(float(many.sum()) - 40_000) < 1e-6
    assert (frequencies(law, 50, Key(2)) == frequencies(law, 50, Key(2))).all()


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6])
def test_preparation_makes_any_signed_state_with_2_to_the_n_less_2_cnots(n):
    psi = states(5, n, seed=n).numpy()
    angles = state_angles(psi)
    gates = preparation(n)
    assert sum(gate.name == "cx" for gate in gates) == 2**n - 2
    for row in range(5):
        assert np.abs(dense(gates, angles[row], n)[:, 0] - psi[row]).max() < 1e-10


def test_the_whole_circuit_from_zero_equals_the_engine_on_the_state():
    ansatz = Ansatz("ry_rz_brick", 3, 2)
    circuit = Circuit(ansatz)
    theta = np.random.default_rng(0).normal(size=ansatz.parameters)
    psi = states(4, 3)
    angles = circuit.angles(psi.numpy(), theta)
    engine = Engine(ansatz, "float64").state(psi, torch.from_numpy(theta)).numpy()
    for row in range(4):
        assert np.abs(dense(circuit.gates, angles[row], 3)[:, 0] - engine[row]).max() < 1e-12
