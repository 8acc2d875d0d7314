"""The case `cosine`: how well each estimator's hidden gradient points along the true one, in the middle of training."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from onlyforward.data.nets import build
from onlyforward.data.sets import load
from onlyforward.nn.advise import advise
from onlyforward.nn.engine import LikelihoodRatio
from onlyforward.nn.evolution import EvolutionStrategies, ForwardGradient
from onlyforward.run.benchmark import seeds
from onlyforward.train.fit import Chosen, trained
from onlyforward.train.loop import Schedule, cross_entropy
from onlyforward.train.methods import Settings
from onlyforward.train.peers import Backprop

if TYPE_CHECKING:
    from torch import Tensor, nn

    from onlyforward.run.benchmark import BenchOptions
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result

HIDDEN = ("1.", "3.")
"""Parameters of the hidden layers: the head's gradient is exact and would flatter every arm."""

ENGINES: dict[str, Callable[[nn.Module, int], Any]] = {
    "hadamard64": lambda m, s: LikelihoodRatio(m, copies=64, noise="hadamard", pairing="single", seed=s),
    "hadamard16": lambda m, s: LikelihoodRatio(m, copies=16, noise="hadamard", pairing="single", seed=s),
    "gaussian64": lambda m, s: LikelihoodRatio(m, copies=64, noise="gaussian", pairing="single", seed=s),
    "antithetic64": lambda m, s: LikelihoodRatio(m, copies=64, noise="gaussian", pairing="pairs", seed=s),
    "nobaseline64": lambda m, s: LikelihoodRatio(
        m, copies=64, noise="gaussian", pairing="single", baseline="none", seed=s
    ),
    "weights32": lambda m, s: LikelihoodRatio(
        m, copies=32, noise="gaussian", pairing="pairs", plan={"*": "weights", "5": "exact"}, seed=s
    ),
    "es32": lambda m, s: EvolutionStrategies(m, copies=32, sigma=0.01, seed=s),
    "forward_gradient32": lambda m, s: ForwardGradient(m, copies=32, seed=s),
}
"""Arm -> engine of (network, seed)."""


def cosine(options: BenchOptions, context: Context, result: Result) -> None:
    """Cosines of all arms, and the error of the law that predicts them."""
    data = load("digits")
    x, y = data.x_train[:64], data.y_train[:64]
    found: dict[str, list[float]] = {name: [] for name in ENGINES}
    errors = []
    for seed in seeds(options):
        model = build("mlp", data, seed=seed)
        trained(model, Backprop(model), data, Chosen(Settings(), Schedule(5, 64, 2e-3)), loss="ce", seed=seed)
        truth = gradient(Backprop(model), model, x, y)
        for name, make in ENGINES.items():
            runs = [gradient(make(model, 10 * seed + k), model, x, y) for k in range(4)]
            found[name].append(statistics.fmean(float(torch.cosine_similarity(g, truth, dim=0)) for g in runs))
        errors.append(advise(model, cross_entropy, x, y, check=True, seed=seed).law_error)
    rows = []
    for name, values in found.items():
        mean = statistics.fmean(values)
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        result.metric(f"cosine_{name}_cosine", mean)
        result.metric(f"cosine_{name}_std", deviation)
        rows.append([name, mean, deviation])
    result.metric("cosine_law_error", max(errors))
    result.table(
        "cosine: hidden layers of the digits network after 5 epochs, 64 images",
        ["estimator and copies", "cosine with the true gradient", "std over seeds"],
        rows,
        f"The law cos^2 = 1/(1 + r/kappa) is off by at most {max(errors):.3f} at 8, 32 and 128 copies.",
    )


def gradient(engine: Any, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The hidden layers' gradient of one call, flat."""
    model.zero_grad()
    engine.backward(cross_entropy, x, y)
    grads = [p.grad for name, p in model.named_parameters() if name.startswith(HIDDEN)]
    flat = torch.cat([g.reshape(-1) for g in grads if g is not None])
    model.zero_grad()
    return flat
