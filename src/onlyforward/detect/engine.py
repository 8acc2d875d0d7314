"""Batched state vectors: a layer is one gather and two small matrix products for all rows together.

psi [b, 2^n] is kept with the batch last, [2^n, b]: gathers copy whole rows, and a layer of blocks is
(A x B) psi = A psi B^T with A and B of about 2^{n/2} rows. Autograd differentiates exactly this, so the gradient of all
angles costs about two forward passes.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onlyforward.core.directions import walsh_hadamard
from onlyforward.core.keys import Key
from onlyforward.detect.ansatz import Ansatz, Moment, complex_of, kron

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "complex64": torch.complex64,
    "complex128": torch.complex128,
}
LATENTS = ("z", "z+zz", "z+zz+zzz")
"""Features by name, each behind those of the shorter name: products of one, two and three Z of the same bitstring."""
REAL = {torch.complex64: torch.float32, torch.complex128: torch.float64}


class Gather(torch.autograd.Function):
    """Rows of x in another order; the backward pass is the inverse gather instead of a scatter."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, inverse: Tensor, axis: int) -> Tensor:
        """X along `axis` by `order`."""
        ctx.inverse, ctx.axis = inverse, axis
        return x.index_select(axis, order)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        """The gradient by the inverse order."""
        return gradients[0].index_select(ctx.axis, ctx.inverse), None, None, None


class Engine:
    """Runs one ansatz on many states.

    Args:
        ansatz: family, qubits, layers.
        dtype: float32, float64, complex64 or complex128; real types become complex where the family needs it.
        device: cpu or cuda.
    """

    def __init__(self, ansatz: Ansatz, dtype: str = "float32", device: str = "cpu") -> None:
        self.ansatz = ansatz
        kind = DTYPES[dtype]
        self.real = REAL.get(kind, kind)
        self.dtype = complex_of(torch.empty(0, dtype=self.real)) if ansatz.complex or kind.is_complex else self.real
        self.device = torch.device(device)

    def state(self, psi: Tensor, theta: Tensor) -> Tensor:
        """The states after the circuit: [b, 2^n].

        Args:
            psi: [b, 2^n], of norm 1.
            theta: [P] or [G], the same for all rows, or [b, P] or [b, G], one set of angles per row.
        """
        if theta.ndim == 2:
            return self.state_each(psi, theta)
        return self.columns(psi.to(self.device, self.dtype).T.contiguous(), theta).T

    def columns(self, x: Tensor, theta: Tensor) -> Tensor:
        """The circuit on columns [2^n, b], the same angles for all."""
        size, b = x.shape
        for order, a, right in self.matrices(theta.to(self.device, self.real)):
            if order is not None:
                x = Gather.apply(x, *order, 0)
            x = (a @ x.reshape(a.shape[-1], -1)).reshape(a.shape[-1], right.shape[-1], b)
            x = torch.matmul(right, x).reshape(size, b)
        final = table_of(self.ansatz.final_order(), self.device)
        return x if final is None else Gather.apply(x, *final, 0)

    def state_each(self, psi: Tensor, theta: Tensor) -> Tensor:
        """The circuit with its own angles for every row."""
        x = psi.to(self.device, self.dtype)
        for order, a, right in self.matrices(theta.to(self.device, self.real)):
            if order is not None:
                x = Gather.apply(x, *order, 1)
            x = (a @ x.reshape(-1, a.shape[-1], right.shape[-1]) @ right.transpose(-1, -2)).reshape(psi.shape)
        final = table_of(self.ansatz.final_order(), self.device)
        return x if final is None else Gather.apply(x, *final, 1)

    def matrices(self, theta: Tensor) -> list[tuple[tuple[Tensor, Tensor] | None, Tensor, Tensor]]:
        """Per moment: gather and its inverse, A, B; the products are made for all moments of a kind at once."""
        expanded = theta.shape[-1] != self.ansatz.parameters
        moments = self.ansatz.moments(expanded=expanded)
        blocks = self.ansatz.blocks(theta).to(self.dtype)
        kinds: dict[tuple[Any, ...], list[int]] = {}
        for i, moment in enumerate(moments):
            kinds.setdefault((moment.widths, tuple(k < 0 for k in moment.blocks)), []).append(i)
        made: dict[int, tuple[Tensor, Tensor]] = {}
        for members in kinds.values():
            some = [moments[i] for i in members]
            cut = halfway(some[0].widths)
            slots = range(len(some[0].widths))
            left = self.product(some, blocks, [s for s in slots if s < cut])
            right = self.product(some, blocks, [s for s in slots if s >= cut])
            for row, i in enumerate(members):
                made[i] = (left[..., row, :, :], right[..., row, :, :])
        return [(table_of(moment.order, self.device), *made[i]) for i, moment in enumerate(moments)]

    def product(self, moments: list[Moment], blocks: Tensor, slots: list[int]) -> Tensor:
        """Kronecker product of some slots for all moments: [..., moments, d, d]."""
        total = torch.ones(len(moments), 1, 1, dtype=self.dtype, device=self.device)
        for slot in slots:
            if moments[0].blocks[slot] < 0:
                factor = torch.eye(2, dtype=self.dtype, device=self.device).expand(len(moments), 2, 2)
            else:
                chosen = indices(tuple(moment.blocks[slot] for moment in moments), self.device)
                factor = blocks.index_select(-3, chosen)
            total = kron(total, factor)
        return total

    def unitary(self, theta: Tensor) -> Tensor:
        """The whole circuit as one matrix [2^n, 2^n]."""
        return self.columns(torch.eye(2**self.ansatz.n, dtype=self.dtype, device=self.device), theta)

    def probabilities(self, psi: Tensor, theta: Tensor) -> Tensor:
        """|psi|^2 after the circuit: [b, 2^n]; many rows with shared angles take one product with the whole matrix."""
        if theta.ndim == 1 and len(psi) >= 2**self.ansatz.n and not theta.requires_grad:
            return squared(psi.to(self.device, self.dtype) @ self.unitary(theta).T)
        return squared(self.state(psi, theta))

    def expect(self, psi: Tensor, theta: Tensor, latent: str = "z") -> Tensor:
        """Expectations of Z_j, and behind them those of products of two and three of them (`LATENTS`): [b, m]."""
        if theta.ndim == 1 and (theta.requires_grad or len(psi) < 2**self.ansatz.n):
            x = self.columns(psi.to(self.device, self.dtype).T.contiguous(), theta)
            return (signs(self.ansatz.n, latent, self.real, self.device) @ squared(x)).T
        return self.probabilities(psi, theta) @ signs(self.ansatz.n, latent, self.real, self.device).T

    def sample(self, psi: Tensor, theta: Tensor, *, shots: int, key: Key) -> Tensor:
        """Relative frequencies [b, 2^n] of `shots` measurements of every row."""
        return frequencies(self.probabilities(psi, theta), shots, key)


def reversed_bits(n: int) -> np.ndarray:
    """The gather [2^n] that turns amplitudes whose qubit 0 is the least significant bit into ours, and back."""
    index = np.arange(2**n)
    return np.sum([(index >> i & 1) << (n - 1 - i) for i in range(n)], axis=0)


def squared(x: Tensor) -> Tensor:
    """|x|^2."""
    return x.real.square() + x.imag.square() if x.is_complex() else x.square()


def frequencies(probabilities: Tensor, shots: int, key: Key) -> Tensor:
    """Multinomial relative frequencies [b, 2^n]: one sorted set of uniform numbers per row against the cumulated law.

    Sums of counts are exact; a zero probability is never drawn, because the search goes to the right of equal sums.
    """
    b, size = probabilities.shape
    cumulated = probabilities.double().clamp(min=0).cumsum(1)
    cumulated = cumulated / cumulated[:, -1:]
    counts = torch.zeros(b, size, dtype=torch.float64, device=probabilities.device)
    rows = max(1, (1 << 22) // shots)
    for chunk, start in enumerate(range(0, b, rows)):
        part = cumulated[start : start + rows]
        generator = key.at(chunk=chunk).generator(probabilities.device)
        uniform = torch.rand(len(part), shots, dtype=torch.float64, device=part.device, generator=generator)
        outcome = torch.searchsorted(part.contiguous(), uniform, right=True).clamp(max=size - 1)
        counts[start : start + rows].scatter_add_(1, outcome, torch.ones_like(uniform))
    return (counts / shots).to(probabilities.dtype)


def features(law: Tensor, latent: str) -> Tensor:
    """Expectations [b, m] under laws of bitstrings [b, 2^n]."""
    return law @ signs((law.shape[1] - 1).bit_length(), latent, law.dtype, law.device).T


def covariance(law: Tensor, latent: str, shots: int) -> Tensor:
    """Covariance [b, m, m] of the mean of `shots` measurements, unbiased: (E oo^T - f f^T) / (S - 1).

    Products of signs are signs of the exclusive or of their masks, so one Walsh-Hadamard transform holds them all.
    """
    masks = torch.tensor(feature_masks((law.shape[1] - 1).bit_length(), latent), device=law.device)
    spectrum = walsh_hadamard(law)
    mean = spectrum[:, masks]
    return (spectrum[:, masks[:, None] ^ masks] - mean[:, :, None] * mean[:, None, :]) / (shots - 1)


@lru_cache(maxsize=64)
def feature_masks(n: int, latent: str) -> tuple[int, ...]:
    """Bit masks of the features: Z_0..Z_{n-1}, then Z_j Z_k, j < k, then Z_j Z_k Z_l, j < k < l."""
    bodies = range(1, LATENTS.index(latent) + 2)
    return tuple(sum(1 << (n - 1 - j) for j in some) for size in bodies for some in combinations(range(n), size))


@lru_cache(maxsize=64)
def signs(n: int, latent: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Values of the features on every bitstring: [m, 2^n] of +-1."""
    index = torch.arange(2**n)
    rows = []
    for mask in feature_masks(n, latent):
        parity = torch.zeros(2**n, dtype=torch.int64)
        for bit in range(n):
            if mask >> bit & 1:
                parity = parity ^ (index >> bit & 1)
        rows.append(1.0 - 2.0 * parity.to(torch.float64))
    return torch.stack(rows).to(device, dtype)


def feature_count(n: int, latent: str) -> int:
    """Number of features m of n qubits."""
    return len(feature_masks(n, latent))


def halfway(widths: tuple[int, ...]) -> int:
    """Number of leading slots that together hold about half of the qubits."""
    total, held = sum(widths), 0
    for i, width in enumerate(widths):
        if 2 * (held + width) > total + width:
            return i
        held += width
    return len(widths)


@lru_cache(maxsize=128)
def table_of(order: tuple[int, ...] | None, device: torch.device) -> tuple[Tensor, Tensor] | None:
    """A gather and its inverse as tensors; None for the identity."""
    if order is None or order == tuple(range(len(order))):
        return None
    forward = torch.tensor(order, device=device)
    return forward, torch.argsort(forward)


@lru_cache(maxsize=256)
def indices(values: tuple[int, ...], device: torch.device) -> Tensor:
    """Integers as a tensor."""
    return torch.tensor(values, device=device)
