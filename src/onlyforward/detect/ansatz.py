"""Three circuit families as permutations and small blocks, and as gate lists; qubit 0 is the most significant bit.

`ry_brick` and `ry_rz_brick` are layers of a brick of CNOTs and rotations of every qubit (arXiv 2412.16867);
`su4_shared` puts one 15-angle block on all neighbouring pairs, angles shared in a layer (arXiv 2310.06375; the layout
of the pairs is ours).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from onlyforward.core.checks import check_choice, check_range

FAMILIES = ("ry_brick", "ry_rz_brick", "su4_shared")
LARGEST = 14


class Gate(NamedTuple):
    """One gate: its name (ry, rz, cx), its qubits (control first), and the index of its angle among the occurrences."""

    name: str
    wires: tuple[int, ...]
    angle: int = -1


@dataclass(frozen=True)
class Moment:
    """A step of the engine: a gather over amplitudes, then one block on every slot of neighbouring qubits.

    Attributes:
        order: [2^n] amplitudes are gathered by it before the blocks act.
        widths: qubits of each slot, from the most significant on.
        blocks: index of each slot's block, -1 for the identity.
    """

    order: tuple[int, ...]
    widths: tuple[int, ...]
    blocks: tuple[int, ...]


@dataclass(frozen=True)
class Ansatz:
    """A circuit family at one size.

    Attributes:
        family: ry_brick, ry_rz_brick or su4_shared.
        n: number of qubits.
        layers: number of layers L.
    """

    family: str
    n: int
    layers: int

    def __post_init__(self) -> None:
        check_choice(self.family, FAMILIES, name="ansatz")
        memory = 2.0**self.n * 4096 * 8 / 1e9
        check_range(self.n, name="n_qubits", low=2, high=LARGEST, why=f"4096 rows of 2^n numbers take {memory:.2g} GB")
        check_range(self.layers, name="n_layers", low=1)

    @property
    def complex(self) -> bool:
        """Whether amplitudes are complex."""
        return self.family != "ry_brick"

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Pairs of one su4 layer, in the order in which their blocks act."""
        n = self.n
        return (*((i, i + 1) for i in range(0, n - 1, 2)), *((i, i + 1) for i in range(1, n - 1, 2)), (n - 1, 0))

    @property
    def parameters(self) -> int:
        """P, the number of trained angles."""
        per_layer = {"ry_brick": self.n, "ry_rz_brick": 2 * self.n, "su4_shared": 15}
        return per_layer[self.family] * self.layers

    @property
    def occurrences(self) -> int:
        """G, the number of rotations: more than P where a layer shares its angles."""
        return self.parameters * (len(self.pairs) if self.family == "su4_shared" else 1)

    def expand(self, theta: Tensor) -> Tensor:
        """Angles [..., P] to one angle per rotation [..., G]."""
        if self.family != "su4_shared":
            return theta
        shared = theta.reshape(*theta.shape[:-1], self.layers, 1, 15)
        return shared.expand(*theta.shape[:-1], self.layers, len(self.pairs), 15).reshape(*theta.shape[:-1], -1)

    def fold(self, gradient: Tensor) -> Tensor:
        """A gradient per rotation [..., G] to one per angle [..., P]: occurrences are summed."""
        if self.family != "su4_shared":
            return gradient
        return gradient.reshape(*gradient.shape[:-1], self.layers, len(self.pairs), 15).sum(-2).flatten(-2)

    def gates(self) -> tuple[Gate, ...]:
        """The circuit gate by gate, angles numbered by occurrence."""
        return gate_list(self)

    def moments(self, *, expanded: bool) -> tuple[Moment, ...]:
        """The circuit as the engine runs it; `expanded`: blocks of occurrences instead of shared ones."""
        return moment_list(self, expanded)

    def final_order(self) -> tuple[int, ...] | None:
        """The gather after the last moment, or None where the last moment leaves the qubits in place."""
        return None if self.family != "su4_shared" else tuple(relabel(self.n, last_frame(self), tuple(range(self.n))))

    def blocks(self, theta: Tensor) -> Tensor:
        """All blocks [..., K, d, d] of angles [..., P] or [..., G]: d = 2 for rotations, 4 for SU(4)."""
        if self.family == "ry_brick":
            return ry(theta)
        if self.family == "ry_rz_brick":
            angles = theta.reshape(*theta.shape[:-1], self.layers, 2, self.n)
            block = ry(angles[..., 1, :]).to(complex_of(theta)) @ rz(angles[..., 0, :])
            return block.reshape(*theta.shape[:-1], self.layers * self.n, 2, 2)
        return su4(theta.reshape(*theta.shape[:-1], -1, 15))


def complex_of(x: Tensor) -> torch.dtype:
    """The complex type of a real tensor's precision."""
    return torch.complex128 if x.dtype in (torch.float64, torch.complex128) else torch.complex64


def ry(angle: Tensor) -> Tensor:
    """RY: [[cos t/2, -sin t/2], [sin t/2, cos t/2]], [..., 2, 2]."""
    c, s = torch.cos(angle / 2), torch.sin(angle / 2)
    return torch.stack((torch.stack((c, -s), -1), torch.stack((s, c), -1)), -2)


def rz(angle: Tensor) -> Tensor:
    """RZ: diag(exp(-it/2), exp(it/2)), [..., 2, 2] complex."""
    phase = torch.polar(torch.ones_like(angle), angle / 2)
    return torch.diag_embed(torch.stack((phase.conj(), phase), -1))


def kron(left: Tensor, right: Tensor) -> Tensor:
    """Kronecker product of the last two axes, batched over the others."""
    size = left.shape[-1] * right.shape[-1]
    product = left[..., :, None, :, None] * right[..., None, :, None, :]
    return product.reshape(*product.shape[:-4], size, size)


SU4 = (
    *(Gate(name, (wire,), 3 * wire + i) for wire in (0, 1) for i, name in enumerate(("rz", "ry", "rz"))),
    Gate("cx", (1, 0)),
    Gate("rz", (0,), 6),
    Gate("ry", (1,), 7),
    Gate("cx", (0, 1)),
    Gate("ry", (1,), 8),
    Gate("cx", (1, 0)),
    *(Gate(name, (wire,), 9 + 3 * wire + i) for wire in (0, 1) for i, name in enumerate(("rz", "ry", "rz"))),
)
"""(C x D) . CNOT(1,0) . RY on 1 . CNOT(0,1) . RZ on 0, RY on 1 . CNOT(1,0) . (A x B), read from right to left."""

CX01 = ((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 0, 1), (0, 0, 1, 0))
CX10 = ((1, 0, 0, 0), (0, 0, 0, 1), (0, 0, 1, 0), (0, 1, 0, 0))


def su4(angles: Tensor) -> Tensor:
    """The 15-angle blocks [..., 4, 4] of angles [..., 15]."""
    kind = complex_of(angles)
    one = torch.eye(2, dtype=kind, device=angles.device)

    def local(first: int) -> Tensor:
        turns = [rz(angles[..., first + i]) if i != 1 else ry(angles[..., first + i]).to(kind) for i in range(3)]
        return turns[2] @ turns[1] @ turns[0]

    up, down = (torch.tensor(table, dtype=kind, device=angles.device) for table in (CX10, CX01))
    block = up @ kron(local(0), local(3))
    block = down @ kron(rz(angles[..., 6]), ry(angles[..., 7]).to(kind)) @ block
    block = up @ kron(one, ry(angles[..., 8]).to(kind)) @ block
    return kron(local(9), local(12)) @ block


def brick(n: int) -> list[tuple[int, int]]:
    """CNOT(0,1)(2,3).. then (1,2)(3,4)..: control first."""
    return [(i, i + 1) for i in range(0, n - 1, 2)] + [(i, i + 1) for i in range(1, n - 1, 2)]


def relabel(n: int, frame: tuple[int, ...], target: tuple[int, ...]) -> list[int]:
    """The gather that turns amplitudes whose qubits stand in the order `frame` into the order `target`."""
    places = [frame.index(qubit) for qubit in target]
    return [sum(((k >> (n - 1 - i)) & 1) << (n - 1 - place) for i, place in enumerate(places)) for k in range(2**n)]


@lru_cache(maxsize=64)
def last_frame(ansatz: Ansatz) -> tuple[int, ...]:
    """Order of the qubits in which an su4 layer ends."""
    return su4_frames(ansatz.n)[-1][0]


def su4_frames(n: int) -> list[tuple[tuple[int, ...], int]]:
    """Orders of qubits in which a layer's pairs are neighbours, with the number of pairs of each."""
    even = tuple(range(n))
    if n == 2:
        return [(even, 1), ((1, 0), 1)]
    shifted = (*range(1, n), 0)
    if n % 2 == 0:
        return [(even, n // 2), (shifted, n // 2)]
    return [(even, n // 2), (shifted, n // 2), ((n - 1, 0, *range(1, n - 1)), 1)]


@lru_cache(maxsize=64)
def moment_list(ansatz: Ansatz, expanded: bool) -> tuple[Moment, ...]:
    """Moments of all layers."""
    n = ansatz.n
    if ansatz.family != "su4_shared":
        order = list(range(2**n))
        for control, target in brick(n):
            flipped = [k ^ (((k >> (n - 1 - control)) & 1) << (n - 1 - target)) for k in range(2**n)]
            order = [order[k] for k in flipped]
        return tuple(
            Moment(tuple(order), (1,) * n, tuple(range(layer * n, layer * n + n))) for layer in range(ansatz.layers)
        )
    frames = su4_frames(n)
    moments = []
    here = tuple(range(n))
    for layer in range(ansatz.layers):
        done = 0
        for frame, count in frames:
            first = layer * len(ansatz.pairs) + done
            blocks = tuple(range(first, first + count)) if expanded else (layer,) * count
            rest = n - 2 * count
            moments.append(Moment(tuple(relabel(n, here, frame)), (2,) * count + (1,) * rest, blocks + (-1,) * rest))
            here = frame
            done += count
    return tuple(moments)


@lru_cache(maxsize=64)
def gate_list(ansatz: Ansatz) -> tuple[Gate, ...]:
    """Gates of all layers."""
    n = ansatz.n
    gates: list[Gate] = []
    for layer in range(ansatz.layers):
        if ansatz.family == "su4_shared":
            for i, pair in enumerate(ansatz.pairs):
                first = (layer * len(ansatz.pairs) + i) * 15
                gates += [
                    Gate(g.name, tuple(pair[w] for w in g.wires), first + g.angle if g.angle >= 0 else -1) for g in SU4
                ]
            continue
        gates += [Gate("cx", pair) for pair in brick(n)]
        if ansatz.family == "ry_rz_brick":
            gates += [Gate("rz", (q,), layer * 2 * n + q) for q in range(n)]
            gates += [Gate("ry", (q,), layer * 2 * n + n + q) for q in range(n)]
        else:
            gates += [Gate("ry", (q,), layer * n + q) for q in range(n)]
    return tuple(gates)
