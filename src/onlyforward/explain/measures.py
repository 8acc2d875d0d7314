"""`of.metrics`: numbers about maps for users: an oracle, images and maps in, one number an image out.

Names and meanings are the field's; the curves themselves are in `metrics`, checks that ask again in `checks`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from onlyforward.core.keys import Key
from onlyforward.explain import checks
from onlyforward.explain import metrics as curves
from onlyforward.explain.checks import randomisation, roar
from onlyforward.explain.metrics import cosine, gini, pointing, spearman, top_k_overlap
from onlyforward.explain.saliency import as_oracle
from onlyforward.explain.scores import Target, judge

__all__ = [
    "cosine",
    "deletion",
    "gini",
    "infidelity",
    "insertion",
    "lerf",
    "morf",
    "pointing",
    "randomisation",
    "roar",
    "sensitivity_max",
    "spearman",
    "top_k_overlap",
]


def deletion(
    oracle: Any, x: Tensor, values: Tensor, target: Target, *, steps: int = 32, baseline: str | Tensor = "mean",
    score: str = "probability",
) -> Tensor:  # fmt: skip
    """Area under the score while the most important pixels are removed first (arXiv 1806.07421): the lower the better.

    Args:
        oracle: the black box: an `Oracle`, a module or a function of rows.
        x: [c, h, w] or [b, c, h, w].
        values: maps, [h, w] or [c, h, w] for each x.
        target: output index, one per x, or a function of the answers.
        steps: equal shares of the pixels.
        baseline: what stands where something is removed.
        score: probability, logit or log-probability.

    Returns:
        [b], float64.
    """
    return areas(curves.deletion, oracle, x, values, target, steps, baseline, score)


def insertion(
    oracle: Any, x: Tensor, values: Tensor, target: Target, *, steps: int = 32, baseline: str | Tensor = "blur",
    score: str = "probability",
) -> Tensor:  # fmt: skip
    """Area under the score while the most important pixels come in first: the higher the better; see `deletion`."""
    return areas(curves.insertion, oracle, x, values, target, steps, baseline, score)


def morf(
    oracle: Any, x: Tensor, values: Tensor, target: Target, *, steps: int = 32, baseline: str | Tensor = "mean",
    score: str = "probability",
) -> Tensor:  # fmt: skip
    """Most relevant first: `deletion` under the name of pixel flipping."""
    return areas(curves.morf, oracle, x, values, target, steps, baseline, score)


def lerf(
    oracle: Any, x: Tensor, values: Tensor, target: Target, *, steps: int = 32, baseline: str | Tensor = "mean",
    score: str = "probability",
) -> Tensor:  # fmt: skip
    """Least relevant first: the higher the better; see `deletion`."""
    return areas(curves.lerf, oracle, x, values, target, steps, baseline, score)


def infidelity(
    oracle: Any, x: Tensor, values: Tensor, target: Target, *, key: int | Key = 0, draws: int = 64,
    sigma: float = 0.1, normalise: bool = False, score: str = "probability",
) -> Tensor:  # fmt: skip
    """How badly a map foretells changes of the score under noise (arXiv 1901.09392): see `checks.infidelity`; [b]."""
    return each(
        oracle, x, values, target, score,
        lambda value, one, map_, i: checks.infidelity(
            value, one, map_, key=coordinates(key, i), draws=draws, sigma=sigma, normalise=normalise
        ),
    )  # fmt: skip


def sensitivity_max(
    explain: Callable[[Tensor], Tensor], x: Tensor, *, key: int | Key = 0, radius: float = 0.02, draws: int = 10
) -> Tensor:
    """Largest relative change of a map under small changes of x (arXiv 1901.09392): see `checks.sensitivity_max`.

    Args:
        explain: one x -> its map.
        x: [c, h, w] or [b, c, h, w].
        key: of the changes.
        radius: half the side of the cube that they come from.
        draws: their number.

    Returns:
        [b], float64.
    """
    batch = x[None] if x.ndim == 3 else x
    found = [
        checks.sensitivity_max(explain, one, key=coordinates(key, i), radius=radius, draws=draws)
        for i, one in enumerate(batch)
    ]
    return torch.tensor(found, dtype=torch.float64)


def areas(
    curve: Callable[..., curves.Curve],
    oracle: Any,
    x: Tensor,
    values: Tensor,
    target: Target,
    steps: int,
    baseline: str | Tensor,
    score: str,
) -> Tensor:
    """Areas [b] under one kind of curve."""
    return each(
        oracle, x, values, target, score,
        lambda value, one, map_, i: curve(value, one, map_, steps=steps, baseline=baseline).area,
    )  # fmt: skip


def each(
    oracle: Any,
    x: Tensor,
    values: Tensor,
    target: Target,
    score: str,
    number: Callable[[curves.Score, Tensor, Tensor, int], float],
) -> Tensor:
    """One number per image: [b]."""
    asked = as_oracle(oracle)
    single = x.ndim == 3
    batch, maps = (x[None], values[None]) if single else (x, values)
    found = []
    for i, (one, own) in enumerate(zip(batch, maps, strict=True)):
        wanted: Target = target
        if not callable(target) and target is not None:
            several = torch.as_tensor(target).flatten()
            wanted = int(several[i if len(several) > 1 else 0])

        def value(rows: Tensor, wanted: Target = wanted) -> Tensor:
            return judge(asked(rows), wanted, score)

        found.append(number(value, one, own, i))
    return torch.tensor(found, dtype=torch.float64)


def coordinates(key: int | Key, i: int) -> Key:
    """The key of the i-th image."""
    base = key if isinstance(key, Key) else Key(run=key)
    return base.at(step=base.step + i)
