"""The laws of a weighting. Each function raises AssertionError that begins with the law's name."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from onlyforward.core.keys import Key
from onlyforward.core.weigh.baselines import LeaveOneOut
from onlyforward.core.weigh.quantile import Quantile
from onlyforward.core.weigh.ranks import Ranks
from onlyforward.testing.problems import fixed

BATCHES = 3000
COPIES = 64


def draws(weighting: Any, key: Key, copies: int = COPIES) -> Tensor:
    """Unit normals [copies, 1], mirrored if the weighting wants pairs."""
    z = torch.randn(copies, 1, generator=key.generator(), dtype=torch.float64)
    return torch.cat((z[: copies // 2], -z[: copies // 2])) if weighting.reference == "pairs" else z


def check_weighting(
    weighting: Any, *, slope: float = 1.0, shift_invariant: bool = True, bias: float = 0.0, small: bool = True
) -> float:
    """Run every law; returns the |z| of the location law.

    Args:
        weighting: the member.
        slope: its expected pull on R = 1 + Z with score Z; 1 for a gradient of the mean.
        shift_invariant: whether a constant added to the signal leaves the weights.
        bias: allowed distance of the mean pull from `slope`.
        small: also hold the location law with four copies, where n and n - 1 differ (unbiased members only).
    """
    check_state(weighting)
    if shift_invariant:
        check_shift(weighting)
    if isinstance(weighting, LeaveOneOut):
        check_columns(weighting)
    if isinstance(weighting, Ranks):
        check_monotone(weighting)
    if isinstance(weighting, Quantile):
        check_tracking(weighting)
    check_mask(weighting)
    z = check_location(weighting, slope=slope, bias=bias, copies=COPIES)
    if small and bias == 0.0:
        z = max(z, check_location(weighting, slope=slope, bias=bias, copies=4))
    return z


def check_location(weighting: Any, *, slope: float, bias: float, copies: int) -> float:
    """Location: on R = 1 + Z (0 + Z for a clean baseline) the mean of sum w_i Z_i is the known slope."""
    state: Any = None
    pulls = []
    for step in range(BATCHES):
        z = draws(weighting, Key(step=step, site="location"), copies)
        signal = z if weighting.reference == "clean" else 1.0 + z
        weight, state = weighting(signal, state)
        if step >= 20:
            pulls.append(float((weight * z).sum()))
    values = torch.tensor(pulls, dtype=torch.float64)
    error = float(values.std()) / math.sqrt(len(pulls))
    gap = max(0.0, abs(float(values.mean()) - slope) - bias)
    assert gap <= 4.5 * error, f"location: the pull is {float(values.mean()):.4f}, not {slope:.4f} (+-{error:.4f})"
    return gap / error if error > 0 else 0.0


def check_shift(weighting: Any) -> None:
    """Shift: a constant added to the signal leaves the weights, to 1e-9."""
    signal = fixed(16, 3, seed=31)
    weighting = without_control(weighting)
    there, _ = weighting(signal, None)
    here, _ = weighting(signal + 7.0, None)
    gap = float((there - here).abs().max())
    assert gap <= 1e-9, f"shift: a constant moves the weights by {gap:.1e}"


def without_control(weighting: Any) -> Any:
    """The base of a control variate: its control is a function of the signal in these laws."""
    return weighting.base if hasattr(weighting, "control") else weighting


def check_columns(weighting: Any) -> None:
    """Columns: leave-one-out weights sum to 0 over the copies."""
    weight, _ = weighting(fixed(9, 4, seed=32), None)
    assert float(weight.sum(0).abs().max()) <= 1e-12, "columns: the weights of a datum do not sum to 0"


def check_monotone(weighting: Any) -> None:
    """Monotone: ranks do not change under exp, and ties share their rank."""
    signal = fixed(9, 4, seed=33)
    there, _ = weighting(signal, None)
    here, _ = weighting(signal.exp(), None)
    assert torch.equal(there, here), "monotone: exp changes the ranks"
    tied, _ = weighting(torch.tensor([[1.0], [1.0], [2.0]], dtype=torch.float64), None)
    assert float((tied[0] - tied[1]).abs()) == 0.0, "monotone: ties have different weights"
    assert float(tied.sum().abs()) <= 1e-12, "monotone: ties do not share their mean rank"


def check_tracking(weighting: Any) -> None:
    """Tracking: q reaches a Gaussian's quantile within 2 % of its spread, and moves after the weights are made."""
    state: Any = None
    levels = []
    for step in range(600):
        signal = 680 + 10 * draws(weighting, Key(step=step, site="tracking"))
        before = state
        weight, state = weighting(signal, state)
        if before is not None:
            expected = (weighting.alpha - (signal <= before.q).double()) / len(signal)
            assert torch.allclose(weight, expected), "tracking: the weights do not belong to the q of before the call"
        levels.append(float(state.q))
    truth = 680 + 10 * float(torch.special.ndtri(torch.tensor(weighting.alpha, dtype=torch.float64)))
    reached = sum(levels[300:]) / 300
    assert abs(reached - truth) <= 0.2, f"tracking: q settles at {reached:.2f}, the quantile is {truth:.2f}"


def check_mask(weighting: Any) -> None:
    """Mask: rows that did not run weigh nothing and do not disturb the others."""
    if type(without_control(weighting)).__name__ in (
        "Distortion",
        "MixtureOfQuantiles",
        "Antithetic",
        "Quantile",
        "CVaR",
    ):
        return
    weighting = without_control(weighting)
    signal = fixed(8, 1, seed=34)
    masked = torch.cat((signal, torch.full((2, 1), math.nan, dtype=torch.float64)))
    short, _ = weighting(signal, None)
    long, _ = weighting(masked, None)
    assert bool((long[8:] == 0).all()), "mask: a row that did not run has a weight"
    assert torch.allclose(long[:8], short), "mask: rows that did not run change the others' weights"


def check_state(weighting: Any) -> None:
    """State: the call is a pure function of signal and state."""
    signal = fixed(8, 2, seed=35)
    first, state = weighting(signal, None)
    again, _ = weighting(signal, None)
    assert torch.equal(first, again), "state: the same signal and state give other weights"
    once, _ = weighting(signal, state)
    twice, _ = weighting(signal, state)
    assert torch.equal(once, twice), "state: the state was changed in place"
