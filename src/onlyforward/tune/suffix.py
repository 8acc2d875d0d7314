"""The last blocks of a post-norm vision transformer as a short network of their own; what lies before runs once.

The class token alone reaches the head, so in the last block everything behind the attention runs on one token of 65.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from onlyforward.core.checks import check_range


class Attention(nn.Module):
    """x + attention(x) of an encoder layer; with `last` for the class token alone: [n, t, w] -> [n, w]."""

    def __init__(self, layer: Any, *, last: bool) -> None:
        super().__init__()
        self.inner, self.last = layer.self_attn, last

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [n, t, w] (or the class token [n, w]) before the first norm."""
        query = x[:, :1] if self.last else x
        out = query + self.inner(query, x, x, need_weights=False)[0]
        return out[:, 0] if self.last else out


class FeedForward(nn.Module):
    """x + ff(x) of an encoder layer."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.up, self.down = layer.linear1, layer.linear2

    def forward(self, x: Tensor) -> Tensor:
        """The same shape as x."""
        return x + self.down(self.up(x).relu())


class LowRankLinear(nn.Module):
    """A frozen linear layer and a low-rank addition: W x + b + B A x, with B = 0 at the start (arXiv 2106.09685).

    Args:
        linear: W and b.
        rank: rows of A.
        generator: of A, whose entries have variance 1 / in_features.
    """

    def __init__(self, linear: nn.Linear, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        wide = linear.in_features
        self.left = nn.Parameter(torch.zeros(linear.out_features, rank))
        self.right = nn.Parameter(torch.randn(rank, wide, generator=generator) / wide**0.5)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        return F.linear(x, self.weight, self.bias) + x @ self.right.T @ self.left.T


def split(model: nn.Module, blocks: int) -> tuple[nn.Sequential, nn.Sequential]:
    """A frozen prefix and a suffix that begins at the first norm of the last `blocks` blocks.

    Args:
        model: the small ViT of `data.pretrained`, in eval mode; its own modules are shared, not copied.
        blocks: how many.

    Returns:
        prefix: images -> what the suffix reads. suffix: norms, feed-forwards, attentions, and the head, whose modules
        are named norm<i>a, norm<i>b, head_norm and head.
    """
    net: Any = model
    layers = list(net.transformer.layers)
    check_range(blocks, name="blocks", low=1, high=len(layers))
    first = len(layers) - blocks
    prefix = nn.Sequential(net.normalise, net.embed, *layers[:first], Attention(layers[first], last=blocks == 1))
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for number, layer in enumerate(layers[first:]):
        if number:
            parts[f"attention{number}"] = Attention(layer, last=number == blocks - 1)
        parts[f"norm{number}a"] = layer.norm1
        parts[f"feed{number}"] = FeedForward(layer)
        parts[f"norm{number}b"] = layer.norm2
    parts["head_norm"], parts["head"] = net.mlp_head[0], net.mlp_head[1]
    return prefix.eval(), nn.Sequential(parts).eval()


def cached(prefix: nn.Module, x: Tensor, *, chunk: int = 128) -> Tensor:
    """What the suffix reads for images [n, 3, 32, 32], computed once."""
    with torch.no_grad():
        return torch.cat([prefix(part) for part in x.split(chunk)])
