"""Named tensors, always walked in sorted order, and their digests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import sha256

import torch
from torch import Tensor

Params = Mapping[str, Tensor]


def walk(params: Params) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors in sorted name order: the one order in which parameters are ever visited."""
    for name in sorted(params):
        yield name, params[name]


def add(left: Params, right: Params) -> dict[str, Tensor]:
    """Sum over the union of the names; a tensor that only one side has is taken as it is."""
    total = dict(left)
    for name, value in walk(right):
        total[name] = total[name] + value if name in total else value
    return total


def little_endian_bytes(tensor: Tensor) -> bytes:
    """The contiguous little-endian bytes of a tensor of any dtype, bfloat16 included."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def digest(params: Params) -> str:
    """SHA-256 over name, dtype, shape and little-endian bytes of every tensor, in name order."""
    total = sha256()
    for name, value in walk(params):
        header = f"{name}\0{str(value.dtype).removeprefix('torch.')}\0{','.join(map(str, value.shape))}\0"
        total.update(header.encode("utf-8"))
        total.update(little_endian_bytes(value))
    return total.hexdigest()


def digest48(params: Params) -> int:
    """The first 48 bits of `digest` as a number, exact in a float64."""
    return int(digest(params)[:12], 16)
