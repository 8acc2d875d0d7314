"""Five kinds of noise; draw and score are one object, and any slice of copies can be drawn alone.

`gaussian` and `laplace` are likelihood ratios: exact at every sigma, discontinuous signals included. `rademacher`,
`hadamard` and `sobol` are right to O(sigma^2) in the finite-difference sense: for smooth signals or small sigma.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor

from onlyforward.core.checks import check_choice
from onlyforward.core.errors import UsageError
from onlyforward.core.keys import Key

Shape = tuple[int, ...]
CHUNK = 1 << 21
"""Elements drawn at once by `correlate`: a constant, so that sums never depend on the machine."""


class Direction(Protocol):
    """A distribution of unit noise eps; a perturbed tensor is v + sigma eps."""

    @property
    def name(self) -> str:
        """The word on the command line."""
        ...

    @property
    def exact(self) -> bool:
        """Whether the score is a likelihood ratio at every sigma."""
        ...

    def draw(self, key: Key, copies: slice, shape: Shape, like: Tensor) -> Tensor:
        """Unit noise [n, *shape] for copies start..stop-1; `shape` is [b, *site]; dtype and device of `like`."""
        ...

    def score(self, noise: Tensor, sigma: float | Tensor) -> Tensor:
        """-grad ln f at sigma times the unit noise, same shape."""
        ...

    def correlate(self, weight: Tensor, key: Key, shape: Shape, sigma: float | Tensor) -> Tensor:
        """sum_n weight[n, b] score[n, b]: [b, *site], without storing n directions."""
        ...


class Independent(ABC):
    """Noise whose copies are independent: each is drawn from its own key."""

    @abstractmethod
    def fill(self, row: Tensor, generator: torch.Generator) -> None:
        """Fill one copy's noise in place."""

    def score(self, noise: Tensor, sigma: float | Tensor) -> Tensor:
        """Eps / sigma."""
        return noise / sigma

    def draw(self, key: Key, copies: slice, shape: Shape, like: Tensor) -> Tensor:
        """Unit noise [n, *shape], one stream per copy: a slice has the bits of the whole."""
        noise = torch.empty((copies.stop - copies.start, *shape), dtype=like.dtype, device=like.device)
        generator = torch.Generator(device=like.device)
        for row, copy in enumerate(range(copies.start, copies.stop)):
            self.fill(noise[row], generator.manual_seed(key.at(copy=copy).seed))
        return noise

    def correlate(self, weight: Tensor, key: Key, shape: Shape, sigma: float | Tensor) -> Tensor:
        """sum_n weight[n, b] score[n, b], replayed from the key in chunks of copies."""
        total = weight.new_zeros((shape[0], math.prod(shape[1:])))
        for part in slices(weight.shape[0], math.prod(shape)):
            score = self.score(self.draw(key, part, shape, weight), sigma)
            total += torch.einsum("nb,nbd->bd", weight[part], score.reshape(score.shape[0], shape[0], -1))
        return total.reshape(shape)


@dataclass(frozen=True)
class Gaussian(Independent):
    """eps ~ N(0, 1); score eps / sigma."""

    name: str = "gaussian"
    exact: bool = True

    def fill(self, row: Tensor, generator: torch.Generator) -> None:
        """Standard normal."""
        row.normal_(generator=generator)


@dataclass(frozen=True)
class Laplace(Independent):
    """eps ~ Laplace(scale 1); score sign(eps) / sigma: one bit, at twice the copies."""

    name: str = "laplace"
    exact: bool = True

    def fill(self, row: Tensor, generator: torch.Generator) -> None:
        """Difference of two unit exponentials."""
        row.exponential_(generator=generator)
        row.sub_(torch.empty_like(row).exponential_(generator=generator))

    def score(self, noise: Tensor, sigma: float | Tensor) -> Tensor:
        """sign(eps) / sigma."""
        return noise.sign() / sigma


@dataclass(frozen=True)
class Rademacher(Independent):
    """Random signs (SPSA-type: right to O(sigma^2), not a likelihood ratio)."""

    name: str = "rademacher"
    exact: bool = False

    def fill(self, row: Tensor, generator: torch.Generator) -> None:
        """Fair signs."""
        row.bernoulli_(0.5, generator=generator).mul_(2).sub_(1)


@dataclass(frozen=True)
class Hadamard:
    """Rows of a Hadamard matrix in random order, times random signs per datum.

    eps[m, b] = H[pi(m), :d] * S[b] with 2^k >= d. All 2^k rows give the exact cotangent to O(sigma) one-sided and
    O(sigma^2) in pairs; any subset is unbiased through S. Copies beyond 2^k start again with a fresh order and fresh
    signs.
    """

    name: str = "hadamard"
    exact: bool = False

    def draw(self, key: Key, copies: slice, shape: Shape, like: Tensor) -> Tensor:
        """Unit noise [n, *shape] of +-1."""
        size = math.prod(shape[1:])
        blocks = [
            hadamard_rows(order[rows], size).to(like)[:, None, :] * signs
            for rows, order, signs, _ in self.blocks(key, copies, shape, like)
        ]
        return torch.cat(blocks).reshape(-1, *shape)

    def score(self, noise: Tensor, sigma: float | Tensor) -> Tensor:
        """Eps / sigma."""
        return noise / sigma

    def correlate(self, weight: Tensor, key: Key, shape: Shape, sigma: float | Tensor) -> Tensor:
        """S * (H^T A) / sigma: one matrix product up to 512 columns, a fast transform beyond."""
        size = math.prod(shape[1:])
        total = weight.new_zeros((shape[0], size))
        for rows, order, signs, part in self.blocks(key, slice(0, weight.shape[0]), shape, weight):
            if size <= 512:
                mixed = weight[part].T @ hadamard_rows(order[rows], size).to(weight)
            else:
                spread = weight.new_zeros((shape[0], len(order)))
                spread[:, order[rows].to(weight.device)] = weight[part].T
                mixed = walsh_hadamard(spread)[:, :size]
            total += signs * mixed
        return (total / (sigma.reshape(-1) if isinstance(sigma, Tensor) and sigma.numel() > 1 else sigma)).reshape(
            shape
        )

    def blocks(
        self, key: Key, copies: slice, shape: Shape, like: Tensor
    ) -> Iterator[tuple[slice, Tensor, Tensor, slice]]:
        """Per repetition of the matrix: its rows, their order [2^k], the signs [b, d], and the copies they serve."""
        width = 1 << max(0, math.prod(shape[1:]) - 1).bit_length()
        for block in range(copies.start // width, -(-copies.stop // width)):
            start, stop = max(copies.start, block * width), min(copies.stop, (block + 1) * width)
            generator = key.at(copy=block).generator()
            order = torch.randperm(width, generator=generator)
            signs = random_signs((shape[0], math.prod(shape[1:])), generator)
            part = slice(start - copies.start, stop - copies.start)
            yield slice(start - block * width, stop - block * width), order, signs.to(like), part


@dataclass(frozen=True)
class Sobol:
    """Inverse normal of a Sobol sequence, digitally shifted for every datum on its own (at most 21,201 dimensions).

    One shift for the whole batch would add the data's errors up; the point 0 is skipped.
    """

    name: str = "sobol"
    exact: bool = False

    def draw(self, key: Key, copies: slice, shape: Shape, like: Tensor) -> Tensor:
        """Unit noise [n, *shape], standard normal in every coordinate."""
        size = math.prod(shape[1:])
        if size > torch.quasirandom.SobolEngine.MAXDIM:
            raise UsageError(f"sobol noise has {size} dimensions", "It stops at 21,201: choose hadamard")
        engine: Any = torch.quasirandom.SobolEngine(size)  # type: ignore[no-untyped-call]
        engine.fast_forward(copies.start + 1)
        points: Tensor = (engine.draw(copies.stop - copies.start, dtype=torch.float64) * 2**30).long()
        shifts = torch.randint(0, 2**30, (shape[0], size), generator=key.generator())
        uniform = ((points[:, None, :] ^ shifts) + 0.5) / 2**30
        noise: Tensor = torch.special.ndtri(uniform).to(like)
        return noise.reshape(-1, *shape)

    def score(self, noise: Tensor, sigma: float | Tensor) -> Tensor:
        """Eps / sigma."""
        return noise / sigma

    def correlate(self, weight: Tensor, key: Key, shape: Shape, sigma: float | Tensor) -> Tensor:
        """sum_n weight[n, b] score[n, b], replayed from the key in chunks of copies."""
        total = weight.new_zeros(shape)
        for part in slices(weight.shape[0], math.prod(shape)):
            score = self.score(self.draw(key, part, shape, weight), sigma)
            total += torch.einsum("nb,nb...->b...", weight[part], score)
        return total


KINDS: dict[str, Callable[[], Direction]] = {
    "gaussian": Gaussian,
    "laplace": Laplace,
    "rademacher": Rademacher,
    "hadamard": Hadamard,
    "sobol": Sobol,
}


def direction(name: str) -> Direction:
    """The kind of noise called `name`."""
    return KINDS[check_choice(name, KINDS, name="noise")]()


def slices(copies: int, size: int) -> Iterator[slice]:
    """Slices of copies of at most CHUNK elements, `size` elements a copy."""
    step = max(1, CHUNK // max(1, size))
    for start in range(0, copies, step):
        yield slice(start, min(start + step, copies))


@lru_cache(maxsize=1)
def byte_signs() -> Tensor:
    """The eight bits of every byte as +-1: [256, 8]."""
    return ((torch.arange(256)[:, None] >> torch.arange(8)) & 1).float().mul_(2).sub_(1)


def random_signs(shape: Shape, generator: torch.Generator) -> Tensor:
    """Fair signs +-1, eight to a random byte: several times faster than one Bernoulli draw each."""
    size = math.prod(shape)
    bytes_ = torch.randint(256, (-(-size // 8),), generator=generator)
    signs = byte_signs().index_select(0, bytes_)
    return (signs if signs.numel() == size else signs.reshape(-1)[:size]).reshape(shape)


@lru_cache(maxsize=4)
def hadamard_matrix(width: int) -> Tensor:
    """Sylvester's matrix [width, width] of +-1, width a power of two."""
    return walsh_hadamard(torch.eye(width))


def hadamard_rows(rows: Tensor, columns: int) -> Tensor:
    """The given rows of Sylvester's matrix, first `columns` columns: (-1)^popcount(i and j)."""
    width = 1 << max(0, columns - 1).bit_length()
    if width <= 1024:
        return hadamard_matrix(width)[rows, :columns]
    spread = torch.zeros(len(rows), width)
    spread[torch.arange(len(rows)), rows] = 1.0
    return walsh_hadamard(spread)[:, :columns]


def walsh_hadamard(x: Tensor) -> Tensor:
    """X [..., 2^k] times Sylvester's matrix, in k 2^k additions a row."""
    width = x.shape[-1]
    shape = x.shape
    half = 1
    while half < width:
        pairs = x.reshape(-1, width // (2 * half), 2, half)
        x = torch.stack((pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]), dim=2)
        half *= 2
    return x.reshape(shape)
