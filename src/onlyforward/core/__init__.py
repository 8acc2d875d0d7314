"""The vocabulary and its mathematics: perturb, run forward, weigh, pull."""

from onlyforward.core.lazy import attach

PUBLIC = {
    "Key": "onlyforward.core.keys",
    "Params": "onlyforward.core.params",
    "digest": "onlyforward.core.params",
    "digest48": "onlyforward.core.params",
    "Probe": "onlyforward.core.probe",
    "Perturbation": "onlyforward.core.probe",
    "Weighting": "onlyforward.core.probe",
    "Allocation": "onlyforward.core.probe",
    "Estimate": "onlyforward.core.estimate",
    "gradient": "onlyforward.core.estimate",
    "exact_sum": "onlyforward.core.sums",
}

__getattr__, __dir__ = attach(__name__, PUBLIC)
