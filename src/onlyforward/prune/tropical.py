"""Best paths: the weights that keep every output reachable, by one run in the (max, x) semiring (derived)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from onlyforward.prune.connect import Probe, gradients
from onlyforward.prune.semiring import Max

NEW = 1e-6
"""Weight of an edge that is not kept yet, against 1 for a kept one: few new edges come before heavy ones."""


def outputs_of(value: Tensor) -> Tensor:
    """The best path's product at every output unit; of several positions the best."""
    if value.ndim >= 4:
        return value.flatten(2).amax(-1)[0]
    return value.reshape(-1, value.shape[-1]).amax(0) if value.ndim else value[None]


def support(how: Probe, weights: Mapping[str, Tensor], only: int | None = None) -> dict[str, Tensor]:
    """The union of the best max-product paths to every output (or to one), as flags per weight.

    The gradient of sum_j log m_j, with m_j the best product into output j, is positive exactly on those paths.
    """

    def total(value: Tensor, log: float) -> Tensor:
        best = outputs_of(value)
        best = best if only is None else best[only : only + 1]
        return best[best > 0].log().sum()

    found, _ = gradients(BestProbe.of(how), weights, objective=total)
    return {name: (slope > 0) & (weights[name] > 0) for name, slope in found.items()}


class BestProbe(Probe):
    """A probe that runs in the (max, x) semiring."""

    @classmethod
    def of(cls, how: Probe) -> BestProbe:
        """The same probe in the other arithmetic."""
        return cls(**vars(how))

    def run(self, weights: Mapping[str, Tensor], *, semiring: object = None) -> tuple[Tensor, float]:
        """The best product per output entry."""
        return super().run(weights, semiring=Max())


def reached(how: Probe, weights: Mapping[str, Tensor]) -> int:
    """How many outputs have a path."""
    with torch.no_grad():
        value, _ = BestProbe.of(how).run({name: w.clone() for name, w in weights.items()})
    return int((outputs_of(value) > 0).sum())


def tree(how: Probe, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A small set of weights that reaches every reachable output: output by output, kept edges cost nothing.

    Each output takes the path with the fewest new edges, the heaviest among equals. The greedy tree is minimal for
    chains whose layers are fully connected; in general it is an upper bound of the minimum.
    """
    kept = {name: torch.zeros_like(w, dtype=torch.bool) for name, w in weights.items()}
    with torch.no_grad():
        value, _ = BestProbe.of(how).run({name: w.clone() for name, w in weights.items()})
    alive = (outputs_of(value) > 0).nonzero().flatten().tolist()
    for output in alive:
        costs = {}
        for name, w in weights.items():
            if w.ndim < 2:
                costs[name] = (w > 0).to(w.dtype)
                continue
            ranked = NEW * (1 + 0.1 * w / w.max().clamp_min(1e-300))
            costs[name] = torch.where(kept[name], torch.ones_like(w), ranked) * (w > 0)
        for name, flags in support(how, costs, output).items():
            kept[name] |= flags
    return {name: flags for name, flags in kept.items() if flags.ndim > 1}


def count(flags: Mapping[str, Tensor]) -> int:
    """How many weights are flagged."""
    return sum(int(f.sum()) for f in flags.values())
