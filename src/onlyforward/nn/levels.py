"""Noise levels that are learned: by descent on the loss (arXiv 2302.10802), or by ascent on the signal-to-noise ratio.

For z = sigma eps the likelihood ratio of log sigma is t(eps) = d ln f / d log sigma: eps^2 - 1 for a Gaussian and
|eps| - 1 for a Laplace. Descent on the loss alone only shrinks sigma, because noise costs loss: hence the floor and
the other two ways of setting it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from onlyforward.core.checks import check_choice, check_range
from onlyforward.core.directions import Direction, slices
from onlyforward.core.errors import UsageError
from onlyforward.core.keys import Key

MODES = ("fixed", "loss", "snr")


@dataclass(frozen=True)
class Levels:
    """One noise level per site and how it moves: state as data.

    Attributes:
        sigma: site -> level now.
        mode: "fixed"; "loss", gradient descent of log sigma on the loss; "snr", ascent on |mean delta|^2 / var delta.
        rate: learning rate of log sigma.
        floor: no level goes below it.
        ceiling: no level goes above it (an SNR of a saturated site grows without bound).
    """

    sigma: Mapping[str, float] = field(default_factory=dict)
    mode: str = "fixed"
    rate: float = 0.05
    floor: float = 0.0
    ceiling: float = 10.0

    def __post_init__(self) -> None:
        check_choice(self.mode, MODES, name="sigma mode")
        check_range(self.rate, name="the rate of log sigma", low=0.0, open_low=True)
        check_range(self.floor, name="the floor of sigma", low=0.0)
        check_range(self.ceiling, name="the ceiling of sigma", low=self.floor, open_low=True)

    def moved(self, slopes: Mapping[str, float], *, steps: int = 1) -> Levels:
        """Levels after `steps` steps: log sigma goes down its loss slope, or up its SNR slope, within the bounds.

        A step is at most one rate: slopes enter through tanh, so that one wild batch cannot throw a level away.
        """
        sign = {"fixed": 0.0, "loss": -1.0, "snr": 1.0}[self.mode]
        sigma = dict(self.sigma)
        for site, slope in slopes.items():
            raw = sigma[site] * math.exp(sign * self.rate * steps * math.tanh(slope))
            sigma[site] = min(max(raw, self.floor), self.ceiling)
        return replace(self, sigma=sigma)

    @property
    def mean(self) -> float:
        """Mean level over the sites."""
        return sum(self.sigma.values()) / max(1, len(self.sigma))


def level_slope(direction: Direction, weight: Tensor, key: Key, shape: tuple[int, ...]) -> float:
    """The likelihood-ratio estimate of d E[sum_b L] / d log sigma for one site that shares a level.

    sum_n,b weight[n, b] sum_j t(eps[n, b, j]), the noise replayed from its key; the caller's weight holds the
    baseline and the factor 1/n (and 1/b for a mean loss).

    Args:
        direction: gaussian or laplace.
        weight: [n, b].
        key: the key of the site's draws.
        shape: [b, *site].

    Raises:
        UsageError: for directions of fixed length, which say nothing about their level.
    """
    if not direction.exact:
        raise UsageError(f"{direction.name} noise cannot learn its level", "Take --noise gaussian or laplace")
    total = 0.0
    for part in slices(weight.shape[0], math.prod(shape)):
        noise = direction.draw(key, part, shape, weight)
        statistic = (noise.square() if direction.name == "gaussian" else noise.abs()) - 1
        total += float(
            torch.einsum("nb,nb->", weight[part], statistic.flatten(2).sum(2) if noise.dim() > 2 else statistic)
        )
    return total


def signal_to_noise(first: Tensor, second: Tensor) -> float:
    """|mean delta|^2 / variance of delta from two independent half-sets of copies [b, *site].

    The numerator is their inner product, unbiased for |mean|^2; the denominator half of |first - second|^2, twice the
    variance of their mean. A negative numerator counts as 0.
    """
    signal = float((first * second).sum())
    noise = float((first - second).square().sum()) / 4
    return max(signal, 0.0) / max(noise, 1e-30)


def snr_slope(measure: Callable[[float], tuple[Tensor, Tensor]], sigma: float, *, reach: float = 0.25) -> float:
    """D ln SNR / d log sigma by a central difference with common random numbers.

    Args:
        measure: sigma -> the two half-set deltas; call it with the same keys each time.
        sigma: the level now.
        reach: half-width of the difference in log sigma.
    """
    up, down = (signal_to_noise(*measure(sigma * math.exp(sign * reach))) for sign in (1, -1))
    return (math.log(up + 1e-6) - math.log(down + 1e-6)) / (2 * reach)
