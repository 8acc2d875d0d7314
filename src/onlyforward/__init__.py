"""Gradients, explanations and decisions for systems that can only be run forward.

Public names are imported on first use: importing the package does not import torch.
"""

from onlyforward.core.lazy import attach

__version__ = "0.1.0"

PUBLIC = {
    "CoNNect": "onlyforward.prune.connect",
    "safe_masks": "onlyforward.prune.masks",
    "minimum_weights": "onlyforward.prune.masks",
    "apply_masks": "onlyforward.prune.masks",
    "prune_structured": "onlyforward.prune.structured",
    "shrink": "onlyforward.prune.shrink",
    "save_shrunk": "onlyforward.prune.manifest",
    "load_shrunk": "onlyforward.prune.manifest",
    "solve_schedule": "onlyforward.schedule.pipeline",
    "QuantumSVDD": "onlyforward.detect.estimator",
    "launch": "onlyforward.cli.launch",
    "resume": "onlyforward.cli.launch",
    "load_result": "onlyforward.cli.launch",
    "Key": "onlyforward.core.keys",
    "gradient": "onlyforward.core.estimate",
    "ParameterSearch": "onlyforward.decide.models",
    "PPO": "onlyforward.decide.models",
    "QPO": "onlyforward.decide.models",
    "QPPO": "onlyforward.decide.models",
    "QRDQN": "onlyforward.decide.models",
    "Reinforce": "onlyforward.decide.models",
    "SPSA": "onlyforward.decide.models",
    "tune": "onlyforward.tune.api",
    "align": "onlyforward.tune.api",
    "Foundation": "onlyforward.decide.foundation.estimator",
    "SeasonState": "onlyforward.decide.foundation.estimator",
    "Features": "onlyforward.core.allocate.plan",
    "Uniform": "onlyforward.core.allocate.uniform",
    "Neyman": "onlyforward.core.allocate.neyman",
    "GaussianAllocator": "onlyforward.core.allocate.gaussian",
    "BernoulliAllocator": "onlyforward.core.allocate.bernoulli",
    "Halving": "onlyforward.core.allocate.halving",
    "LikelihoodRatio": "onlyforward.nn.engine",
    "cut": "onlyforward.nn.cut",
    "Cut": "onlyforward.nn.cut",
    "advise": "onlyforward.nn.advise",
    "register_rule": "onlyforward.nn.rules",
    "Oracle": "onlyforward.run.oracle",
    "Saliency": "onlyforward.explain.saliency",
    "metrics": "onlyforward.explain.measures:",
    "peers": "onlyforward.explain.peers:",
    "EvolutionStrategies": "onlyforward.nn.evolution",
    "MeZO": "onlyforward.nn.evolution",
    "ForwardGradient": "onlyforward.nn.evolution",
}

__all__ = sorted(PUBLIC)
__getattr__, __dir__ = attach(__name__, PUBLIC)
