"""From a choice to its estimator: the one place where settings become objects."""

from __future__ import annotations

import torch
from torch import Tensor

from onlyforward.core.errors import UsageError
from onlyforward.core.keys import Key
from onlyforward.explain.bases import blocks, make_basis, superpixels
from onlyforward.explain.blockwise import Blockwise, cut
from onlyforward.explain.estimator import Estimator
from onlyforward.explain.gaussian import Gradient
from onlyforward.explain.policy import Choice
from onlyforward.explain.presence import Presence
from onlyforward.explain.removal import removed
from onlyforward.explain.shapley import Players
from onlyforward.explain.vargrad import VarGrad


def make_estimator(
    choice: Choice, x: Tensor, baseline: str | Tensor, shown_map: str, key: Key, budget: int
) -> Estimator:
    """The estimator that a choice names."""
    if choice.kind == "presence":
        if x.ndim != 3:
            raise UsageError("Soft presence needs an image [channels, height, width]", "Take kind shapley")
        nothing = removed(x, baseline, key=key)
        return Presence(x, nothing, key, cells=choice.cells, solver=choice.solver, look=choice.look)
    if choice.kind in ("shapley", "banzhaf"):
        return players(choice, x, removed(x, baseline, key=key), key, budget)
    basis = make_basis(choice.basis, x)
    if choice.blocks:
        wanted, shares = cut(choice.blocks, basis.k)
        return Blockwise(
            x,
            basis,
            wanted,
            sigma=choice.sigma,
            key=key,
            shares=shares,
            directions=choice.directions,
            difference=choice.difference,
        )
    if shown_map == "vargrad":
        return VarGrad(x, basis, choice.sigma, key, directions=choice.directions, difference=choice.difference)
    path = {"integrated-gradients": "integrated", "expected-gradients": "expected"}.get(shown_map, "point")
    references = None
    if path != "point":
        several = isinstance(baseline, Tensor) and baseline.ndim == x.ndim + 1
        references = baseline if several else removed(x, baseline, key=key)[None]  # type: ignore[assignment]
    return Gradient(
        x,
        basis,
        choice.sigma,
        key,
        directions=choice.directions,
        difference=choice.difference,
        solver=choice.solver,
        path=path,
        references=references,
    )


def players(choice: Choice, x: Tensor, nothing: Tensor, key: Key, budget: int) -> Players:
    """Blocks, superpixels or the numbers of a vector as players."""
    if x.ndim == 3 and choice.basis != "pixel":
        word, _, size = choice.basis.partition(":") if isinstance(choice.basis, str) else ("", "", "")
        if word not in ("grid", "superpixel") or not size.isdigit():
            raise UsageError(f"The basis {choice.basis!r} names no players", "Take grid:B or superpixel:N")
        labels = blocks(x, int(size)) if word == "grid" else superpixels(x, int(size))
    else:
        labels = torch.arange(x.numel()).reshape(x.shape)
    count = int(labels.max()) + 1
    flat = labels.flatten()

    def compose(z: Tensor) -> Tensor:
        mask = z[:, flat].reshape(len(z), *labels.shape)
        mask = mask[:, None] if labels.ndim < x.ndim else mask
        return torch.where(mask.bool(), x, nothing)

    def show(effect: Tensor) -> Tensor:
        return effect[flat].reshape(labels.shape)

    return Players(count, compose, show, key, budget, value=choice.kind, solver=choice.solver)
