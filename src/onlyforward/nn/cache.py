"""What of the noise is kept between the runs and the gradient (ALR, arXiv 2403.12320): nothing, a bit, or all of it.

| cache | kept per element and copy | what it costs |
|---|---|---|
| seed | 0 bytes: the noise is drawn again from its key | one more draw |
| full | 4 bytes | - |
| bf16 | 2 bytes | rounding of the score |
| sign | 1 bit | the direction sign(eps), unbiased to first order, needs pi/2 = 1.57 times the copies |
| none | 0 bytes: running sums of score x signal and of score | the baseline must be affine in the signal |
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from onlyforward.core.checks import check_choice
from onlyforward.core.directions import Direction
from onlyforward.core.keys import Key
from onlyforward.nn.noise import SiteNoise

CACHES = ("seed", "full", "bf16", "sign", "none")
BITS: Mapping[str, int] = {"seed": 0, "full": 32, "bf16": 16, "sign": 1, "none": 0}
"""Bits kept per element of the score and copy."""


def predicted_bytes(cache: str, *, elements: int, copies: int) -> int:
    """Bytes of the score cache of one site: `elements` per copy (b times d), packed to whole bytes per copy."""
    return copies * math.ceil(elements * BITS[check_choice(cache, CACHES, name="cache")] / 8)


def pack_signs(x: Tensor) -> Tensor:
    """Signs of x [n, ...] as bits: uint8 [n, ceil(size / 8)]; a zero counts as positive."""
    bits = (x.flatten(1) >= 0).to(torch.uint8)
    short = -bits.shape[1] % 8
    padded = torch.nn.functional.pad(bits, (0, short)).reshape(len(bits), -1, 8)
    return (padded << torch.arange(8, dtype=torch.uint8, device=x.device)).sum(2, dtype=torch.uint8)


def unpack_signs(packed: Tensor, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """The inverse of `pack_signs`: +-1 [n, *shape] in the dtype of `like`."""
    bits = (packed[:, :, None] >> torch.arange(8, dtype=torch.uint8, device=packed.device)) & 1
    flat = bits.flatten(1)[:, : math.prod(shape)]
    return (flat.to(like.dtype) * 2 - 1).reshape(len(packed), *shape)


@dataclass
class Ledger:
    """Bytes of score caches of one engine.

    Attributes:
        held: bytes held now.
        peak: the most bytes held at once.
        predicted: the most that any one site should hold, from the shapes alone.
    """

    held: int = 0
    peak: int = 0
    predicted: int = 0

    def change(self, bytes_: int) -> None:
        """Take or give back."""
        self.held += bytes_
        self.peak = max(self.peak, self.held)


@dataclass
class CachedDirection:
    """A direction that keeps what it drew, compressed, until `correlate` has used it.

    Attributes:
        inner: the noise.
        cache: "full", "bf16" or "sign".
        ledger: where the bytes are counted.
        store: first copy of a slice -> what was kept of it.
    """

    inner: Direction
    cache: str
    ledger: Ledger = field(default_factory=Ledger)
    store: dict[int, Tensor] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The noise's name."""
        return self.inner.name

    @property
    def exact(self) -> bool:
        """Whether the noise is a likelihood ratio at every sigma."""
        return self.inner.exact

    def draw(self, key: Key, copies: slice, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """The inner noise, bit by bit; its score is kept."""
        noise = self.inner.draw(key, copies, shape, like)
        score = self.inner.score(noise, 1.0)
        kept = {"full": lambda: score, "bf16": lambda: score.bfloat16(), "sign": lambda: pack_signs(score)}
        rows = kept[check_choice(self.cache, kept, name="cache")]()
        self.store[copies.start] = rows
        self.ledger.change(rows.numel() * rows.element_size())
        return noise

    def score(self, noise: Tensor, sigma: float | Tensor) -> Tensor:
        """The inner score."""
        return self.inner.score(noise, sigma)

    def correlate(self, weight: Tensor, key: Key, shape: tuple[int, ...], sigma: float | Tensor) -> Tensor:
        """sum_n weight[n, b] kept[n, b] / sigma: [b, *site]; what was kept is released.

        A Gaussian's signs are scaled by sqrt(pi/2), because E[eps sign(eps)] = sqrt(2/pi): the estimate keeps its size
        to first order. Laplace and sign noise have scores that are signs already: nothing is lost.
        """
        scale = math.sqrt(math.pi / 2) if self.inner.name == "gaussian" else 1.0
        total = weight.new_zeros((shape[0], math.prod(shape[1:])))
        for start, rows in sorted(self.store.items()):
            self.ledger.change(-rows.numel() * rows.element_size())
            n = len(rows)
            score = unpack_signs(rows, shape, weight) * scale if self.cache == "sign" else rows.to(weight.dtype)
            total += torch.einsum("nb,nbd->bd", weight[start : start + n], score.reshape(n, shape[0], -1))
        self.store.clear()
        return total.reshape(shape) / sigma


class RunningNoise(SiteNoise):
    """One pass: each chunk's scores are weighted and summed as soon as its losses are there, and forgotten.

    The weights must be known then, so the baseline is the clean loss, or the mirrored copy.
    """

    def begin(self, clean: Tensor, copies: int) -> None:
        """Start the sums: clean losses [b], and n of the factor 1/n."""
        self.clean, self.copies = clean, copies
        self.total = torch.zeros(self.shape, dtype=self.like.dtype, device=self.like.device)

    def observe(self, part: slice, losses: Tensor, *, paired: bool) -> None:
        """Add a chunk: losses [n, b], mirrored ones behind."""
        half = len(losses) // 2
        weight = (losses[:half] - losses[half:] if paired else losses - self.clean) / self.copies
        score = self.direction.score(self.current, self.sigma)
        self.total += torch.einsum("nb,nb...->b...", weight, score)

    def added(self, clean: Tensor, part: slice, *, paired: bool) -> Tensor:
        """Clean plus noise, which is remembered until its losses are known."""
        self.current = self.direction.draw(self.key, part, self.shape, self.like)
        noise = self.current * self.sigma
        return (torch.cat((clean + noise, clean - noise)) if paired else noise.add_(clean)).to(clean.dtype)

    def correlate(self, weight: Tensor) -> Tensor:
        """The finished sum; the weights went in chunk by chunk."""
        return self.total


def site_noise(
    cache: str,
    kind: Direction,
    key: Key,
    drawn: int,
    shape: tuple[int, ...],
    sigma: float | Tensor,
    like: Tensor,
    kept: Ledger,
) -> SiteNoise:
    """The directions of a site under a cache: see `SiteNoise` for the arguments."""
    if cache == "seed":
        return SiteNoise(kind, key, drawn, shape, sigma, like)
    kept.predicted = max(kept.predicted, predicted_bytes(cache, elements=math.prod(shape), copies=drawn))
    if cache == "none":
        return RunningNoise(kind, key, drawn, shape, sigma, like)
    return SiteNoise(CachedDirection(kind, cache, kept), key, drawn, shape, sigma, like)
