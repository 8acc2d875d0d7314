"""Noise on parameters: theta + sigma eps, the direction that evolution strategies, SPSA and MeZO share.

grad E[R(theta + sigma eps)] = E[R score(eps)], score = eps / sigma for a Gaussian (arXiv 1703.03864). No direction is
stored: the pull draws each again from its key.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from onlyforward.core.checks import check_choice, check_range
from onlyforward.core.directions import Direction, direction, slices
from onlyforward.core.keys import Key
from onlyforward.core.params import Params
from onlyforward.core.probe import Run


@dataclass(frozen=True)
class LinearProbe:
    """A probe whose pull is a given linear function of the weights.

    Attributes:
        site: what was perturbed.
        signal: [n, b].
        runs: forward runs spent.
        puller: weight [n, b] -> named tensors.
        clean: [b], where the unperturbed signal was run.
        mask: [n, b], where an allocation left rows out.
    """

    site: str
    signal: Tensor
    runs: int
    puller: Callable[[Tensor], Params]
    clean: Tensor | None = None
    mask: Tensor | None = None

    def pull(self, weight: Tensor) -> Params:
        """Sum over copies and data of weight times direction."""
        return self.puller(weight)


@dataclass(frozen=True)
class Parameters:
    """Perturb named parameters.

    Attributes:
        noise: kind of noise, see `core.directions`.
        sigma: its scale, in units of the parameters.
        antithetic: copies i and i + n/2 are mirrored.
        per: "batch", one perturbation for all data of a copy (the run sees leaves of the parameters' own shape), or
            "datum", an independent one for every datum (the run sees leaves [b, *shape]).
        names: which parameters (default: all).
        batched: the run takes all copies at once: leaves gain a leading n, and the signal comes back as [n, b].
        data: b, needed for per="datum".
    """

    noise: str = "gaussian"
    sigma: float = 0.1
    antithetic: bool = False
    per: Literal["batch", "datum"] = "batch"
    names: Sequence[str] | None = None
    batched: bool = False
    data: int = 1

    def __post_init__(self) -> None:
        check_range(self.sigma, name="sigma", low=0.0, open_low=True, why="without noise there is nothing to compare")
        check_choice(self.per, ("batch", "datum"), name="per")
        direction(self.noise)

    def probes(self, run: Run, params: Params, *, key: Key, copies: int) -> Iterator[LinearProbe]:
        """One probe over all chosen parameters together."""
        kind = direction(self.noise)
        site = key.at(site=f"{key.site}parameters")
        names = sorted(params if self.names is None else self.names)
        rows = self.data if self.per == "datum" else 1
        size = sum(params[name].numel() for name in names)
        like = params[names[0]]
        drawn = copies // 2 if self.antithetic else copies

        def leaves(part: slice) -> dict[str, Tensor]:
            noise = self.mirrored(kind, site, part, drawn, (rows, size), like)
            return {**params, **self.split(params, names, noise)}

        with torch.no_grad():
            if self.batched:
                signals = []
                for part in slices(copies, rows * size):
                    chunk = leaves(part)
                    full = {
                        n: t if n in names else t.expand(part.stop - part.start, *t.shape) for n, t in chunk.items()
                    }
                    signals.append(run(full, site.at(copy=part.start)))
                signal = torch.cat(signals)
            else:
                singles = []
                for copy in range(copies):
                    chunk = leaves(slice(copy, copy + 1))
                    single = {n: t[0] if n in names else t for n, t in chunk.items()}
                    singles.append(run(single, site.at(copy=copy)))
                signal = torch.stack(singles)

        def pull(weight: Tensor) -> Params:
            folded = weight if self.per == "datum" else weight.sum(1, keepdim=True)
            folded = folded[:drawn] - folded[drawn:] if self.antithetic else folded
            total = kind.correlate(folded.to(like.dtype), site, (rows, size), self.sigma).sum(0)
            parts = torch.split(total, [params[name].numel() for name in names])
            return {name: part.reshape(params[name].shape) for name, part in zip(names, parts, strict=True)}

        yield LinearProbe("parameters", signal, copies, pull)

    def mirrored(
        self, kind: Direction, key: Key, part: slice, drawn: int, shape: tuple[int, int], like: Tensor
    ) -> Tensor:
        """Sigma eps for the copies of a slice: [n, rows, size]; the second half mirrors the first if antithetic."""
        pieces = []
        if part.start < drawn:
            pieces.append(kind.draw(key, slice(part.start, min(part.stop, drawn)), shape, like))
        if part.stop > drawn:
            pieces.append(-kind.draw(key, slice(max(part.start, drawn) - drawn, part.stop - drawn), shape, like))
        return torch.cat(pieces) * self.sigma

    def split(self, params: Params, names: Sequence[str], noise: Tensor) -> dict[str, Tensor]:
        """Perturbed leaves [n, *shape] or [n, b, *shape] from flat noise [n, rows, size]."""
        pieces: dict[str, Any] = {}
        offset = 0
        for name in names:
            value = params[name]
            count = math.prod(value.shape)
            piece = noise[:, :, offset : offset + count].reshape(noise.shape[0], noise.shape[1], *value.shape)
            pieces[name] = value + (piece if self.per == "datum" else piece[:, 0])
            offset += count
        return pieces
