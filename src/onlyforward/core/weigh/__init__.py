"""How signals become weights."""

from onlyforward.core.lazy import attach

PUBLIC = {
    "Mean": "onlyforward.core.weigh.baselines",
    "LeaveOneOut": "onlyforward.core.weigh.baselines",
    "Clean": "onlyforward.core.weigh.baselines",
    "Antithetic": "onlyforward.core.weigh.antithetic",
    "Ranks": "onlyforward.core.weigh.ranks",
    "Quantile": "onlyforward.core.weigh.quantile",
    "CVaR": "onlyforward.core.weigh.quantile",
    "Distortion": "onlyforward.core.weigh.distortion",
    "MixtureOfQuantiles": "onlyforward.core.weigh.distortion",
    "ControlVariate": "onlyforward.core.weigh.control",
}

__getattr__, __dir__ = attach(__name__, PUBLIC)
