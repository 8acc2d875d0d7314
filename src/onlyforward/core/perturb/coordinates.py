"""Two points along a coordinate axis: the parameter-shift rule of quantum circuits, and central differences.

d R / d theta_j = scale (R(theta + shift e_j) - R(theta - shift e_j)); exact for circuits whose gates have eigenvalues
+-1/2 with shift = pi/2 and scale = 1/2 (arXiv 1803.00745).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from onlyforward.core.checks import check_choice, check_range
from onlyforward.core.directions import slices
from onlyforward.core.keys import Key
from onlyforward.core.params import Params
from onlyforward.core.perturb.parameters import LinearProbe
from onlyforward.core.probe import Run


@dataclass(frozen=True)
class Coordinates:
    """Perturb parameters one coordinate at a time, in mirrored pairs.

    Copies are made as axes are needed: n = 2 * axes, whatever number is asked for; use the weighting `Mean`, whose 1/n
    the pull takes back, or `Antithetic`. Axes are summed, never averaged.

    Attributes:
        shift: distance along the axis.
        scale: factor on the difference of the two signals.
        choose: a number m of axes, drawn without replacement and weighted by P/m; or key -> indices of the axes into
            the flattened parameters, int64 [axes]; default: all.
        per: "batch", the same axes for all data (the run sees leaves of the parameters' own shape), or "datum", m axes
            of its own for every datum (the run sees leaves [b, *shape]).
        batched: the run takes all copies at once: leaves gain a leading n, and the signal comes back as [n, b].
        data: b, needed for per="datum".
    """

    shift: float
    scale: float
    choose: Callable[[Key], Tensor] | int | None = None
    antithetic: bool = True
    per: Literal["batch", "datum"] = "batch"
    batched: bool = False
    data: int = 1

    def __post_init__(self) -> None:
        check_range(self.shift, name="shift", low=0.0, open_low=True)
        check_choice(self.per, ("batch", "datum"), name="per")

    def axes(self, size: int, key: Key) -> tuple[Tensor, float]:
        """Axes [rows, m], rows = b for per="datum" and else 1, and the factor P/m of a random choice."""
        rows = self.data if self.per == "datum" else 1
        if isinstance(self.choose, int):
            check_range(self.choose, name="choose", low=1, high=size)
            order = torch.rand(rows, size, generator=key.at(site=f"{key.site}axes").generator()).argsort(1)
            return order[:, : self.choose], size / self.choose
        chosen = torch.arange(size) if self.choose is None else self.choose(key)
        return chosen.expand(rows, -1), 1.0

    def probes(self, run: Run, params: Params, *, key: Key, copies: int) -> Iterator[LinearProbe]:
        """One probe over all chosen axes."""
        names = sorted(params)
        flat = torch.cat([params[name].reshape(-1) for name in names])
        axes, factor = self.axes(len(flat), key)
        axes = axes.to(flat.device)
        rows, count = axes.shape

        def leaves(part: slice) -> dict[str, Tensor]:
            number = torch.arange(part.start, part.stop, device=flat.device)
            step = torch.where(number < count, self.shift, -self.shift).to(flat)
            where = axes.T[number % count]
            moved = flat.expand(len(number), rows, -1).scatter_add(
                2, where[:, :, None], step[:, None, None].expand(-1, rows, 1)
            )
            return unflatten(moved if self.per == "datum" else moved[:, 0], params, names)

        with torch.no_grad():
            if self.batched:
                parts = [run(leaves(part), key.at(copy=part.start)) for part in slices(2 * count, rows * len(flat))]
                signal = torch.cat(parts)
            else:
                signals = []
                for copy in range(2 * count):
                    single = {name: leaf[0] for name, leaf in leaves(slice(copy, copy + 1)).items()}
                    signals.append(run(single, key.at(copy=copy)))
                signal = torch.stack(signals)

        def pull(weight: Tensor) -> Params:
            # Weightings carry 1/n for n copies of one estimate; here every axis is an estimate of its own, so n = 2m is
            # taken back: (w_i - w_{i+m}) 2m is R+ - R- for Mean and for Antithetic alike.
            pairs = (weight[:count] - weight[count:]) * (2 * count * factor * self.scale)
            pairs = pairs.sum(1, keepdim=True) if self.per == "batch" else pairs
            total = torch.zeros_like(flat).index_add(0, axes.T.reshape(-1), pairs.reshape(-1).to(flat))
            return unflatten(total, params, names)

        yield LinearProbe("coordinates", signal, 2 * count, pull)


def unflatten(flat: Tensor, params: Params, names: list[str]) -> dict[str, Tensor]:
    """Named tensors in the shapes of `params`, leading axes kept, from flat vectors [..., size]."""
    parts = torch.split(flat, [params[name].numel() for name in names], dim=-1)
    return {name: part.reshape(*flat.shape[:-1], *params[name].shape) for name, part in zip(names, parts, strict=True)}
