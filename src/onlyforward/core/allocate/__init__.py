"""How many runs each item gets."""

from onlyforward.core.lazy import attach

PUBLIC = {
    "Features": "onlyforward.core.allocate.plan",
    "Plan": "onlyforward.core.allocate.plan",
    "Uniform": "onlyforward.core.allocate.uniform",
    "Neyman": "onlyforward.core.allocate.neyman",
}

__getattr__, __dir__ = attach(__name__, PUBLIC)
