"""Where noise enters."""

from onlyforward.core.lazy import attach

PUBLIC = {
    "Parameters": "onlyforward.core.perturb.parameters",
    "Inputs": "onlyforward.core.perturb.inputs",
    "Coordinates": "onlyforward.core.perturb.coordinates",
    "Choices": "onlyforward.core.perturb.choices",
    "Tangents": "onlyforward.core.perturb.tangents",
}

__getattr__, __dir__ = attach(__name__, PUBLIC)
