"""Noise of one site in one step: drawn by key, added to the clean tensor, and correlated with weights afterwards."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from onlyforward.core.directions import Direction, Hadamard, hadamard_matrix
from onlyforward.core.keys import Key

TABLE = 2048
"""Widest Hadamard matrix that is kept whole (16 MB); wider ones are looked up bit by bit."""


@lru_cache(maxsize=8)
def parity_signs(width: int) -> Tensor:
    """(-1)^popcount(i) for i < width."""
    signs = torch.ones(1)
    while len(signs) < width:
        signs = torch.cat((signs, -signs))
    return signs


def hadamard_block(rows: Tensor, size: int, like: Tensor) -> Tensor:
    """Rows of Sylvester's matrix, first `size` columns: (-1)^popcount(i and j), looked up."""
    width = 1 << max(0, size - 1).bit_length()
    if width <= TABLE:
        found = hadamard_matrix(width).index_select(0, rows)[:, :size]
    else:
        found = parity_signs(width)[rows[:, None] & torch.arange(size)]
    return found.to(like)


class SiteNoise:
    """Directions of one site: m drawn, each also mirrored where the site runs in pairs.

    Args:
        direction: kind of noise.
        key: coordinates of the draws.
        drawn: m.
        shape: [b, *site]; [1, P] for noise that all data share.
        sigma: scale, a float or a tensor of one element.
        like: gives dtype and device.
    """

    def __init__(
        self, direction: Direction, key: Key, drawn: int, shape: tuple[int, ...], sigma: float | Tensor, like: Tensor
    ) -> None:
        self.direction, self.key, self.drawn, self.shape, self.sigma = direction, key, drawn, shape, sigma
        # Noise and scores are float32 even where the network is half: sigma eps must not lose its bits before the sum.
        half = like.dtype in (torch.float16, torch.bfloat16)
        self.like = like = torch.empty(0, device=like.device) if half else like
        self.size = math.prod(shape[1:])
        self.blocks: list[tuple[slice, Tensor, Tensor]] = []
        if isinstance(direction, Hadamard):
            flat = (shape[0], self.size)
            for rows, order, signs, part in direction.blocks(key, slice(0, drawn), flat, like):
                self.blocks.append((part, hadamard_block(order[rows], self.size, like), signs))

    def added(self, clean: Tensor, part: slice, *, paired: bool) -> Tensor:
        """Clean [b, *site] plus sigma times noise of a slice of directions: [n, b, *site], mirrored ones behind."""
        if self.blocks:
            pieces = [
                self.hadamard_added(clean, matrix[max(part.start - at.start, 0) : part.stop - at.start], signs, sign)
                for sign in ((1, -1) if paired else (1,))
                for at, matrix, signs in self.blocks
                if at.start < part.stop and at.stop > part.start
            ]
            return (pieces[0] if len(pieces) == 1 else torch.cat(pieces)).to(clean.dtype)
        noise = self.direction.draw(self.key, part, self.shape, self.like).mul_(self.sigma)
        return (torch.cat((clean + noise, clean - noise)) if paired else noise.add_(clean)).to(clean.dtype)

    def hadamard_added(self, clean: Tensor, matrix: Tensor, signs: Tensor, sign: int) -> Tensor:
        """Clean + sign sigma H S in one pass."""
        scaled = (signs * (sign * self.sigma)).reshape(self.shape)
        return torch.addcmul(clean, matrix.reshape(-1, 1, *self.shape[1:]), scaled)

    def correlate(self, weight: Tensor) -> Tensor:
        """sum_m weight[m, b] score[m, b]: [b, *site]."""
        if not self.blocks:
            return self.direction.correlate(weight, self.key, self.shape, self.sigma)
        pieces = [(weight[at].T @ matrix).mul_(signs) for at, matrix, signs in self.blocks]
        total = pieces[0] if len(pieces) == 1 else torch.stack(pieces).sum(0)
        return total.div_(self.sigma).reshape(self.shape)
