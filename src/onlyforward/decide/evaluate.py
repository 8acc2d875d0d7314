"""How good a policy is: the distribution of its returns over fresh episodes, with intervals."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onlyforward.decide.objectives import Objective, lower_tail_mean


@dataclass(frozen=True)
class Evaluation:
    """Statistics of returns [N].

    Attributes:
        objective: the trained objective's empirical value.
        mean: mean.
        sd: standard deviation.
        q05: 5 % quantile.
        q10: 10 % quantile.
        median: median.
        q_alpha: alpha quantile.
        cvar_alpha: mean of the worst alpha share.
        mean_half_width: half of the 95 % interval of the mean.
        q_alpha_low: lower end of the 95 % interval of the quantile, by order statistics.
        q_alpha_high: its upper end.
        episodes: N.
    """

    objective: float
    mean: float
    sd: float
    q05: float
    q10: float
    median: float
    q_alpha: float
    cvar_alpha: float
    mean_half_width: float
    q_alpha_low: float
    q_alpha_high: float
    episodes: int

    def metrics(self) -> dict[str, float]:
        """The names of `result.json`."""
        names = ("objective", "mean", "sd", "q05", "q10", "median", "q_alpha", "cvar_alpha")
        return {name: asdict(self)[name] for name in names}


def evaluate(returns: NDArray[Any], objective: Objective, alpha: float) -> Evaluation:
    """Statistics of returns [N] at the level alpha."""
    ordered = np.sort(np.asarray(returns, dtype=np.float64))
    count = len(ordered)
    spread = 1.96 * np.sqrt(count * alpha * (1 - alpha))
    low, high = np.clip([count * alpha - spread, count * alpha + spread], 0, count - 1).astype(int)
    return Evaluation(
        objective=objective.value(ordered),
        mean=float(ordered.mean()),
        sd=float(ordered.std(ddof=1)),
        q05=float(np.quantile(ordered, 0.05)),
        q10=float(np.quantile(ordered, 0.10)),
        median=float(np.quantile(ordered, 0.5)),
        q_alpha=float(np.quantile(ordered, alpha)),
        cvar_alpha=lower_tail_mean(ordered, alpha),
        mean_half_width=float(1.96 * ordered.std(ddof=1) / np.sqrt(count)),
        q_alpha_low=float(ordered[low]),
        q_alpha_high=float(ordered[high]),
        episodes=count,
    )
