"""Two cheap models of a noisy chip: a global depolarising mix with readout errors, and an exact density matrix.

Anything closer to a device is Qiskit Aer's work (`detect/qiskit.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from onlyforward.core.checks import check_range
from onlyforward.detect.ansatz import Ansatz, ry, rz
from onlyforward.detect.prepare import Circuit


@dataclass(frozen=True)
class Noise:
    """Error rates per gate and per measured qubit.

    Attributes:
        p1: depolarising probability after a gate on one qubit.
        p2: after a gate on two qubits.
        readout01: probability to read 1 where 0 is.
        readout10: probability to read 0 where 1 is.
    """

    p1: float = 0.0003
    p2: float = 0.01
    readout01: float = 0.015
    readout10: float = 0.03

    def __post_init__(self) -> None:
        for name in ("p1", "p2", "readout01", "readout10"):
            check_range(getattr(self, name), name=name, low=0.0, high=1.0)

    def mixed(self, circuit: Circuit) -> float:
        """Lambda = 1 - (1 - p1)^n1 (1 - p2)^n2 over all gates of the exported circuit, the preparation included."""
        two = circuit.two_qubit_gates
        return 1.0 - (1.0 - self.p1) ** (len(circuit.gates) - two) * (1.0 - self.p2) ** two


def depolarised(law: Tensor, mix: float) -> Tensor:
    """(1 - lambda) law + lambda uniform: [b, 2^n]; every feature f becomes (1 - lambda) f."""
    return (1 - mix) * law + mix / law.shape[1]


def misread(law: Tensor, readout01: float, readout10: float) -> Tensor:
    """Every qubit read through the confusion matrix [[1 - r01, r10], [r01, 1 - r10]]: [b, 2^n]."""
    table = torch.tensor([[1 - readout01, readout10], [readout01, 1 - readout10]], dtype=law.dtype, device=law.device)
    n = (law.shape[1] - 1).bit_length()
    for qubit in range(n):
        parts = law.reshape(len(law), 2**qubit, 2, -1)
        law = torch.einsum("ij,bajc->baic", table, parts).reshape(len(law), -1)
    return law


def density_law(circuit: Circuit, angles: Tensor, noise: Noise) -> Tensor:
    """Law of bitstrings [b, 2^n] of the whole exported circuit with a depolarising channel after every gate.

    Args:
        circuit: preparation and ansatz, at most 5 qubits.
        angles: [b, A], state angles then one angle per rotation of the ansatz.
        noise: error rates; readout errors come last.
    """
    n, b = circuit.n, len(angles)
    check_range(n, name="n_qubits", low=2, high=5, why="a density matrix holds 4^n numbers per row")
    kind = torch.complex128 if angles.dtype == torch.float64 else torch.complex64
    rho = torch.zeros(b, 4**n, dtype=kind, device=angles.device)
    rho[:, 0] = 1.0
    swap = torch.eye(4, dtype=kind, device=angles.device)[[0, 1, 3, 2]]
    for gate in circuit.gates:
        if gate.name == "cx":
            matrix = swap.expand(b, 4, 4)
        else:
            turn = ry if gate.name == "ry" else rz
            matrix = turn(angles[:, gate.angle]).to(kind)
        rho = turned(rho, matrix, gate.wires, n)
        rho = mixed(rho, gate.wires, n, noise.p2 if gate.name == "cx" else noise.p1)
    law = rho.reshape(b, 2**n, 2**n).diagonal(dim1=1, dim2=2).real
    return misread(law, noise.readout01, noise.readout10)


def fronted(rho: Tensor, wires: tuple[int, ...], n: int) -> tuple[Tensor, list[int]]:
    """Axes of the wires (rows, then columns) moved behind the batch: [b, 2^k, 2^k, rest], and the order used."""
    axes = [1 + w for w in wires] + [1 + n + w for w in wires]
    order = [0, *axes, *(a for a in range(1, 2 * n + 1) if a not in axes)]
    k = 2 ** len(wires)
    return rho.reshape(-1, *(2,) * (2 * n)).permute(order).reshape(len(rho), k, k, -1), order


def restored(part: Tensor, order: list[int], n: int) -> Tensor:
    """The inverse of `fronted`."""
    back = [order.index(i) for i in range(2 * n + 1)]
    return part.reshape(-1, *(2,) * (2 * n)).permute(back).reshape(len(part), -1)


def turned(rho: Tensor, matrix: Tensor, wires: tuple[int, ...], n: int) -> Tensor:
    """U rho U^dagger for matrices [b, 2^k, 2^k] on some wires."""
    part, order = fronted(rho, wires, n)
    return restored(torch.einsum("bij,bjkr,blk->bilr", matrix, part, matrix.conj()), order, n)


def mixed(rho: Tensor, wires: tuple[int, ...], n: int, p: float) -> Tensor:
    """(1 - p) rho + p (I / 2^k) x tr_wires rho."""
    part, order = fronted(rho, wires, n)
    k = part.shape[1]
    rest = part.diagonal(dim1=1, dim2=2).sum(-1)
    uniform = torch.eye(k, dtype=rho.dtype, device=rho.device)[None, :, :, None] * rest[:, None, None, :] / k
    return restored((1 - p) * part + p * uniform, order, n)


def contraction(ansatz: Ansatz, noise: Noise) -> float:
    """A = 1 - lambda: the factor on every feature under the global mix."""
    return 1.0 - noise.mixed(Circuit(ansatz))
