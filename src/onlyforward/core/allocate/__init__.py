"""How many runs each item gets."""

from onlyforward.core.lazy import attach

PUBLIC = {
    "Features": "onlyforward.core.allocate.plan",
    "Plan": "onlyforward.core.allocate.plan",
    "Uniform": "onlyforward.core.allocate.uniform",
    "Neyman": "onlyforward.core.allocate.neyman",
    "GaussianAllocator": "onlyforward.core.allocate.gaussian",
    "BernoulliAllocator": "onlyforward.core.allocate.bernoulli",
    "Halving": "onlyforward.core.allocate.halving",
    "Reweighted": "onlyforward.core.allocate.halving",
}

__getattr__, __dir__ = attach(__name__, PUBLIC)
