"""How sure a mean over images is: bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from onlyforward.core.keys import Key

DRAWS = 4000
"""Bootstrap draws behind an interval."""


def interval(values: Sequence[float], *, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of `values [n]`."""
    data = torch.tensor(values, dtype=torch.float64)
    picks = torch.randint(0, len(data), (DRAWS, len(data)), generator=Key(run=seed, site="bootstrap").generator())
    low, high = torch.quantile(data[picks].mean(1), torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def half_width(values: Sequence[float], *, seed: int = 0) -> float:
    """Half the width of the interval; 0 for a single value."""
    low, high = interval(values, seed=seed)
    return (high - low) / 2
