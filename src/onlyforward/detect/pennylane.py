"""PennyLane: the trained circuit as a QNode, as Python source, and as a backend to compare with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onlyforward.core.checks import require
from onlyforward.core.keys import Key
from onlyforward.detect.ansatz import Ansatz, Gate
from onlyforward.detect.backends import LawBackend


def apply_gates(gates: tuple[Gate, ...], turns: Any) -> None:
    """Queue gates whose angles are turns[..., index]; a leading axis of `turns` is PennyLane's broadcasting."""
    qml = require("pennylane", "quantum")
    for gate in gates:
        if gate.name == "cx":
            qml.CNOT(wires=list(gate.wires))
        else:
            (qml.RY if gate.name == "ry" else qml.RZ)(turns[..., gate.angle], wires=gate.wires[0])


def qnode(ansatz: Ansatz, theta: np.ndarray) -> Callable[[np.ndarray], Any]:
    """Amplitudes [2^n] or [b, 2^n] -> expectations of the n Z latents, each [] or [b]; wire 0 is qubit 0."""
    qml = require("pennylane", "quantum")
    turns = ansatz.expand(torch.as_tensor(np.asarray(theta, dtype=np.float64))).numpy()
    wires = range(ansatz.n)

    @qml.qnode(qml.device("default.qubit", wires=wires))
    def circuit(psi: np.ndarray) -> Any:
        qml.StatePrep(psi, wires=wires)
        apply_gates(ansatz.gates(), turns)
        return [qml.expval(qml.Z(wire)) for wire in wires]

    return circuit  # type: ignore[no-any-return]


def states(ansatz: Ansatz, psi: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """PennyLane's states [b, 2^n] after the circuit, for comparisons."""
    qml = require("pennylane", "quantum")
    turns = ansatz.expand(torch.as_tensor(np.asarray(theta, dtype=np.float64))).numpy()
    wires = range(ansatz.n)

    @qml.qnode(qml.device("default.qubit", wires=wires))
    def circuit() -> Any:
        qml.StatePrep(psi, wires=wires)
        apply_gates(ansatz.gates(), turns)
        return qml.state()

    return np.asarray(circuit())


def source(ansatz: Ansatz, theta: np.ndarray) -> str:
    """A Python module without onlyforward: `circuit(psi)` gives the n Z latents of amplitudes [2^n] or [b, 2^n]."""
    turns = ansatz.expand(torch.as_tensor(np.asarray(theta, dtype=np.float64))).tolist()
    lines = [
        f'"""{ansatz.family} with {ansatz.n} qubits, {ansatz.layers} layers and {ansatz.parameters} trained angles."""',
        "",
        "import pennylane as qml",
        "",
        f"WIRES = range({ansatz.n})",
        "",
        "",
        '@qml.qnode(qml.device("default.qubit", wires=WIRES))',
        "def circuit(psi):",
        "    qml.StatePrep(psi, wires=WIRES)",
    ]
    for gate in ansatz.gates():
        if gate.name == "cx":
            lines.append(f"    qml.CNOT(wires={list(gate.wires)})")
        else:
            lines.append(f"    qml.{gate.name.upper()}({turns[gate.angle]!r}, wires={gate.wires[0]})")
    return "\n".join([*lines, "    return [qml.expval(qml.Z(wire)) for wire in WIRES]", ""])


@dataclass
class PennylaneBackend(LawBackend):
    """PennyLane's default.qubit, rows broadcast: exact, or with its own shots."""

    name: str = "pennylane"

    def law(self, psi: Tensor, theta: Tensor, *, shots: int | None, key: Key) -> Tensor:
        """Laws, or relative frequencies, of bitstrings [b, 2^n]."""
        qml = require("pennylane", "quantum")
        ansatz = self.ansatz
        turns = theta.detach().cpu().double()
        if turns.shape[-1] == ansatz.parameters:
            turns = ansatz.expand(turns)
        values, rows = turns.numpy(), psi.cpu().numpy()
        wires = range(ansatz.n)

        @qml.set_shots(shots=shots)
        @qml.qnode(qml.device("default.qubit", wires=wires, seed=key.seed & 0x7FFFFFFF))
        def circuit() -> Any:
            qml.StatePrep(rows, wires=wires)
            apply_gates(ansatz.gates(), values)
            return qml.probs(wires=wires)

        return torch.from_numpy(np.asarray(circuit(), dtype=np.float64).reshape(len(rows), -1))
