"""Members that are wrong on purpose, each in one way that has been a real bug somewhere; every one must be caught.

A law that catches none of these is not sharp enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from onlyforward.core.allocate.halving import Reweighted
from onlyforward.core.allocate.neyman import Neyman
from onlyforward.core.allocate.plan import Features, Plan
from onlyforward.core.allocate.uniform import Uniform
from onlyforward.core.keys import Key
from onlyforward.core.params import Params
from onlyforward.core.perturb.choices import Choices
from onlyforward.core.perturb.parameters import LinearProbe, Parameters
from onlyforward.core.weigh.antithetic import Antithetic
from onlyforward.core.weigh.baselines import LeaveOneOut
from onlyforward.core.weigh.quantile import Quantile, Tracked, Tracker
from onlyforward.core.weigh.ranks import Ranks
from onlyforward.testing import problems
from onlyforward.testing.allocations import check_allocation
from onlyforward.testing.perturbations import check_perturbation
from onlyforward.testing.weightings import check_mask, check_weighting

Pull = Callable[[Tensor], Params]


@dataclass(frozen=True)
class Broken:
    """A perturbation whose probes are damaged by `damage(probe, key)`."""

    inner: Any
    damage: Callable[[LinearProbe, Key], LinearProbe]
    rekey: Callable[[Key], Key] = lambda key: key
    antithetic: bool = False

    def probes(self, run: Any, params: Params, *, key: Key, copies: int) -> Iterator[LinearProbe]:
        """The inner probes, damaged."""
        for probe in self.inner.probes(run, params, key=self.rekey(key), copies=copies):
            yield self.damage(probe, key)


def weights(change: Callable[[Tensor], Tensor]) -> Callable[[LinearProbe, Key], LinearProbe]:
    """Damage the weights before the pull."""

    def damage(probe: LinearProbe, key: Key) -> LinearProbe:
        inner = probe.puller
        return replace(probe, puller=lambda weight: inner(change(weight)))

    return damage


def fresh_noise(probe: LinearProbe, key: Key) -> LinearProbe:
    """Directions that are drawn anew at each pull."""
    calls = iter(range(1_000_000))
    inner = probe.puller
    return replace(probe, puller=lambda weight: inner(weight.roll(next(calls), 0)))


def clipped(probe: LinearProbe, key: Key) -> LinearProbe:
    """A pull that clips: no longer linear."""
    inner = probe.puller
    return replace(probe, puller=lambda weight: {name: t.clamp(-0.1, 0.1) for name, t in inner(weight).items()})


def uncentred(probe: LinearProbe, key: Key) -> LinearProbe:
    """A choice's score without its expectation: one-hot instead of one-hot minus softmax."""
    inner = probe.puller
    return replace(probe, puller=lambda weight: {n: t + weight.sum(0)[:, None] for n, t in inner(weight).items()})


def drifting(probe: LinearProbe, key: Key) -> LinearProbe:
    """Bits that depend on how the copies were split: each pull adds its own rounding of the number of rows it got."""
    inner = probe.puller
    return replace(
        probe, puller=lambda w: {n: t + 1e-6 * float((w != 0).any(1).sum()) ** 2 for n, t in inner(w).items()}
    )


class OffByOne(LeaveOneOut):
    """n in place of n - 1."""

    def __call__(self, signal: Tensor, state: Any = None) -> tuple[Tensor, None]:
        """The right weights times (n - 1) / n."""
        weight, _ = super().__call__(signal)
        return weight * (signal.shape[0] - 1) / signal.shape[0], None


class OwnBaseline(LeaveOneOut):
    """The plain mean as baseline with the factor 1/n: a copy's own signal is in its baseline."""

    def __call__(self, signal: Tensor, state: Any = None) -> tuple[Tensor, None]:
        """(R_i - mean R) / n."""
        return (signal - signal.mean(0)) / signal.shape[0], None


class HalfPairs(Antithetic):
    """1/(2m) in place of 1/(4m)."""

    def __call__(self, signal: Tensor, state: Any = None) -> tuple[Tensor, None]:
        """Twice the right weights."""
        return super().__call__(signal)[0] * 2, None


class UntiedRanks(Ranks):
    """Ties broken by index instead of sharing their rank."""

    def __call__(self, signal: Tensor, state: Any = None) -> tuple[Tensor, None]:
        """Ranks by a plain double argsort."""
        n = signal.shape[0]
        return (signal.argsort(dim=0, stable=True).argsort(dim=0).to(signal.dtype) / (n - 1) - 0.5) / n, None


class Unmasked(LeaveOneOut):
    """Rows that did not run count as zeros."""

    def __call__(self, signal: Tensor, state: Any = None) -> tuple[Tensor, None]:
        """Leave-one-out of the signal with zeros for NaN."""
        return super().__call__(signal.nan_to_num(0.0))


class WrongSide(Quantile):
    """`<` for `>`."""

    def __call__(self, signal: Tensor, state: Tracked | None = None) -> tuple[Tensor, Tracked]:
        """Alpha - 1{R > q}."""
        weight, after = super().__call__(signal, state)
        return (2 * self.alpha - 1) / signal.shape[0] - weight, after


class WrongStep(Quantile):
    """The quantile moves the wrong way."""

    def __call__(self, signal: Tensor, state: Tracked | None = None) -> tuple[Tensor, Tracked]:
        """The right weights, q mirrored."""
        weight, after = super().__call__(signal, state)
        return weight, after if state is None else replace(after, q=2 * state.q - after.q)


class MovedFirst(Quantile):
    """q moves before the weights are made."""

    def __call__(self, signal: Tensor, state: Tracked | None = None) -> tuple[Tensor, Tracked]:
        """Weights from the updated q."""
        moved = None if state is None else Tracker(self.alpha, self.tracker).update(signal, state)
        weight, _ = super().__call__(signal, moved)
        return weight, super().__call__(signal, None)[1] if moved is None else moved


class SquaredNeyman(Neyman):
    """Counts proportional to the variance instead of the standard deviation."""

    def plan(self, budget: int, features: Features) -> Plan:
        """Neyman on S^2."""
        squared = None if features.residual is None else features.residual**2
        return super().plan(budget, replace(features, residual=squared))


class FloorUniform(Uniform):
    """Rounds down: the budget is not spent."""

    def plan(self, budget: int, features: Features) -> Plan:
        """Items times floor(budget / items)."""
        return super().plan(max(features.items * (budget // features.items), features.items), features)


def perturbation(damage: Callable[[LinearProbe, Key], LinearProbe], inner: Any = None) -> Callable[[], Any]:
    """Hold the laws of a perturbation against a damaged one."""
    whole = Parameters(sigma=0.5) if inner is None else inner
    return lambda: check_perturbation(Broken(whole, damage), problems.quadratic(), copies=8)


def pairs_shifted(probe: LinearProbe, key: Key) -> LinearProbe:
    """The second half of the pairs belongs to its neighbours."""
    inner = probe.puller

    def pull(weight: Tensor) -> Params:
        half = len(weight) // 2
        return inner(torch.cat((weight[:half], weight[half:].roll(1, 0))))

    return replace(probe, puller=pull)


SABOTAGES: dict[str, Callable[[], Any]] = {
    "sign": perturbation(weights(lambda w: -w)),
    "missing 1/sigma": perturbation(weights(lambda w: w * 0.5)),
    "1/sigma squared": perturbation(weights(lambda w: w / 0.5)),
    "score of the wrong copy": perturbation(weights(lambda w: w.roll(1, 0))),
    "pairs shifted by one": perturbation(pairs_shifted, Parameters(sigma=0.5, antithetic=True)),
    "uncounted run": perturbation(lambda probe, key: replace(probe, runs=probe.runs - 1)),
    "fresh noise on replay": perturbation(fresh_noise),
    "clipped pull": perturbation(clipped),
    "float order dependence": perturbation(drifting),
    "seed without the site": lambda: check_perturbation(
        Broken(Parameters(sigma=0.5), lambda probe, key: probe, rekey=lambda key: key.at(site="")),
        problems.quadratic(),
        copies=8,
    ),
    "seed without the step": lambda: check_perturbation(
        Broken(Parameters(sigma=0.5), lambda probe, key: probe, rekey=lambda key: key.at(step=0)),
        problems.quadratic(),
        copies=8,
    ),
    "score not centred": lambda: check_perturbation(
        Broken(Choices("categorical"), uncentred), problems.categorical(), copies=8
    ),
    "n for n - 1": lambda: check_weighting(OffByOne(), slope=1.0),
    "own baseline included": lambda: check_weighting(OwnBaseline(), slope=1.0),
    "pairs counted twice": lambda: check_weighting(HalfPairs(), slope=1.0),
    "ties by index": lambda: check_weighting(UntiedRanks(), slope=0.2821, bias=0.02),
    "pull that forgets the mask": lambda: check_mask(Unmasked()),
    "< with >": lambda: check_weighting(WrongSide(0.25, tracker="batch"), slope=0.3178, bias=0.02),
    "quantile step of wrong sign": lambda: check_weighting(WrongStep(0.25, tracker="sa"), slope=0.3178, bias=0.02),
    "q moved before weighting": lambda: check_weighting(MovedFirst(0.25, tracker="batch"), slope=0.3178, bias=0.02),
    "Neyman by variance": lambda: check_allocation(SquaredNeyman(), proportional=True),
    "budget rounded down": lambda: check_allocation(FloorUniform()),
    "rows weighted 1/N": lambda: check_allocation(Reweighted(Neyman())),
}


def caught(name: str) -> str:
    """The message of the law that catches a sabotage, or "" if none does."""
    try:
        SABOTAGES[name]()
    except AssertionError as error:
        return str(error)
    return ""
