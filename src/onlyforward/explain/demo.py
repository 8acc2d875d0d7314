"""The demonstration: the exact gradient of a closed digits classifier from 257 questions, beside RISE at 4,096."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from onlyforward.explain.digits import classifier, test_images
from onlyforward.explain.evaluation import gradient_of
from onlyforward.explain.metrics import cosine, deletion, insertion
from onlyforward.explain.peers import Rise
from onlyforward.explain.saliency import Saliency
from onlyforward.explain.scores import judge
from onlyforward.run.oracle import Oracle

if TYPE_CHECKING:
    from onlyforward.explain.command import DemoOptions
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result

IMAGES = 6


def demo(options: DemoOptions, context: Context) -> Result:
    """Maps of a few digits: cosine to autograd, deletion and insertion."""
    torch.set_num_threads(options.threads)
    net, accuracy = classifier(seed=options.seed)
    result = context.result(question="What can 257 questions tell about a closed classifier of digits?")
    rows, cosines = [], []
    for i, (x, y) in enumerate(test_images(IMAGES)):
        key = context.key.at(step=i)
        oracle = Oracle.from_module(net)
        own = Saliency(oracle, map="gradient", sigma=0.02).attribute(x, target=y, budget=257, key=key)
        presence = Saliency(oracle, kind="presence", baseline="zero").attribute(x, target=y, budget=257, key=key)
        rise = Rise(oracle).attribute(x, target=y, budget=4096, key=key)
        cosines.append(cosine(own.map, gradient_of(net, x, y)))

        def value(batch: torch.Tensor, oracle: Oracle = oracle, y: int = y) -> torch.Tensor:
            return judge(oracle(batch), y, "probability")

        for name, values, queries in (("presence", presence.map, 257), ("RISE", rise, 4096)):
            down = deletion(value, x, values, baseline="zero").area
            up = insertion(value, x, values, baseline="zero").area
            rows.append([name, i, y, queries, down, up])
        result.forward_runs += oracle.account.queries
    mean = sum(cosines) / len(cosines)
    result.metric("explain_cosine", mean)
    result.table(
        "Maps of digits by questions alone",
        ["map", "image", "digit", "questions", "deletion (lower is better)", "insertion (higher is better)"],
        rows,
        f"The classifier reads {100 * accuracy:.1f} % of the test digits; no gradient was asked of it.",
    )
    result.artefacts = {"cosines": torch.tensor(cosines, dtype=torch.float64)}
    result.answer = f"257 questions give the exact gradient to a cosine of {mean:.3f}, mean of {IMAGES} digits."
    return result
