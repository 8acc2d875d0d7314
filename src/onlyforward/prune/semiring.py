"""The two arithmetics in which a network is run: (+, x) gives the connectivity, (max, x) the best path."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 4_000_000
"""Products held at once by a maximal product."""


class Sum:
    """Ordinary arithmetic: parallel paths add."""

    name = "sum"

    def linear(self, x: Tensor, weight: Tensor) -> Tensor:
        """[..., in] and [out, in] -> [..., out]."""
        return F.linear(x, weight)

    def conv(self, x: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any, groups: int) -> Tensor:
        """A convolution of 1 to 3 dimensions without bias."""
        function = (F.conv1d, F.conv2d, F.conv3d)[weight.ndim - 3]
        return function(x, weight, None, stride, padding, dilation, groups)

    def conv_transpose(
        self, x: Tensor, weight: Tensor, stride: Any, padding: Any, extra: Any, groups: int, dilation: Any
    ) -> Tensor:
        """A transposed convolution of 1 to 3 dimensions without bias."""
        function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[weight.ndim - 3]
        return function(x, weight, None, stride, padding, extra, groups, dilation)

    def matmul(self, a: Tensor, b: Tensor) -> Tensor:
        """Batched product of two tensors."""
        return torch.matmul(a, b)

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        """Two branches that meet."""
        return a + b

    def mean(self, x: Tensor, dim: Any, keepdim: bool) -> Tensor:
        """Mean over `dim`."""
        return x.mean(dim=dim, keepdim=keepdim)

    def sum(self, x: Tensor, dim: Any, keepdim: bool) -> Tensor:
        """Sum over `dim`."""
        return x.sum(dim=dim, keepdim=keepdim)

    def pool(self, x: Tensor, dims: int, kernel: Any, stride: Any, padding: Any, ceil: bool) -> Tensor:
        """Mean over a window of data, padding not counted."""
        function = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[dims - 1]
        return function(x, kernel, stride, padding, ceil, False)

    def adaptive_pool(self, x: Tensor, dims: int, size: Any) -> Tensor:
        """Mean over windows that tile the input."""
        return (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[dims - 1](x, size)

    def scatter(self, base: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
        """Sum the entries of `source` into the places that `index` names."""
        return base.scatter_add(dim, index, source)


class Best(torch.autograd.Function):
    """out[n, o] = max_i x[n, i] w[o, i]; the gradient runs along the best edge alone.

    Neighbouring rows that are alike are multiplied once: on ones, most places of an image see the same.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        """x: [n, in], weight: [out, in] -> [n, out]."""
        fresh = torch.ones(len(x), dtype=torch.bool, device=x.device)
        fresh[1:] = (x[1:] != x[:-1]).any(dim=1)
        distinct, place = x[fresh], fresh.cumsum(0) - 1
        outputs, arguments = [], []
        step = max(1, CHUNK // max(1, distinct.numel()))
        for rows in weight.split(step):
            value, argument = (distinct[:, None, :] * rows[None]).max(dim=-1)
            outputs.append(value)
            arguments.append(argument)
        argument = torch.cat(arguments, dim=1)[place]
        ctx.save_for_backward(x, weight, argument)
        return torch.cat(outputs, dim=1)[place]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of x and weight."""
        x, weight, argument = ctx.saved_tensors
        grad = gradients[0]
        rows = torch.arange(len(weight)).expand_as(argument)
        grad_x = torch.zeros_like(x).scatter_add_(1, argument, grad * weight[rows, argument])
        flat = (rows * weight.shape[1] + argument).flatten()
        grad_w = torch.zeros_like(weight).flatten()
        grad_w.index_add_(0, flat, (grad * x.gather(1, argument)).flatten())
        return grad_x, grad_w.view_as(weight)


def per_dimension(value: Any, dims: int) -> tuple[int, ...]:
    """An integer or a sequence as one number per dimension."""
    if isinstance(value, Sequence):
        return tuple(value) if len(value) == dims else tuple(value) * dims
    return (int(value),) * dims


def patches(x: Tensor, kernel: Sequence[int], stride: Any, padding: Any, dilation: Any) -> Tensor:
    """[b, c, *size] -> [b, c, *out, *kernel]: what each place of a convolution sees; padding is zero."""
    dims = len(kernel)
    stride, dilation = per_dimension(stride, dims), per_dimension(dilation, dims)
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, kernel)]
        sides = [(t // 2, t - t // 2) for t in total]
    else:
        sides = [(p, p) for p in per_dimension(0 if padding == "valid" else padding, dims)]
    x = F.pad(x, [number for side in reversed(sides) for number in side])
    for k, (size, step, spread) in enumerate(zip(kernel, stride, dilation)):
        x = x.unfold(2 + k, spread * (size - 1) + 1, step)[..., ::spread]
    return x


class Max(Sum):
    """Of parallel paths the best counts: every sum of `Sum` is a maximum."""

    name = "max"

    def linear(self, x: Tensor, weight: Tensor) -> Tensor:
        """[..., in] and [out, in] -> [..., out]."""
        found: Tensor = Best.apply(x.reshape(-1, x.shape[-1]), weight)  # type: ignore[no-untyped-call]
        return found.view(*x.shape[:-1], len(weight))

    def conv(self, x: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any, groups: int) -> Tensor:
        """A convolution of 1 to 3 dimensions without bias."""
        kernel = weight.shape[2:]
        dims = len(kernel)
        single = x.ndim == dims + 1
        seen = patches(x[None] if single else x, kernel, stride, padding, dilation)
        b, c = seen.shape[:2]
        places = seen.shape[2 : 2 + dims]
        seen = seen.reshape(b, groups, c // groups, prod(places), prod(kernel))
        rows = seen.permute(1, 0, 3, 2, 4).flatten(3).flatten(1, 2)
        heads = weight.reshape(groups, weight.shape[0] // groups, -1)
        found = torch.stack([self.linear(r, h) for r, h in zip(rows, heads)])
        found = found.view(groups, b, prod(places), -1).permute(1, 0, 3, 2).reshape(b, len(weight), *places)
        return found[0] if single else found

    def conv_transpose(
        self, x: Tensor, weight: Tensor, stride: Any, padding: Any, extra: Any, groups: int, dilation: Any
    ) -> Tensor:
        """A transposed convolution: zeros between the data, then a convolution with the turned kernel."""
        kernel = weight.shape[2:]
        dims = len(kernel)
        steps, sides = per_dimension(stride, dims), per_dimension(padding, dims)
        spread, extras = per_dimension(dilation, dims), per_dimension(extra, dims)
        wide = x.new_zeros(*x.shape[:-dims], *((n - 1) * s + 1 for n, s in zip(x.shape[-dims:], steps)))
        wide[(..., *(slice(None, None, s) for s in steps))] = x
        borders: list[int] = []
        for size, side, gap, more in reversed(list(zip(kernel, sides, spread, extras))):
            reach = gap * (size - 1) - side
            borders += [reach, reach + more]
        turned = weight.flip(tuple(range(2, weight.ndim)))
        turned = turned.view(groups, -1, *weight.shape[1:]).transpose(1, 2).flatten(0, 1)
        return self.conv(F.pad(wide, borders), turned, 1, 0, dilation, groups)

    def matmul(self, a: Tensor, b: Tensor) -> Tensor:
        """Batched product of two tensors."""
        if b.ndim == 1:
            return (a * b).amax(-1)
        if a.ndim == 1:
            return (a[..., None] * b).amax(-2)
        return (a[..., None] * b[..., None, :, :]).amax(-2)

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        """Two branches that meet."""
        return torch.maximum(a, b)

    def mean(self, x: Tensor, dim: Any, keepdim: bool) -> Tensor:
        """Maximum over `dim`."""
        return x.amax(dim=() if dim is None else dim, keepdim=keepdim)

    def sum(self, x: Tensor, dim: Any, keepdim: bool) -> Tensor:
        """Maximum over `dim`."""
        return self.mean(x, dim, keepdim)

    def pool(self, x: Tensor, dims: int, kernel: Any, stride: Any, padding: Any, ceil: bool) -> Tensor:
        """Maximum over a window."""
        return (F.max_pool1d, F.max_pool2d, F.max_pool3d)[dims - 1](x, kernel, stride, padding, 1, ceil)

    def adaptive_pool(self, x: Tensor, dims: int, size: Any) -> Tensor:
        """Maximum over windows that tile the input."""
        return (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d)[dims - 1](x, size)

    def scatter(self, base: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
        """Keep the best entry of `source` at each place that `index` names."""
        return base.scatter_reduce(dim, index, source, "amax")
