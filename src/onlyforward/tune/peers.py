"""Competitors at equal queries, inside the same loop: MeZO, ES, SPSA-GC, CMA-ES, random and importance sampling.

None of them allocates: a noise shared by the batch has nothing to divide.

MeZO: arXiv 2305.17333. SPSA-GC: arXiv 2303.14773. CMA-ES for prompts: arXiv 2201.03514 (the library `cmaes`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from onlyforward.core.allocate.uniform import Uniform
from onlyforward.core.checks import check_choice, require
from onlyforward.core.keys import Key
from onlyforward.tune.loop import Allocated, Settings, Step, Tuning


def batch_losses(tuning: Tuning, candidates: Tensor, items: Tensor) -> Tensor:
    """Mean loss [m] of candidates [m, k] on the same items [b]: m b queries; broken rows are left out of the mean."""
    rows = candidates.repeat_interleave(len(items), 0)
    repeated = items.repeat(len(candidates))
    losses = tuning.problem.measure(tuning.problem.ask(rows, repeated), repeated)[0]
    return losses.reshape(len(candidates), len(items)).mean(1)


class Stateless:
    """A step whose next one depends on nothing but the loop's own state."""

    def state(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Nothing."""


@dataclass
class Shared(Stateless):
    """Noise that the whole batch shares, in mirrored pairs: MeZO with one pair, evolution strategies with more.

    Attributes:
        copies: queries per datum of a step, even.
        sigma: noise level.
        ranks: centred ranks of the losses instead of the losses.
    """

    copies: int
    sigma: float
    ranks: bool = False

    def cost(self, batch: int) -> int:
        """Pairs on every datum."""
        return batch * 2 * (self.copies // 2)

    def advance(self, tuning: Tuning, items: Tensor, key: Key) -> None:
        """One step."""
        pairs, theta = self.copies // 2, tuning.theta
        noise = torch.randn(pairs, len(theta), generator=key.generator(), dtype=torch.float64)
        both = torch.cat((theta + self.sigma * noise, theta - self.sigma * noise))
        losses = batch_losses(tuning, both, items)
        if self.ranks:
            losses = losses.argsort().argsort().double() / max(1, len(losses) - 1) - 0.5
        slope = (losses[:pairs] - losses[pairs:]) / (2 * self.sigma)
        tuning.descend(slope @ noise / pairs)


@dataclass
class SpsaGc(Stateless):
    """SPSA with gradient correction: one pair of random signs per step, at the point that the momentum looks ahead to.

    Attributes:
        sigma: half of the distance of a pair.
        lr: step size.
        momentum: weight of the past.
        velocity: [k].
    """

    sigma: float
    lr: float
    momentum: float = 0.9
    velocity: Tensor | None = None

    def cost(self, batch: int) -> int:
        """One pair on every datum."""
        return 2 * batch

    def advance(self, tuning: Tuning, items: Tensor, key: Key) -> None:
        """One step."""
        theta = tuning.theta
        velocity = torch.zeros_like(theta) if self.velocity is None else self.velocity
        ahead = theta + self.momentum * velocity
        signs = torch.randint(0, 2, theta.shape, generator=key.generator(), dtype=torch.float64) * 2 - 1
        losses = batch_losses(tuning, torch.stack((ahead + self.sigma * signs, ahead - self.sigma * signs)), items)
        slope = float(losses[0] - losses[1]) / (2 * self.sigma) * signs
        self.velocity = self.momentum * velocity - self.lr * tuning.rate() * slope
        tuning.move_to(theta + self.velocity)


@dataclass
class CmaEs(Stateless):
    """CMA-ES of the library `cmaes` on the batch's mean loss; the distribution's mean is the state.

    Attributes:
        spread: initial standard deviation.
        seed: of the library's own generator.
        inner: the library's object.
    """

    spread: float
    seed: int
    dimension: int
    inner: Any = None

    @property
    def population(self) -> int:
        """The library's default size, 4 + floor(3 ln k)."""
        return 4 + int(3 * torch.log(torch.tensor(float(self.dimension))))

    def cost(self, batch: int) -> int:
        """One generation."""
        return self.population * batch

    def advance(self, tuning: Tuning, items: Tensor, key: Key) -> None:
        """One generation."""
        if self.inner is None:
            library = require("cmaes", "peers")
            start = tuning.theta.numpy().copy()
            self.inner = library.CMA(
                mean=start, sigma=self.spread, seed=self.seed % 2**31, population_size=self.population
            )
        candidates = [self.inner.ask() for _ in range(self.population)]
        losses = batch_losses(tuning, torch.stack([torch.from_numpy(c) for c in candidates]), items)
        self.inner.tell(list(zip(candidates, losses.tolist(), strict=True)))
        tuning.move_to(torch.from_numpy(self.inner.mean.copy()))


@dataclass
class RandomSearch(Stateless):
    """Points around the best so far, eight a step, compared on the same batch with the best.

    Attributes:
        spread: standard deviation of the points.
        tries: points of a step.
    """

    spread: float
    tries: int = 8

    def cost(self, batch: int) -> int:
        """The points and the best."""
        return (self.tries + 1) * batch

    def advance(self, tuning: Tuning, items: Tensor, key: Key) -> None:
        """One step."""
        noise = torch.randn(self.tries, len(tuning.theta), generator=key.generator(), dtype=torch.float64)
        points = torch.cat((tuning.theta[None], tuning.theta + self.spread * noise))
        tuning.move_to(points[int(batch_losses(tuning, points, items).argmin())])


@dataclass
class Importance:
    """Importance sampling of SGD: data drawn in proportion to the residuals last seen, each weighted back.

    Attributes:
        inner: uniform runs of the data drawn.
        seen: item -> residual when it was last asked.
    """

    inner: Allocated
    seen: dict[int, float] = field(default_factory=dict)

    def cost(self, batch: int) -> int:
        """As many as the uniform arm."""
        return self.inner.cost(batch)

    def advance(self, tuning: Tuning, items: Tensor, key: Key) -> None:
        """Replace the batch by a weighted draw, and step."""
        train = tuning.problem.train
        mean = sum(self.seen.values()) / len(self.seen) if self.seen else 1.0
        size = torch.tensor([self.seen.get(int(i), mean) for i in train], dtype=torch.float64)
        size = size if float(size.sum()) > 0 else torch.ones_like(size)
        chance = 0.5 * size / size.sum() + 0.5 / len(train)
        picked = torch.multinomial(
            chance, len(items), replacement=True, generator=key.at(site="importance").generator()
        )
        weight = 1 / (len(train) * chance[picked])
        problem, theta = tuning.problem, tuning.theta
        drawn = train[picked]
        clean = problem.ask(theta, drawn)
        objective = problem.objective(clean, drawn)
        for i, value in zip(drawn.tolist(), objective.residual.tolist(), strict=True):
            self.seen[i] = value
        copies = self.inner.copies - 1
        place = torch.arange(len(drawn)).repeat_interleave(copies)
        noise = torch.randn(len(place), len(theta), generator=key.generator(), dtype=torch.float64)
        signal = objective.signal(problem.ask(theta + self.inner.sigma * noise, drawn[place]), place)
        signal = torch.nan_to_num(signal) / self.inner.sigma
        tuning.descend((signal * weight[place] / len(place)) @ noise)

    def state(self) -> dict[str, Any]:
        """Residuals last seen."""
        return {"seen": {str(i): value for i, value in self.seen.items()}}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue where `state()` was taken."""
        self.seen = {int(i): float(value) for i, value in state["seen"].items()}


def make_allocator(name: str, *, proxy: str = "residual", key: Key | None = None) -> Any:
    """An allocator by name."""
    from onlyforward.core.allocate import BernoulliAllocator, GaussianAllocator, Halving, Neyman

    made: Mapping[str, Callable[[], Any]] = {
        "neyman": lambda: Neyman(proxy),
        "uniform": Uniform,
        "gaussian": lambda: GaussianAllocator(proxy=proxy, key=key or Key()),
        "bernoulli": lambda: BernoulliAllocator(proxy=proxy, key=key or Key()),
        "halving": lambda: Halving(key=key or Key()),
    }
    return made[check_choice(name, made, name="allocator")]()


ALLOCATORS = ("neyman", "uniform", "gaussian", "bernoulli", "halving")
PEERS = ("mezo", "mezo-q", "spsa-gc", "cma", "es", "random", "importance")
LABELS = {
    "neyman": "per-datum noise, Neyman allocation (ours)",
    "gaussian": "per-datum noise, learned Gaussian allocator (ours)",
    "bernoulli": "per-datum noise, learned Bernoulli allocator (ours)",
    "halving": "per-datum noise, halved below the mean loss",
    "uniform": "per-datum noise, uniform counts",
    "mezo": "MeZO: shared noise, 2 queries per datum",
    "mezo-q": "MeZO: shared noise, as many queries per datum as ours",
    "spsa-gc": "SPSA with gradient correction",
    "cma": "CMA-ES",
    "es": "evolution strategies, ranks",
    "random": "random search",
    "importance": "importance sampling of the batch",
    "output": "calibration of the outputs (exact gradient)",
    "bp": "backpropagation",
}


def make_step(name: str, settings: Settings, dimension: int, key: Key, *, proxy: str = "residual") -> Step:
    """An arm by name, with the settings it shares with the others."""
    if name in ALLOCATORS:
        return Allocated(make_allocator(name, proxy=proxy, key=key), settings.copies, settings.sigma)
    made: Mapping[str, Callable[[], Step]] = {
        "mezo": lambda: Shared(2, settings.sigma),
        "mezo-q": lambda: Shared(settings.copies, settings.sigma),
        "es": lambda: Shared(settings.copies, settings.sigma, ranks=True),
        "spsa-gc": lambda: SpsaGc(settings.sigma, settings.lr),
        "cma": lambda: CmaEs(2 * settings.sigma, key.seed, dimension),
        "random": lambda: RandomSearch(2 * settings.sigma),
        "importance": lambda: Importance(Allocated(Uniform(), settings.copies, settings.sigma)),
    }
    return made[check_choice(name, made, name="arm")]()
