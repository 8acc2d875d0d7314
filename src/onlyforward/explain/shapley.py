"""Players that are there or not: Shapley and Banzhaf values of blocks, superpixels, words or columns.

Shapley by sizes: phi_j = [f(all) - f(none)]/K + (K-1)/K E[f(S) (1{j in S}/(s/K) - 1{j not in S}/(1 - s/K))] with the
size s uniform on 1..K-1 and S uniform of that size (derived: marginal contributions of all sizes, summed by parts).
Ridge: Shapley's own weighted least squares with phi summing to f(all) - f(none) (KernelSHAP, arXiv 1705.07874), sizes
enumerated from both ends while whole sizes are affordable, the rest sampled in pairs without repetition.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from onlyforward.core.checks import check_choice, check_range
from onlyforward.core.keys import Key
from onlyforward.explain.estimator import Estimate

SOLVERS = ("mean", "ridge")
VALUES = ("shapley", "banzhaf")


@dataclass
class Players:
    """Effects of K players from coalitions.

    Attributes:
        k: number of players.
        compose: coalitions z [n, K] of 0 and 1 -> questions [n, *shape].
        show: effects [K] -> a map.
        key: coordinates of the coalitions.
        budget: questions that will be asked; the ridge solver enumerates as many whole sizes as it holds.
        value: shapley or banzhaf (each player there with probability 1/2).
        solver: mean or ridge.
    """

    k: int
    compose: Callable[[Tensor], Tensor]
    show: Callable[[Tensor], Tensor]
    key: Key
    budget: int
    value: str = "shapley"
    solver: str = "mean"
    needs_clean: bool = False
    clean: float = float("nan")
    scores: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_choice(self.value, VALUES, name="value")
        check_choice(self.solver, SOLVERS, name="solver")
        check_range(self.k, name="players", low=2)
        self.enumerated: list[Tensor] = []
        self.sampled_mass = 1.0
        self.pairs: list[Tensor] = []
        self.met: set[bytes] = set()
        if self.value == "shapley" and self.solver == "ridge":
            self.enumerate()
        self.stream = self.key.at(site=f"{self.key.site}coalitions").generator()

    # Questions: all, none, then pairs of complements ------------------------------------------------------------------

    def rows(self, first: int, count: int) -> Tensor:
        """Questions first..first+count-1; 0 is everybody, 1 nobody."""
        return self.compose(self.coalitions(first, count))

    def coalitions(self, first: int, count: int) -> Tensor:
        """Z [count, K]."""
        found = []
        for index in range(first, first + count):
            if index < 2:
                found.append(torch.full((self.k,), 1.0 - index))
                continue
            pair, side = divmod(index - 2, 2)
            own = self.coalition(pair)
            found.append(1 - own if side else own)
        return torch.stack(found)

    def coalition(self, pair: int) -> Tensor:
        """One coalition of a pair [K]; they are drawn in order, so that none repeats where that is avoided."""
        while len(self.pairs) <= pair:
            self.pairs.append(self.next())
        return self.pairs[pair]

    def next(self) -> Tensor:
        """The next one: enumerated, then drawn."""
        if len(self.pairs) < len(self.enumerated):
            return self.enumerated[len(self.pairs)]
        if self.value == "banzhaf":
            return torch.empty(self.k).bernoulli_(0.5, generator=self.stream)
        for _ in range(64):
            weight = torch.ones(self.k - 1) if self.solver == "mean" or not self.sampled_mass else self.remaining
            size = 1 + int(torch.multinomial(weight.double(), 1, generator=self.stream))
            chosen = torch.zeros(self.k)
            chosen[torch.randperm(self.k, generator=self.stream)[:size]] = 1.0
            name = bytes(chosen.to(torch.uint8).tolist())
            other = bytes((1 - chosen).to(torch.uint8).tolist())
            if self.solver == "mean" or not {name, other} & self.met:
                self.met |= {name, other}
                break
        return chosen

    def enumerate(self) -> None:
        """Whole sizes s and K - s from the ends, as long as the budget holds them."""
        self.remaining = torch.tensor([1 / (s * (self.k - s)) for s in range(1, self.k)], dtype=torch.float64)
        self.remaining /= self.remaining.sum()
        left = (self.budget - 2) // 2
        for size in range(1, self.k // 2 + 1):
            alone = 2 * size == self.k
            pairs = math.comb(self.k, size) // (2 if alone else 1)
            if pairs > left:
                break
            chosen = itertools.combinations(range(self.k), size)
            for members in itertools.islice(chosen, pairs):
                z = torch.zeros(self.k)
                z[list(members)] = 1.0
                self.enumerated.append(z)
            left -= pairs
            self.remaining[size - 1] = self.remaining[self.k - size - 1] = 0.0
        self.sampled_mass = float(self.remaining.sum()) if bool(self.remaining.any()) else 0.0

    # Scores ----------------------------------------------------------------------------------------------------------

    def observe(self, first: int, scores: Tensor) -> None:
        """Scores of the next questions."""
        self.scores.append(scores.double())

    def estimate(self, half: int | None = None) -> Estimate:
        """Effects of the players; see `Estimator`. The residual is |sum phi - (f(all) - f(none))|, not hidden."""
        scores = torch.cat(self.scores)
        total = float(scores[0] - scores[1])
        pairs = scores[2 : 2 + (len(scores) - 2) // 2 * 2].reshape(-1, 2)
        kept = pairs.isfinite().all(1)
        if half is not None:
            kept &= torch.arange(len(pairs)) % 2 == half
        where = kept.nonzero().flatten()
        z = torch.stack([self.coalition(int(i)) for i in where]).double() if len(where) else torch.zeros(0, self.k)
        if self.value == "shapley" and self.solver == "ridge":
            effect, error = self.least_squares(z, pairs[where], total, where)
        else:
            effect, error = self.averages(z, (pairs[where, 0] - pairs[where, 1]) / 2, total)
        return Estimate(self.show(effect), self.show(error), effect, abs(float(effect.sum()) - total))

    def averages(self, z: Tensor, difference: Tensor, total: float) -> tuple[Tensor, Tensor]:
        """Means of the weighted half differences of the pairs, and their standard errors: [K] each."""
        if self.value == "banzhaf":
            terms = difference[:, None] * (4 * z - 2)
            constant = 0.0
        else:
            share = z.sum(1, keepdim=True) / self.k
            terms = difference[:, None] * (z / share - (1 - z) / (1 - share)) * (self.k - 1) / self.k
            constant = total / self.k
        n = max(2, len(terms))
        return constant + terms.sum(0) / n, terms.std(0) / n**0.5 if len(terms) > 1 else terms.new_zeros(self.k)

    def least_squares(self, z: Tensor, pairs: Tensor, total: float, where: Tensor) -> tuple[Tensor, Tensor]:
        """Shapley's weighted regression through both ends: [K] each."""
        base = float(torch.cat(self.scores)[1])
        size = z.sum(1)
        whole = where < len(self.enumerated)
        # A pair stands for the kernel's mass of its two sizes; drawn pairs share what the enumerated sizes leave.
        kernel = torch.tensor([1 / (s * (self.k - s)) for s in range(1, self.k)], dtype=torch.float64)
        kernel /= kernel.sum()
        comb = torch.tensor([float(math.comb(self.k, s)) for s in range(1, self.k)], dtype=torch.float64)
        at = size.long() - 1
        weight = 2 * kernel[at] / comb[at]
        drawn = max(1, int((~whole).sum()))
        weight = torch.where(whole, weight, torch.full_like(weight, self.sampled_mass / drawn))
        rows = torch.cat((z, 1 - z))
        values = torch.cat((pairs[:, 0], pairs[:, 1])) - base
        weights = torch.cat((weight, weight)) / 2
        # phi_K = total - the others: K - 1 unknowns, and the sum holds exactly.
        reduced = rows[:, :-1] - rows[:, -1:]
        target = values - rows[:, -1] * total
        gram = (reduced * weights[:, None]).T @ reduced
        ridge = 1e-10 * float(gram.diagonal().mean().clamp(min=1e-300))
        inverse = torch.linalg.inv(gram + ridge * torch.eye(self.k - 1, dtype=torch.float64))
        found = inverse @ (reduced * weights[:, None]).T @ target
        effect = torch.cat((found, (total - found.sum())[None]))
        # Enumerated sizes are exact; only what was drawn is uncertain.
        left = (target - reduced @ found) * weights * torch.cat((~whole, ~whole))
        meat = (reduced * left.square()[:, None]).T @ reduced
        freedom = max(1, 2 * int((~whole).sum()) - self.k + 1)
        covariance = inverse @ meat @ inverse * (2 * drawn / freedom)
        error = torch.cat((covariance.diagonal(), covariance.sum()[None])).clamp(min=0).sqrt()
        return effect, error
