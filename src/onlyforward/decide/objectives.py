"""What is optimised: an objective is a weighting of the core with the value that it stands for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onlyforward.core.checks import check_choice, check_range

OBJECTIVES = ("mean", "quantile", "cvar", "wang", "power", "mixture")


@dataclass(frozen=True)
class Objective:
    """A functional of the return's distribution, to be maximised.

    Attributes:
        name: mean, quantile, cvar, wang, power or mixture.
        alpha: the level of quantile and CVaR; for wang the lambda, for power the rho of the distortion.
        tracker: "sa", "batch" or "auto": how the quantile is tracked.
        centred: False weighs by -1{R <= q} alone, for the ablation that shows why not to.
    """

    name: str = "quantile"
    alpha: float = 0.1
    tracker: str = "auto"
    centred: bool = True

    def __post_init__(self) -> None:
        check_choice(self.name, OBJECTIVES, name="objective")
        if self.name in ("quantile", "cvar"):
            check_range(self.alpha, name="alpha", low=1e-6, high=1 - 1e-6, why="it is a probability")

    def weighting(self) -> Any:
        """The core's weighting for this objective."""
        from onlyforward.core import weigh

        made: dict[str, Callable[[], Any]] = {
            "mean": weigh.LeaveOneOut,
            "quantile": lambda: weigh.Quantile(self.alpha, tracker=self.tracker, centred=self.centred),
            "cvar": lambda: weigh.CVaR(self.alpha, tracker=self.tracker),
            "wang": lambda: weigh.Distortion.wang(self.alpha),
            "power": lambda: weigh.Distortion.power(self.alpha),
            "mixture": lambda: weigh.MixtureOfQuantiles((1 / 3,) * 3, (0.1, 0.5, 0.9), tracker=self.tracker),
        }
        return made[self.name]()

    def value(self, returns: NDArray[Any]) -> float:
        """The empirical objective of returns [N]."""
        ordered = np.sort(np.asarray(returns, dtype=np.float64))
        count = len(ordered)
        if self.name == "mean":
            return float(ordered.mean())
        if self.name == "quantile":
            return float(np.quantile(ordered, self.alpha))
        if self.name == "cvar":
            return lower_tail_mean(ordered, self.alpha)
        if self.name == "mixture":
            return float(np.mean([np.quantile(ordered, level) for level in (0.1, 0.5, 0.9)]))
        # rho = sum of order statistics weighted by g(1 - (i - 1)/N) - g(1 - i/N), g the distortion of survival.
        survival = 1 - np.arange(count + 1) / count
        distorted = self.distortion(survival)
        return float((distorted[:-1] - distorted[1:]) @ ordered)

    def distortion(self, u: NDArray[Any]) -> NDArray[Any]:
        """g(u) of wang (Phi(Phi^-1(u) - lambda)) or power (u^rho)."""
        if self.name == "power":
            return u**self.alpha
        from scipy.stats import norm

        return norm.cdf(norm.ppf(u) - self.alpha)


def lower_tail_mean(ordered: NDArray[Any], alpha: float) -> float:
    """Mean of the worst alpha share of sorted returns, the last of them counted in part."""
    count = alpha * len(ordered)
    whole = int(count)
    tail = ordered[:whole].sum() + (count - whole) * (ordered[whole] if whole < len(ordered) else 0.0)
    return float(tail / count)
