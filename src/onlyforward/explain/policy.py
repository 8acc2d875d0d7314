"""What `auto` chooses, and what the theory promises for it before a question is paid.

Images wider than 64 pixels: presence on a soft 7 x 7 grid, blur removal, ridge. Otherwise the gradient: low frequencies
while there are fewer questions than half the numbers, ridge up to as many, orthogonal directions beyond.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onlyforward.core.checks import check_range
from onlyforward.core.errors import UsageError

if TYPE_CHECKING:
    from onlyforward.explain.bases import Pair

WIDE = 64
"""Images wider than this are explained by presence."""
WIDE_CELLS, CELLS = 7, 8
"""Cells per side of the soft masks: of wide images, and of others, at most half of the pixels."""
LEAST = 8
"""Fewest questions with which a map means anything."""


@dataclass(frozen=True)
class Choice:
    """One full setting of an estimator.

    Attributes:
        kind: gradient, presence, shapley or banzhaf.
        basis: of the noise, or the players: see `bases.make_basis`.
        directions: see `gaussian.DIRECTIONS`.
        difference: plain, mean, forward or antithetic.
        solver: mean or ridge.
        sigma: of the noise, in units of x.
        blocks: "" or as in `blockwise.cut`.
        cells: side of the soft masks' grid.
        look: presence's prior follows what the picture shows.
    """

    kind: str
    basis: str | Pair
    directions: str
    difference: str
    solver: str
    sigma: float
    blocks: str = ""
    cells: int = CELLS
    look: bool = False

    def __str__(self) -> str:
        """One line."""
        if self.kind == "presence":
            return f"presence, soft {self.cells} x {self.cells} masks, {self.solver}"
        if self.kind in ("shapley", "banzhaf"):
            return f"{self.kind} values of {self.basis}, {self.solver}"
        basis = self.basis if isinstance(self.basis, str) else "a basis of one's own"
        words = f"gradient in {basis}, {self.directions} directions, {self.difference} differences, {self.solver}"
        return f"{words}, sigma {self.sigma:g}" + (f", {self.blocks}" if self.blocks else "")


@dataclass(frozen=True)
class Wish:
    """What the user fixed; "auto" and None are free.

    Attributes:
        kind: auto, gradient, presence, shapley or banzhaf.
        basis: auto, or as in `bases`.
        directions: auto, or as in `gaussian`.
        difference: auto, or as in `gaussian`.
        solver: auto, mean or ridge.
        sigma: noise in units of x.
        map: of the gradient: gradient, smoothgrad, gradient*input, vargrad, integrated-gradients, expected-gradients.
        blocks: "" or as in `blockwise.cut`.
    """

    kind: str = "auto"
    basis: str | Pair = "auto"
    directions: str = "auto"
    difference: str = "auto"
    solver: str = "auto"
    sigma: float | None = None
    map: str = "auto"
    blocks: str = ""


GRADIENTS = ("gradient", "gradient*input", "smoothgrad", "vargrad", "integrated-gradients", "expected-gradients")


def choose(wish: Wish, shape: tuple[int, ...], budget: int, spread: float) -> Choice:
    """A full setting.

    Args:
        wish: what is fixed.
        shape: of x.
        budget: questions.
        spread: standard deviation of the numbers of x, the unit of the default noise.

    Raises:
        UsageError: a budget below 8, or wishes that exclude each other.
    """
    check_range(budget, name="budget", low=LEAST, why="fewer questions show nothing")
    kind = wish.kind
    if kind == "auto":
        wide = len(shape) == 3 and max(shape[1:]) > WIDE
        kind = wish.map if wish.map in ("shapley", "banzhaf", "presence") else "gradient"
        if wish.map == "auto" and wide and wish.basis == "auto" and not wish.blocks:
            kind = "presence"
    if kind == "presence":
        sides = shape[1:] if len(shape) == 3 else (2 * CELLS,)
        wide = max(sides) > WIDE
        cells = WIDE_CELLS if wide else min(CELLS, *(max(2, side // 2) for side in sides))
        return Choice("presence", "soft", "", "", free(wish.solver, "ridge"), 0.0, cells=cells, look=not wide)
    if kind in ("shapley", "banzhaf"):
        basis = wish.basis
        if basis == "auto":
            basis = f"grid:{math.ceil(max(shape[1:]) / 7)}" if len(shape) == 3 else "pixel"
        return Choice(kind, basis, "", "", free(wish.solver, "ridge" if kind == "shapley" else "mean"), 0.0)
    if wish.map in ("presence", "shapley", "banzhaf"):
        raise UsageError(f"The map {wish.map} is no gradient", "Take kind auto")
    return gradient_choice(wish, shape, budget, spread)


def gradient_choice(wish: Wish, shape: tuple[int, ...], budget: int, spread: float) -> Choice:
    """The gradient's setting: what the questions can resolve decides the basis."""
    d = math.prod(shape)
    smoothed = wish.map in ("smoothgrad", "vargrad", "expected-gradients")
    path = wish.map in ("integrated-gradients", "expected-gradients", "vargrad")  # no single clean score
    basis, difference, solver = wish.basis, wish.difference, wish.solver
    directions = free(wish.directions, "orthogonal")
    if basis == "auto":
        basis, solver = "pixel", free(solver, "mean")
        if len(shape) == 3 and budget <= d // 2:
            per = 2 if path or smoothed or difference == "antithetic" else 1
            side = max(2, math.isqrt((budget - 1) // per))
            basis = f"dct:{min(side, *shape[1:])}"
        elif budget <= d and wish.solver == "auto" and not path and not wish.blocks:
            solver = "ridge"
    if difference == "auto":
        enough = basis == "pixel" and budget < 2 * d
        difference = "mean" if wish.blocks else "antithetic" if path or (smoothed and not enough) else "forward"
    sigma = wish.sigma if wish.sigma is not None else (0.5 if smoothed else 0.05) * (spread or 1.0)
    if wish.blocks:
        solver = "mean"
    return Choice("gradient", basis, directions, difference, free(solver, "mean"), sigma, wish.blocks)


def free(value: str, default: str) -> str:
    """A wish, or what stands for auto."""
    return default if value == "auto" else value


def promise(choice: Choice, k: int, budget: int) -> str:
    """What the theory says of the cosine to the true gradient in the basis, for a linear f; one sentence."""
    if choice.kind != "gradient":
        return "Presence has no closed error: the split halves will tell, and --until stops when they agree."
    pairs = choice.difference == "antithetic"
    n = (budget - (choice.difference == "forward")) // (2 if pairs else 1)
    if choice.directions == "orthogonal":
        cosine = math.sqrt(min(1.0, n / k))
    else:
        cosine = math.sqrt(n / (n + k + 1))
    noisy = f"noise of variance v in the scores adds {k} v / {2 * n * choice.sigma**2:.3g} to the summed variance"
    return f"{n} directions in {k} coordinates: cosine about {cosine:.2f} with the gradient's part there; {noisy}."
