"""Directional derivatives by forward-mode differentiation: the forward gradient (arXiv 2202.08587).

E[(v . grad R) v] = grad R for directions with E[v v^T] = I; exact in the signal, no sigma and no bias.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from onlyforward.core.directions import direction
from onlyforward.core.keys import Key
from onlyforward.core.params import Params
from onlyforward.core.perturb.coordinates import unflatten
from onlyforward.core.perturb.parameters import LinearProbe
from onlyforward.core.probe import Run


@dataclass(frozen=True)
class Tangents:
    """Perturb along tangents: the signal is the directional derivative itself, so weigh it with `Mean`.

    Attributes:
        noise: gaussian, rademacher or hadamard directions (unit second moment).
    """

    noise: str = "rademacher"
    antithetic: bool = False

    def __post_init__(self) -> None:
        direction(self.noise)

    def probes(self, run: Run, params: Params, *, key: Key, copies: int) -> Iterator[LinearProbe]:
        """One probe; each copy is one Jacobian-vector product (about two forward runs of work, counted as one run)."""
        names = sorted(params)
        like = params[names[0]]
        kind = direction(self.noise)
        site = key.at(site=f"{key.site}tangents")
        size = sum(params[name].numel() for name in names)
        signals = []
        for copy in range(copies):
            flat = kind.draw(site, slice(copy, copy + 1), (1, size), like)[0, 0]
            tangent = unflatten(flat, params, names)
            outcome = torch.func.jvp(lambda p, c=copy: run(p, site.at(copy=c)), (dict(params),), (tangent,))
            signals.append(outcome[1].detach())

        def pull(weight: Tensor) -> Params:
            total = kind.correlate(weight.sum(1, keepdim=True).to(like.dtype), site, (1, size), 1.0)[0]
            return unflatten(total, params, names)

        yield LinearProbe("tangents", torch.stack(signals), copies, pull)
