"""Two points along a coordinate axis: the parameter-shift rule of quantum circuits, and central differences.

d R / d theta_j = scale (R(theta + shift e_j) - R(theta - shift e_j)); exact for circuits whose gates have eigenvalues
+-1/2 with shift = pi/2 and scale = 1/2 (arXiv 1803.00745).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from onlyforward.core.checks import check_range
from onlyforward.core.keys import Key
from onlyforward.core.params import Params
from onlyforward.core.perturb.parameters import LinearProbe
from onlyforward.core.probe import Run


@dataclass(frozen=True)
class Coordinates:
    """Perturb parameters one coordinate at a time, in mirrored pairs.

    Copies are made as axes are needed: n = 2 * axes, whatever number is asked for; use the weighting `Mean`, whose 1/n
    the pull takes back, or `Antithetic`.

    Attributes:
        shift: distance along the axis.
        scale: factor on the difference of the two signals.
        choose: key -> indices of the axes to run, int64 [axes] into the flattened parameters (default: all).
    """

    shift: float
    scale: float
    choose: Callable[[Key], Tensor] | None = None
    antithetic: bool = True

    def __post_init__(self) -> None:
        check_range(self.shift, name="shift", low=0.0, open_low=True)

    def probes(self, run: Run, params: Params, *, key: Key, copies: int) -> Iterator[LinearProbe]:
        """One probe over all chosen axes."""
        names = sorted(params)
        flat = torch.cat([params[name].reshape(-1) for name in names])
        axes = torch.arange(len(flat)) if self.choose is None else self.choose(key)
        signals = []
        with torch.no_grad():
            for sign in (1.0, -1.0):
                for row, axis in enumerate(axes.tolist()):
                    moved = flat.clone()
                    moved[axis] += sign * self.shift
                    signals.append(run(unflatten(moved, params, names), key.at(copy=row + (sign < 0) * len(axes))))
        signal = torch.stack(signals)
        count = len(axes)

        def pull(weight: Tensor) -> Params:
            # Weightings carry 1/n for n copies of one estimate; here every axis is an estimate of its own, so n = 2m is
            # taken back: (w_i - w_{i+m}) 2m is R+ - R- for Mean and for Antithetic alike.
            pairs = (weight[:count] - weight[count:]).sum(1) * (2 * count)
            total = torch.zeros_like(flat).index_add(0, axes, self.scale * pairs)
            return unflatten(total, params, names)

        yield LinearProbe("coordinates", signal, 2 * count, pull)


def unflatten(flat: Tensor, params: Params, names: list[str]) -> dict[str, Tensor]:
    """Named tensors in the shapes of `params` from one flat vector."""
    parts = torch.split(flat, [params[name].numel() for name in names])
    return {name: part.reshape(params[name].shape) for name, part in zip(names, parts, strict=True)}
