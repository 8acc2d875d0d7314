"""The laws that every member obeys, for this project's tests and for users' own extensions."""

from onlyforward.core.lazy import attach

PUBLIC = {
    "check_perturbation": "onlyforward.testing.perturbations",
    "check_weighting": "onlyforward.testing.weightings",
    "check_allocation": "onlyforward.testing.allocations",
    "check_engine": "onlyforward.testing.engines",
    "check_oracle": "onlyforward.testing.oracles",
    "check_application": "onlyforward.testing.applications",
}

__getattr__, __dir__ = attach(__name__, PUBLIC)
