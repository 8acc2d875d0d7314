"""Noise in one block of coordinates at a time, the others clean; shares uniform or by Neyman from two pilot rounds.

At equal questions on a linear f the summed variance is (d + K)|g|^2 / N against (d + 1)|g|^2 / N for noise everywhere:
no gain by itself. It gains where only some blocks are wanted, or with Neyman shares where blocks differ (2403.15603).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from onlyforward.core.allocate.neyman import Neyman
from onlyforward.core.allocate.plan import Features
from onlyforward.core.checks import check_choice
from onlyforward.core.errors import UsageError
from onlyforward.core.keys import Key
from onlyforward.explain.bases import Basis, part_of
from onlyforward.explain.estimator import Estimate
from onlyforward.explain.gaussian import Gradient, dealt_rows, hand_out

ROUNDS = 2
"""Pilot rounds: they size the shares and never enter the average."""


class Blockwise:
    """One `Gradient` per block, its questions dealt out in turn.

    Args:
        x: [*shape].
        basis: whose coordinates are cut into blocks.
        blocks: coordinates of each wanted block; the others stay clean and have no map.
        sigma: standard deviation of the noise per number of x.
        key: coordinates of the noise.
        shares: uniform or neyman.
        directions: see `Gradient`.
        difference: plain, mean or antithetic.
    """

    needs_clean = False
    clean = float("nan")

    def __init__(
        self,
        x: Tensor,
        basis: Basis,
        blocks: Sequence[Tensor],
        *,
        sigma: float,
        key: Key,
        shares: str = "uniform",
        directions: str = "gaussian",
        difference: str = "mean",
    ) -> None:
        check_choice(shares, ("uniform", "neyman"), name="shares")
        if difference == "forward":
            raise UsageError("Blocks share no clean score", "Take difference mean or antithetic")
        self.shares, self.step = shares, 2 if difference == "antithetic" else 1
        self.parts = []
        self.pilots = []
        for number, index in enumerate(blocks):
            inside = part_of(basis, index)
            # The block's noise keeps the standard deviation per number of x that noise everywhere would have.
            own = sigma * (len(index) / basis.k) ** 0.5
            settings = {"directions": directions, "difference": difference}
            part, pilot = (
                Gradient(x, inside, own, key.at(site=f"{key.site}{kind}{number}"), **settings)  # type: ignore[arg-type]
                for kind in ("block", "pilot")
            )
            self.parts.append(part)
            self.pilots.append(pilot)
        self.order: list[tuple[Gradient, int]] = []
        self.given = torch.zeros(len(self.parts), dtype=torch.float64)
        self.wanted = torch.full((len(self.parts),), 1 / len(self.parts), dtype=torch.float64)
        self.waiting = 2 * ROUNDS * len(self.parts) * self.step if shares == "neyman" else 0

    def rows(self, first: int, count: int) -> Tensor:
        """Questions first..first+count-1; the shares are decided when the pilots' scores are in."""
        while len(self.order) < first + count:
            self.deal()
        return dealt_rows(self.order[first : first + count])

    def deal(self) -> None:
        """Name the next question, or pair of questions: pilots round by round, then whoever is furthest behind."""
        if len(self.order) < self.waiting:
            turn = len(self.order) // self.step
            part, index = self.pilots[turn % len(self.pilots)], turn // len(self.pilots)
        else:
            behind = int(torch.argmax(self.wanted * (self.given.sum() + 1) - self.given))
            part, index = self.parts[behind], int(self.given[behind])
            self.given[behind] += 1
        self.order += [(part, index * self.step + side) for side in range(self.step)]

    def observe(self, first: int, scores: Tensor) -> None:
        """Scores of the next questions, handed to their blocks."""
        hand_out(self.order[first : first + len(scores)], scores)
        if self.waiting and first < self.waiting <= first + len(scores):
            self.size()

    def size(self) -> None:
        """Shares from the pilots: S_b = root of coordinates times the signal's variance."""
        spreads = []
        for part in self.pilots:
            signal = part.signal(None)
            signal = signal[signal.isfinite()]
            level = signal.square().mean() if self.step == 2 else signal.var()
            spreads.append(float((level * part.basis.k).sqrt()))
        plan = Neyman("residual", min_gain=1.0).plan(1 << 16, Features(residual=torch.tensor(spreads)))
        self.wanted = plan.counts.double() / plan.counts.sum()

    def estimate(self, half: int | None = None) -> Estimate:
        """The blocks' maps side by side; a block that was never asked is 0."""
        found = [part.estimate(half) for part in self.parts if part.asked >= 2 * self.step]
        if not found:
            zero = torch.zeros(self.parts[0].x.shape, dtype=torch.float64)
            return Estimate(zero, zero, zero.flatten())
        error = sum((one.error.square() for one in found), torch.zeros(())).sqrt()
        coefficients = torch.cat([one.coefficients for one in found])
        return Estimate(sum((one.map for one in found), torch.zeros(())), error, coefficients)


def cut(words: str, k: int) -> tuple[list[Tensor], str]:
    """The blocks of k coordinates that are wanted, and their shares.

    Args:
        words: blockwise:K, blockwise:K/neyman, or blockwise:K/0,3 for some of the K blocks alone.
        k: number of coordinates.

    Raises:
        UsageError: anything else.
    """
    word, _, rest = words.partition(":")
    count, _, more = rest.partition("/")
    if word == "blockwise" and count.isdigit() and 1 <= int(count) <= k:
        every = even_blocks(k, int(count))
        if more in ("", "uniform", "neyman"):
            return every, more or "uniform"
        numbers = more.split(",")
        if all(number.isdigit() and int(number) < len(every) for number in numbers):
            return [every[int(number)] for number in numbers], "uniform"
    raise UsageError(f"Unknown blocks {words!r}", "Take blockwise:8, blockwise:8/neyman or blockwise:8/0,3")


def even_blocks(k: int, count: int) -> list[Tensor]:
    """`count` blocks of neighbouring coordinates."""
    return list(torch.arange(k).tensor_split(count))
