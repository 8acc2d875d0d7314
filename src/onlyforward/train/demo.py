"""The demonstration: one small network, three ways to train it, the same number of forward runs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

from onlyforward.data.nets import build
from onlyforward.data.sets import load
from onlyforward.train.fit import Chosen, trained
from onlyforward.train.loop import Schedule
from onlyforward.train.methods import Settings, cost, make_method

if TYPE_CHECKING:
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result
    from onlyforward.train.command import Show

NAMES = {"lr": "likelihood ratio (ours)", "bp": "backpropagation", "es": "evolution strategies"}


def demo(options: Show, context: Context) -> Result:
    """Accuracy, forward runs per step and seconds of the three methods."""
    torch.set_num_threads(options.threads)
    data = load("digits")
    result = context.result(question="Can a network learn from forward runs alone?")
    rows, found, spent = [], {}, {}
    # The likelihood ratio runs less than the network per copy, so its forwards per step decide those of ES.
    copies = options.copies
    for name in ("lr", "bp", "es"):
        context.say(f"training the digits network by {NAMES[name]}")
        model = build("mlp", data, seed=options.seed)
        method = make_method(name, model, Settings(copies=copies, seed=options.seed))
        begin = time.perf_counter()
        chosen = Chosen(Settings(), Schedule(options.epochs, 64, 2e-3))
        outcome = trained(model, method, data, chosen, loss="ce", seed=options.seed)
        spent[name] = time.perf_counter() - begin
        found[name] = outcome.accuracy
        result.forward_runs += method.runs
        rows.append([NAMES[name], outcome.accuracy, cost(method)[0], spent[name], spent[name] / spent.get("bp", 1.0)])
        if name == "lr":
            result.artefacts = {k: p.detach() for k, p in model.named_parameters()}
    for row, name in zip(rows, spent, strict=True):
        row[-1] = spent[name] / spent["bp"]
    result.table(
        "Digits, network 64-64-64-10",
        ["method", "test accuracy", "forward runs per step", "time [s]", "over backpropagation [s/s]"],
        rows,
        "The backward pass of backpropagation is no forward run; evolution strategies spend at least as many as ours.",
    )
    result.metric("train_accuracy", found["lr"])
    result.metric("train_bp_accuracy", found["bp"])
    result.metric("train_es_accuracy", found["es"])
    result.metric("train_accuracy_over_es", found["lr"] - found["es"])
    result.answer = (
        f"From forward runs alone the digits network reaches a test accuracy of {found['lr']:.3f}; backpropagation "
        f"reaches {found['bp']:.3f}, evolution strategies with as many runs {found['es']:.3f}."
    )
    return result
