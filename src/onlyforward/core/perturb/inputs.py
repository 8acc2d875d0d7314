"""Noise on the input of a black box: x + sigma A eps over a basis A; every datum has its own noise.

The pull gives the gradient in coordinates c of x + A c: sum_n weight score(eps), per datum (arXiv 2403.15603).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from onlyforward.core.checks import check_range
from onlyforward.core.directions import direction, slices
from onlyforward.core.keys import Key
from onlyforward.core.params import Params
from onlyforward.core.perturb.parameters import LinearProbe
from onlyforward.core.probe import Run


@dataclass(frozen=True)
class Inputs:
    """Perturb one named input [b, ...].

    Attributes:
        noise: kind of noise, see `core.directions`.
        sigma: its scale, in units of the input.
        antithetic: copies i and i + n/2 are mirrored.
        name: the input's name among the params; the run sees it as [n * b, ...] rows and returns [n * b].
        lift: coordinates [n, b, k] -> input perturbation [n, b, ...]; default: the input's own shape.
        coordinates: k, with a lift.
    """

    noise: str = "gaussian"
    sigma: float = 0.1
    antithetic: bool = False
    name: str = "x"
    lift: Callable[[Tensor], Tensor] | None = None
    coordinates: int | None = None

    def __post_init__(self) -> None:
        check_range(self.sigma, name="sigma", low=0.0, open_low=True, why="without noise there is nothing to compare")
        direction(self.noise)

    def probes(self, run: Run, params: Params, *, key: Key, copies: int) -> Iterator[LinearProbe]:
        """One probe; its pull gives `name` in the input's shape, or [b, k] with a lift."""
        x = params[self.name]
        kind = direction(self.noise)
        site = key.at(site=f"{key.site}{self.name}")
        shape = (x.shape[0], self.coordinates) if self.coordinates is not None else tuple(x.shape)
        drawn = copies // 2 if self.antithetic else copies
        signals: list[Tensor] = []
        with torch.no_grad():
            for part in slices(drawn, x.numel()):
                noise = kind.draw(site, part, shape, x) * self.sigma
                moved = self.lift(noise) if self.lift is not None else noise
                signals.append(self.signal(run, params, x + moved, site.at(copy=part.start)))
            for part in slices(copies - drawn, x.numel()):
                noise = kind.draw(site, part, shape, x) * -self.sigma
                moved = self.lift(noise) if self.lift is not None else noise
                signals.append(self.signal(run, params, x + moved, site.at(copy=drawn + part.start)))

        def pull(weight: Tensor) -> Params:
            folded = weight[:drawn] - weight[drawn:] if self.antithetic else weight
            return {self.name: kind.correlate(folded.to(x.dtype), site, shape, self.sigma)}

        yield LinearProbe(self.name, torch.cat(signals), copies, pull)

    def signal(self, run: Run, params: Params, rows: Tensor, key: Key) -> Tensor:
        """Run [n, b, ...] as n * b rows and give the signal back as [n, b]."""
        n, b = rows.shape[:2]
        return run({**params, self.name: rows.reshape(n * b, *rows.shape[2:])}, key).reshape(n, b)
