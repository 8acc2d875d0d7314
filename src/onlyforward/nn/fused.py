"""Noise of two values goes through elementwise functions for free, and into the next linear layer as one product.

A Hadamard copy adds +s or -s to every coordinate, s = sigma S. Hence phi(v + H s) = m + H c for any elementwise phi,
with m and c half the sum and half the difference of phi(v + s) and phi(v - s): phi runs on 2 b rows instead of n b.
A narrow linear layer W behind it gives W m + H (c W)^T, one product of n rows: the n b rows of its input are never
made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from onlyforward.nn.noise import SiteNoise
from onlyforward.nn.sites import Site

if TYPE_CHECKING:
    from onlyforward.nn.walk import Part, Walk

ELEMENTWISE = (
    nn.ReLU,
    nn.Tanh,
    nn.Sigmoid,
    nn.GELU,
    nn.SiLU,
    nn.Softplus,
    nn.LeakyReLU,
    nn.ELU,
    nn.SELU,
    nn.Hardtanh,
    nn.ReLU6,
    nn.Softsign,
    nn.Identity,
)
"""Modules that work on every number alone, in training mode too."""

NARROW = 4
"""A linear layer is taken in where its outputs are so many times fewer than its inputs: the product with H has few rows
and many columns, b times the outputs, and a wider layer runs faster on the n b rows themselves."""


def untouched(module: nn.Module) -> bool:
    """Whether calling a module runs its class's forward and nothing else: no hooks, no replaced forward."""
    return not (module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__)


@dataclass(frozen=True)
class Block:
    """One repetition of the Hadamard matrix.

    Attributes:
        at: the directions it serves.
        matrix: its rows [n, d] of +-1.
        middle: what all copies share: [b, *value], or W m + bias [b out] where a linear layer is taken in.
        change: what H multiplies: [b, *value], or c W [b out, d].
    """

    at: slice
    matrix: Tensor
    middle: Tensor
    change: Tensor


@dataclass(frozen=True)
class Fused:
    """A site's copies, carried through the parts that lie directly behind it.

    Attributes:
        blocks: in the order of the directions.
        index: the part that runs next.
        shape: of one datum there.
        linear: whether a linear layer is taken in.
    """

    blocks: tuple[Block, ...]
    index: int
    shape: tuple[int, ...]
    linear: bool

    def rows(self, part: slice, *, paired: bool) -> Tensor:
        """What the part at `index` takes for a slice of directions: [n b, *shape], mirrored ones behind."""
        pieces = [
            self.piece(block, block.matrix[max(part.start - block.at.start, 0) : part.stop - block.at.start], sign)
            for sign in ((1, -1) if paired else (1,))
            for block in self.blocks
            if block.at.start < part.stop and block.at.stop > part.start
        ]
        return (pieces[0] if len(pieces) == 1 else torch.cat(pieces)).reshape(-1, *self.shape)

    def piece(self, block: Block, matrix: Tensor, sign: int) -> Tensor:
        """The middle plus sign H change, for some rows of the matrix."""
        if self.linear:
            return F.linear(matrix if sign > 0 else -matrix, block.change, block.middle)
        return torch.addcmul(block.middle, matrix.reshape(-1, 1, *self.shape), block.change, value=sign)


def fused(walk: Walk, site: Site, noise: SiteNoise) -> Fused | None:
    """The way past the parts behind a site, or None where the noise or the site is of another kind."""
    part = walk.parts[site.call.part]
    plain = type(site) is Site and type(noise) is SiteNoise and bool(noise.blocks) and noise.shape == site.clean.shape
    plain = plain and noise.like.dtype == site.clean.dtype  # half precision goes the plain way
    if (
        not plain
        or isinstance(noise.sigma, Tensor)
        or not part.whole
        or part.loose
        or not isinstance(site.call.output, Tensor)
    ):
        return None
    index = site.call.part + 1
    behind = leading(walk.parts[index:])
    last: Any = behind.pop().module if behind and type(behind[-1].module) is nn.Linear else None
    linear = last if last is not None and NARROW * last.out_features <= last.in_features else None
    index += len(behind) + (linear is not None)
    blocks = []
    for at, matrix, signs in noise.blocks:
        scale = signs.reshape(site.clean.shape)
        up = torch.add(site.clean, scale, alpha=noise.sigma)
        down = torch.sub(site.clean, scale, alpha=noise.sigma)
        for later in behind:
            up, down = later.module.forward(up), later.module.forward(down)
        middle = torch.lerp(down, up, 0.5)
        change = up - middle
        shape = tuple(up.shape[1:])
        if linear is not None and len(shape) > 1:
            return None
        if linear is not None:
            middle = F.linear(middle, linear.weight, linear.bias).flatten()
            change = (change[:, None, :] * linear.weight.detach()).flatten(0, 1)
            shape = (linear.out_features,)
        blocks.append(Block(at, matrix, middle, change))
    return Fused(tuple(blocks), index, shape, linear is not None)


def leading(parts: Sequence[Part]) -> list[Part]:
    """The leading parts that work on every number alone or flatten a datum, and a linear layer behind them."""
    found = []
    for part in parts:
        module: Any = part.module
        flat = type(module) is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1)
        alone = type(module) in ELEMENTWISE and not getattr(module, "inplace", False)
        if not untouched(module) or not (flat or alone or type(module) is nn.Linear):
            break
        found.append(part)
        if type(module) is nn.Linear:
            break
    return found
