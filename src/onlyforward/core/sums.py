"""Sums that do not depend on order, partition or number of workers, to the last bit."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, distributed

from onlyforward.core.errors import Diverged, UsageError
from onlyforward.core.params import Params, walk

LARGEST = 1024
"""Most chunks in one sum: 1024 terms below 2^52 stay below 2^63."""


def exact_sum(chunks: Sequence[Params], *, group: distributed.ProcessGroup | None = None) -> dict[str, Tensor]:
    """Add the pulls of chunks so that any order and any partition over workers gives the same bits.

    Per tensor: m = max |x| over all chunks, m < 2^e, k = min(52 - e, 1000), q_c = rint(x_c 2^k) as int64; the result is
    float64(sum q_c) 2^-k in the input's dtype. Integer addition is associative; the error is at most C 2^-52 m,
    and 2^-53 of the sum from its own rounding. (derived)

    Args:
        chunks: C <= 1024 mappings with equal names and shapes; with a `group`, this worker's share of them.
        group: the torch.distributed group over which the chunks are spread; every worker gets the sum.

    Raises:
        UsageError: no chunk, or more than 1024.
        Diverged: an element is not finite.
    """
    if not 1 <= len(chunks) <= LARGEST:
        raise UsageError(f"exact_sum got {len(chunks)} chunks", f"Give between 1 and {LARGEST}")
    return {name: sum_tensors([chunk[name] for chunk in chunks], name=name, group=group) for name, _ in walk(chunks[0])}


def sum_tensors(
    tensors: Sequence[Tensor], *, name: str = "tensor", group: distributed.ProcessGroup | None = None
) -> Tensor:
    """`exact_sum` of one tensor's chunks."""
    if tensors[0].numel() == 0:
        return torch.zeros_like(tensors[0])
    largest = torch.stack([tensor.detach().abs().amax().double() for tensor in tensors]).amax()
    if group is not None:
        distributed.all_reduce(largest, distributed.ReduceOp.MAX, group=group)
    if not bool(largest.isfinite()):
        raise Diverged(f"A sum over {name} has non-finite terms", "Lower the learning rate or sigma", site=name)
    if float(largest) == 0.0:
        return torch.zeros_like(tensors[0])
    exponent = min(52 - math.frexp(float(largest))[1], 1000)
    scale = math.ldexp(1.0, exponent)
    total = torch.zeros(tensors[0].shape, dtype=torch.int64, device=tensors[0].device)
    for tensor in tensors:
        total += (tensor.detach().double() * scale).round_().to(torch.int64)
    if group is not None:
        distributed.all_reduce(total, distributed.ReduceOp.SUM, group=group)
    return (total.double() * math.ldexp(1.0, -exponent)).to(tensors[0].dtype)
