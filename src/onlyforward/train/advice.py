"""`train advise`: the table of sites, their costs, and one closing sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from onlyforward.core.checks import check_choice, check_range
from onlyforward.data.nets import MODELS, build
from onlyforward.data.sets import load
from onlyforward.nn.advise import advise
from onlyforward.train.loop import cross_entropy, on_training_nodes

if TYPE_CHECKING:
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result
    from onlyforward.train.command import Advise


def advice(options: Advise, context: Context) -> Result:
    """Measure one batch at the fresh network and report."""
    if ":" not in options.model:
        check_choice(options.model, MODELS, name="model")
    check_range(options.batch, name="batch", low=2)
    torch.set_num_threads(options.threads)
    data = load(options.data, seed=options.seed)
    model = build(options.model, data, seed=options.seed).eval()
    graph = data.kind == "graph"
    rows = slice(None) if graph else slice(options.batch)
    found = advise(
        model,
        on_training_nodes(cross_entropy, data) if graph else cross_entropy,
        data.x_train[rows],
        data.y_train[rows],
        options.target_cosine,
        check=options.check,
        seed=options.seed,
    )
    result = context.result(question=f"What does it cost to train {options.model} on {data.name} by forward runs?")
    result.table(
        f"Sites of {options.model} on {data.name}, for a cosine of {options.target_cosine:g}",
        ["site", "kind", "D", "P", "kappa", "noise", "where", "copies", "predicted cosine", "share behind", "BP steps"],
        [
            [
                s.path,
                s.kind,
                s.dimension,
                s.parameters,
                s.kappa,
                s.noise,
                s.option,
                s.copies,
                s.cosine,
                s.suffix,
                s.cost,
            ]
            for s in found.sites
        ],
        "D: perturbed numbers per datum; kappa: data whose gradients add up; cost in steps of backpropagation.",
    )
    if options.check:
        result.table(
            "The law against measurement",
            ["site", "copies", "predicted cosine", "measured cosine"],
            [[s.path, *check] for s in found.sites for check in s.checks],
        )
        result.metric("measured_cosine", found.measured_cosine)
        result.metric("law_error", found.law_error)
    result.metric("sites", len(found.sites))
    result.metric("cost_over_bp", found.cost_over_bp)
    result.metric("predicted_cosine", found.predicted_cosine)
    result.answer = found.sentence
    return result
