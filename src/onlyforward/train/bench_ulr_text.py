"""The case `text-cosine`: what part of a text network's gradient each way of perturbing it finds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from onlyforward.data.nets import build, preset
from onlyforward.data.sets import load
from onlyforward.nn.engine import LikelihoodRatio
from onlyforward.run.benchmark import seeds
from onlyforward.train.fit import Chosen, trained
from onlyforward.train.loop import cross_entropy, preset_schedule
from onlyforward.train.methods import Settings
from onlyforward.train.peers import Backprop

if TYPE_CHECKING:
    from torch import Tensor, nn

    from onlyforward.run.benchmark import BenchOptions
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result

GROUPS: Mapping[str, str] = {
    "embedding": "embedding.weight",
    "input": "recurrent.weight_ih_l0",
    "recurrent": "recurrent.weight_hh_l0",
}
"""Name in the metrics -> parameter; the head is exact in every arm."""

STEPS = {"plan": {"embedding": "bp"}}
ARMS: Mapping[str, tuple[Mapping[str, Any], str]] = {
    "tenth8": ({"copies": 8, "visits": 0.1}, "noise at the embedding too, 8 copies, a tenth of the words"),
    "own8": ({"copies": 8}, "noise at the embedding too, 8 copies"),
    "own128": ({"copies": 128}, "noise at the embedding too, 128 copies"),
    "steps16": ({"copies": 16, **STEPS}, "embedding by the cotangents of the steps, 16 copies"),
    "steps32": ({"copies": 32, **STEPS}, "embedding by the cotangents of the steps, 32 copies"),
    "steps128": ({"copies": 128, **STEPS}, "embedding by the cotangents of the steps, 128 copies"),
}
"""Arm -> what differs from the preset, and what the table says."""


def text_cosine(options: BenchOptions, context: Context, result: Result) -> None:
    """Cosines with backpropagation's gradient after one epoch of it, on 64 training texts of middling length."""
    data = load("sst2")
    middle = len(data.x_train) // 2
    rows = data.x_train.count_nonzero(1).argsort(stable=True)[middle - 32 : middle + 32]
    x, y = data.x_train[rows], data.y_train[rows]
    base = preset("lstm", "sst2")
    once = preset_schedule(replace(base, epochs=1))
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ARMS}
    for seed in seeds(options):
        model = build("lstm", data, seed=seed)
        trained(model, Backprop(model), data, Chosen(Settings(), once), loss="ce", seed=seed)
        truth = gradients(Backprop(model), model, x, y)
        for name, (own, _) in ARMS.items():
            engine = LikelihoodRatio(
                model, **{"sigma": base.sigma, "noise": base.noise, "pairing": base.pairing, "seed": seed, **own}
            )
            guess = gradients(engine, model, x, y)
            found[name].append({g: float(torch.cosine_similarity(guess[g], truth[g], dim=0)) for g in GROUPS})
    table = []
    for name, values in found.items():
        means = [statistics.fmean(value[group] for value in values) for group in GROUPS]
        for group, mean in zip(GROUPS, means, strict=True):
            result.metric(f"text_cosine_{name}_{group}", mean)
        table.append([ARMS[name][1], *means])
    result.table(
        f"text-cosine: LSTM on sst2 after one epoch, 64 texts, {len(seeds(options))} seeds",
        ["arm", "embedding", "input weights", "recurrent weights"],
        table,
        "Cosines with the gradient of backpropagation through time; every arm perturbs one time step at a time.",
    )


def gradients(engine: Any, model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Group -> its gradient of one call, flat."""
    model.zero_grad()
    engine.backward(cross_entropy, x, y)
    own = {group: model.get_parameter(name) for group, name in GROUPS.items()}
    found = {group: torch.zeros_like(p) if p.grad is None else p.grad.clone() for group, p in own.items()}
    model.zero_grad()
    return {group: value.detach().flatten() for group, value in found.items()}
