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
from torch import Tensor, nn

from onlyforward.core.checks import check_choice, check_range
from onlyforward.core.directions import Direction, slices
from onlyforward.core.errors import UsageError
from onlyforward.core.keys import Key

MODES = ("fixed", "loss", "snr")
SHARES = ("site", "channel")
Level = float | tuple[float, ...]
"""One level of a site, or one of each of its channels."""


@dataclass(frozen=True)
class Levels:
    """Noise levels and how they move: state as data.

    Attributes:
        sigma: name (see `level_name`) -> level now.
        mode: "fixed"; "loss", gradient descent of log sigma on the loss; "snr", ascent on |mean delta|^2 / var delta.
        rate: learning rate of log sigma.
        floor: no level goes below it.
        ceiling: no level goes above it (an SNR of a saturated site grows without bound).
        per: what shares a level: a "site", or each "channel" of one (the loss alone says how to move those).
    """

    sigma: Mapping[str, Level] = field(default_factory=dict)
    mode: str = "fixed"
    rate: float = 0.05
    floor: float = 0.0
    ceiling: float = 10.0
    per: str = "site"

    def __post_init__(self) -> None:
        check_choice(self.mode, MODES, name="sigma mode")
        check_choice(self.per, SHARES, name="sharing of sigma")
        check_range(self.rate, name="the rate of log sigma", low=0.0, open_low=True)
        check_range(self.floor, name="the floor of sigma", low=0.0)
        check_range(self.ceiling, name="the ceiling of sigma", low=self.floor, open_low=True)
        if self.per == "channel" and self.mode == "snr":
            raise UsageError("A signal-to-noise ratio is measured per site", 'Take sigma_mode="loss" for channels')

    def started(self, name: str, sigma: float, channels: int) -> Levels:
        """With a level for `name`, where it has none yet: the same for every channel."""
        if name in self.sigma:
            return self
        return replace(self, sigma={**self.sigma, name: (sigma,) * channels if self.per == "channel" else sigma})

    def restored(self, kept: Mapping[str, float | list[float]]) -> Levels:
        """With levels as a checkpoint holds them."""
        return replace(self, sigma={name: tuple(v) if isinstance(v, list) else v for name, v in kept.items()})

    def at(self, name: str, axis: int, like: Tensor) -> float | Tensor:
        """The level of a name as a number, or as a tensor that multiplies a site: 1 but along `axis`."""
        level = self.sigma[name]
        if not isinstance(level, tuple):
            return level
        return torch.tensor(level, dtype=like.dtype, device=like.device).reshape(-1, *[1] * max(0, -1 - axis))

    def moved(self, slopes: Mapping[str, Level], *, steps: int = 1) -> Levels:
        """Levels after `steps` steps: log sigma goes down its loss slope, or up its SNR slope, within the bounds.

        A step is at most one rate: slopes enter through tanh, so that one wild batch cannot throw a level away.
        """
        sign = {"fixed": 0.0, "loss": -1.0, "snr": 1.0}[self.mode]

        def stepped(level: float, slope: float) -> float:
            return min(max(level * math.exp(sign * self.rate * steps * math.tanh(slope)), self.floor), self.ceiling)

        sigma = dict(self.sigma)
        for name, slope in slopes.items():
            level = sigma[name]
            if isinstance(level, tuple):
                each = slope if isinstance(slope, tuple) else (slope,) * len(level)
                sigma[name] = tuple(stepped(*pair) for pair in zip(level, each))
            else:
                assert not isinstance(slope, tuple)
                sigma[name] = stepped(level, slope)
        return replace(self, sigma=sigma)

    @property
    def mean(self) -> float:
        """Mean level over the sites, each the mean of its channels."""
        return sum(mean_level(level) for level in self.sigma.values()) / max(1, len(self.sigma))


def mean_level(level: Level | Tensor) -> float:
    """One number for a level."""
    if isinstance(level, Tensor):
        return float(level.mean())
    return sum(level) / len(level) if isinstance(level, tuple) else level


def level_name(path: str) -> str:
    """The name under which a site's level is kept: all calls and time steps of a module share one."""
    return path.partition("#")[0].partition("@")[0]


def channel_axis(module: nn.Module, dims: int) -> int:
    """The axis (< 0) of the channels in a site of a module whose tensor is [b, *site] with `dims` dimensions."""
    first = isinstance(module, nn.modules.conv._ConvNd | nn.modules.batchnorm._BatchNorm | nn.GroupNorm)
    return 1 - dims if first else -1


def level_slope(direction: Direction, weight: Tensor, key: Key, shape: tuple[int, ...], *, axis: int = 0) -> Level:
    """The likelihood-ratio estimate of d E[sum_b L] / d log sigma for one site.

    sum_n,b weight[n, b] sum_j t(eps[n, b, j]), the noise replayed from its key; the caller's weight holds the
    baseline and the factor 1/n (and 1/b for a mean loss).

    Args:
        direction: gaussian or laplace.
        weight: [n, b].
        key: the key of the site's draws.
        shape: [b, *site].
        axis: 0 for one level; else the axis (< 0) whose entries have levels of their own, one slope each.

    Raises:
        UsageError: for directions of fixed length, which say nothing about their level.
    """
    if not direction.exact:
        raise UsageError(f"{direction.name} noise cannot learn its level", "Take --noise gaussian or laplace")
    total = weight.new_zeros(shape[axis] if axis else 1)
    for part in slices(weight.shape[0], math.prod(shape)):
        noise = direction.draw(key, part, shape, weight)
        statistic = (noise.square() if direction.name == "gaussian" else noise.abs()) - 1
        if axis:
            statistic = statistic.movedim(axis, -1).flatten(2, -2) if statistic.dim() > 3 else statistic.unsqueeze(2)
            total += torch.einsum("nb,nbpc->c", weight[part], statistic)
        else:
            total += torch.einsum("nb,nb->", weight[part], statistic.flatten(2).sum(2))
    return tuple(total.tolist()) if axis else float(total)


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
