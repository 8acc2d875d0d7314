"""The cases of `onlyforward bench saliency`, by name."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

import torch

from onlyforward.run.benchmark import BenchOptions, Case, run_cases

if TYPE_CHECKING:
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result

PLACES = {
    "truth": "gradients",
    "smooth": "gradients",
    "theory": "gradients",
    "digits": "curves",
    "digits-blur": "curves",
    "natural": "photos",
    "natural-v2": "photos",
    "shapley": "values",
    "agree": "agreement",
    "endpoint": "endpoints",
    "hostile": "hostile",
    "ledger": "ledger",
    "calibration": "trust",
    "sanity": "trust",
    "speed": "speed",
}
"""Case -> module of this folder; the function carries the case's name."""


def case(name: str) -> Case:
    """The function of a case; its module is imported when it runs."""

    def run_case(options: BenchOptions, context: Context, result: Result) -> None:
        module = importlib.import_module(f"onlyforward.explain.bench.{PLACES[name]}")
        getattr(module, name.replace("-", "_"))(options, context, result)

    return run_case


def run(options: BenchOptions, context: Context) -> Result:
    """Run the chosen cases."""
    torch.set_num_threads(options.threads)
    result = run_cases(options, context, {name: case(name) for name in PLACES})
    result.question = "What do questions alone tell about a closed model, beside the truth and the competitors?"
    result.answer = "The tables hold ours and the competitors at equal cost, rows where ours loses included."
    return result
