"""Random numbers as coordinates: a Key names a draw, and the same name gives the same bits everywhere."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy
    import torch


@dataclass(frozen=True)
class Key:
    """Coordinates of one stream of random numbers.

    The seed is a hash of all coordinates. torch's CPU generator honours only the low 32 bits of a seed, so among N
    hashed keys a share of about N / 2^32 repeats another's stream: harmless for estimators, and the reason why seeds
    are hashed and never counted up. Streams of a CPU and a GPU differ; results name the device kind.

    Attributes:
        run: the user's seed.
        step: optimiser step, query number or episode.
        site: which layer, block or tensor is perturbed.
        copy: index of the copy, for draws made copy by copy.
        chunk: index of the chunk of work, for draws made chunk by chunk.
    """

    run: int = 0
    step: int = 0
    site: str = ""
    copy: int = 0
    chunk: int = 0

    def at(self, **coordinates: Any) -> Key:
        """The key with some coordinates replaced."""
        return Key(**{**vars(self), **coordinates})

    @property
    def seed(self) -> int:
        """A 63-bit seed: BLAKE2b of the coordinates, little-endian."""
        packed = struct.pack("<qqqq", self.run, self.step, self.copy, self.chunk)
        digest = blake2b(b"onlyforward-key-1" + packed + self.site.encode("utf-8"), digest_size=8).digest()
        return int.from_bytes(digest, "little") & (2**63 - 1)

    def generator(self, device: str | torch.device = "cpu") -> torch.Generator:
        """A fresh torch generator at the start of this key's stream (5-7 us)."""
        import torch

        return torch.Generator(device=device).manual_seed(self.seed)

    def numpy(self) -> numpy.random.Generator:
        """A fresh numpy generator (Philox) at the start of this key's stream (30-40 us: not for hot paths)."""
        import numpy

        return numpy.random.Generator(numpy.random.Philox(self.seed))
