"""Soft prompts: t vectors that stand before a text, moved by queries to a model that takes vectors and words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from onlyforward.core.checks import check_range
from onlyforward.core.errors import UsageError
from onlyforward.core.keys import Key
from onlyforward.tune.loop import Tuning
from onlyforward.tune.problem import Classifier


@dataclass(frozen=True)
class SoftPrompt:
    """t x e coordinates, or K of them through a fixed random projection R [t e, K] with unit columns.

    Attributes:
        tokens: t.
        width: e.
        projection: R, or None for all coordinates.
        scale: length that a coordinate of 1 gives to a vector's entry.
        places: vectors that the model reads; those behind the prompt are zeros.
    """

    tokens: int
    width: int
    projection: Tensor | None = None
    scale: float = 4.0
    places: int = 0

    @property
    def start(self) -> Tensor:
        """Zeros [k]: the zero prefix."""
        count = self.tokens * self.width if self.projection is None else self.projection.shape[1]
        return torch.zeros(count, dtype=torch.float64)

    def __call__(self, theta: Tensor) -> Tensor:
        """Coordinates [n, k] -> vectors [n, max(t, places), e]."""
        flat = theta if self.projection is None else theta @ self.projection.T.to(theta)
        made = (flat * self.scale).reshape(len(theta), self.tokens, self.width).float()
        return F.pad(made, (0, 0, 0, max(0, self.places - self.tokens)))


def make_prompt(tokens: int, width: int, dimension: str, *, places: int = 0) -> SoftPrompt:
    """A prompt by `--tokens` and `--dimension`.

    Raises:
        UsageError: a dimension that is neither "full" nor a whole number that fits.
    """
    check_range(tokens, name="--tokens", low=1)
    if dimension == "full":
        return SoftPrompt(tokens, width, places=places)
    if not (dimension.isdigit() and 1 <= int(dimension) <= tokens * width):
        raise UsageError(f"--dimension is {dimension!r}", f"Give full, or a number from 1 to {tokens * width}")
    generator = Key(site="tune/projection").generator()
    r = torch.randn(tokens * width, int(dimension), generator=generator, dtype=torch.float64)
    return SoftPrompt(tokens, width, r / r.norm(dim=0), places=places)


def pack(prefix: Tensor, ids: Tensor) -> Tensor:
    """One row a query for the oracle: vectors [n, t, e] and word numbers [n, L] -> [n, t e + L]."""
    return torch.cat((prefix.flatten(1), ids.to(prefix.dtype)), 1)


def unpack(rows: Tensor, tokens: int, width: int) -> tuple[Tensor, Tensor]:
    """The inverse of `pack`."""
    cut = tokens * width
    return rows[:, :cut].reshape(len(rows), tokens, width), rows[:, cut:].long()


@dataclass
class Backprop:
    """The white-box competitor: exact gradients of the same capped loss; a step costs three queries per datum.

    Attributes:
        scores: (coordinates [k], items [b]) -> scores [b, c] with a graph.
    """

    scores: Callable[[Tensor, Tensor], Tensor]

    def cost(self, batch: int) -> int:
        """A forward pass, and a backward pass that counts as two."""
        return 3 * batch

    def advance(self, tuning: Tuning, items: Tensor, key: Key) -> None:
        """One step."""
        problem = tuning.problem
        assert isinstance(problem, Classifier)
        with torch.enable_grad():
            theta = tuning.theta.clone().requires_grad_(True)
            loss = problem.loss.losses(self.scores(theta, items), problem.labels[items]).mean()
            torch.autograd.backward(loss)
        assert theta.grad is not None
        problem.count.asked += self.cost(len(items))
        tuning.descend(theta.grad)

    def state(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Nothing."""
