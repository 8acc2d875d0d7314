"""Amplitudes as multiplexed rotations, and the whole circuit (preparation, then ansatz) as one list of gates.

Real amplitudes need 2^n - 1 RY angles and 2^n - 2 CNOTs (Gray-code ladder: Mottonen et al., quant-ph/0407010). Angles
of the state and of the ansatz are both parameters, so one circuit serves every row.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch

from onlyforward.detect.ansatz import Ansatz, Gate


@dataclass(frozen=True)
class Circuit:
    """Preparation and ansatz as gates whose angles are numbered: state angles first, then one per rotation."""

    ansatz: Ansatz

    @property
    def n(self) -> int:
        """Number of qubits."""
        return self.ansatz.n

    @property
    def state_angles(self) -> int:
        """How many angles the preparation has: 2^n - 1."""
        return 2**self.n - 1

    @cached_property
    def gates(self) -> tuple[Gate, ...]:
        """All gates in order."""
        first = self.state_angles
        shifted = (gate._replace(angle=gate.angle + first) if gate.angle >= 0 else gate for gate in self.ansatz.gates())
        return (*preparation(self.n), *shifted)

    @property
    def two_qubit_gates(self) -> int:
        """CNOTs of preparation and ansatz."""
        return sum(gate.name == "cx" for gate in self.gates)

    @property
    def depth(self) -> int:
        """Layers of gates, each gate as early as its qubits are free."""
        busy = [0] * self.n
        for gate in self.gates:
            end = 1 + max(busy[wire] for wire in gate.wires)
            for wire in gate.wires:
                busy[wire] = end
        return max(busy)

    def angles(self, psi: np.ndarray, theta: np.ndarray) -> np.ndarray:
        """Values of all angles [b, A] for real states [b, 2^n] and angles [P], [G], [b, P] or [b, G]."""
        expanded = torch.as_tensor(np.asarray(theta, dtype=np.float64))
        if expanded.shape[-1] == self.ansatz.parameters:
            expanded = self.ansatz.expand(expanded)
        turns = np.broadcast_to(expanded.numpy(), (len(psi), self.ansatz.occurrences))
        return np.concatenate([state_angles(np.asarray(psi, dtype=np.float64)), turns], axis=1)


def preparation(n: int) -> tuple[Gate, ...]:
    """Gates that turn |0> into any real state: on qubit k a rotation for each value of the qubits before."""
    gates: list[Gate] = []
    for k in range(n):
        first = 2**k - 1
        for i in range(2**k):
            gates.append(Gate("ry", (k,), first + i))
            if k:
                # The bit in which the Gray codes of i and i + 1 differ says which qubit controls.
                low = ((i + 1) & -(i + 1)).bit_length() - 1 if i + 1 < 2**k else k - 1
                gates.append(Gate("cx", (k - 1 - low, k)))
    return tuple(gates)


def state_angles(psi: np.ndarray) -> np.ndarray:
    """Ladder angles [b, 2^n - 1] of real states [b, 2^n].

    The tree: at each level 2 atan2(norm of the odd half, norm of the even half); the last level takes the signed
    amplitudes themselves, or negative ones would be lost.
    """
    n = (psi.shape[1] - 1).bit_length()
    levels = []
    values = psi
    for k in range(n - 1, -1, -1):
        pairs = values.reshape(len(psi), 2**k, 2)
        levels.append(2 * np.arctan2(pairs[..., 1], pairs[..., 0]) @ ladder(k))
        values = np.sqrt((pairs**2).sum(-1))
    return np.concatenate(levels[::-1], axis=1)


@lru_cache(maxsize=16)
def ladder(k: int) -> np.ndarray:
    """[2^k, 2^k]: turns multiplexed angles into ladder angles, 2^-k (-1)^<binary of j, Gray code of i>."""
    size = 2**k
    index = np.arange(size)
    common = index[:, None] & (index ^ (index >> 1))[None, :]
    parity = np.zeros_like(common)
    for bit in range(max(k, 1)):
        parity ^= common >> bit & 1
    table: np.ndarray = (1.0 - 2.0 * parity) / size
    return table
