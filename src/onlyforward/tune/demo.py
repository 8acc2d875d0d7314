"""The demonstration: the gradient of one batch of rotated digits, equal queries, uniform counts beside Neyman's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from onlyforward.core.allocate import Neyman, Uniform
from onlyforward.core.keys import Key
from onlyforward.tune.bed import B, Q, make_bed
from onlyforward.tune.bench_variance import SIGMA, gradients
from onlyforward.tune.gains import gain_of

if TYPE_CHECKING:
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result
    from onlyforward.tune.command import Show


def demo(options: Show, context: Context) -> Result:
    """Mean squared error of uniform counts over that of Neyman's, by real repeats."""
    torch.set_num_threads(options.threads)
    result = context.result(question="How much less noise do the same queries give where they help most?")
    context.say("training the digits network")
    bed = make_bed()
    x, y = bed.batch("rotated", 0)
    per_datum, features = bed.gradients(x, y), bed.features(x, y)
    truth, size = per_datum.mean(0), per_datum.norm(dim=1)
    plans = {"uniform counts": Uniform().plan(B * Q, features), "Neyman (ours)": Neyman().plan(B * Q, features)}
    errors, rows = {}, []
    with context.progress(len(plans), label="gradients from forward runs") as tick:
        for name, plan in plans.items():
            found = gradients(
                bed, x, y, plan, options.repeats, Key(run=options.seed, site=f"demo/{name}"), SIGMA, torch.float32
            )
            errors[name] = float(((found - truth) ** 2).sum(1).mean())
            cosine = torch.nn.functional.cosine_similarity(found, truth[None], dim=1).mean()
            counts = f"{int(plan.counts.min())} to {int(plan.counts.max())}"
            rows.append([name, B * Q, counts, errors[name], float(cosine)])
            result.forward_runs += B * Q * options.repeats
            tick()
            if name.startswith("Neyman"):
                result.artefacts = {"gradient": found.mean(0), "counts": plan.counts}
    gain = errors["uniform counts"] / errors["Neyman (ours)"]
    law = gain_of(plans["Neyman (ours)"].counts, size)
    result.metric("tune_gain", gain)
    result.metric("tune_law", law)
    result.table(
        f"Gradient of {bed.dimension} parameters on {B} rotated digits, {options.repeats} repeats",
        ["counts", "forward runs each", "runs of a datum", "mean squared error", "cosine with the exact gradient"],
        rows,
        f"The law predicts {law:.2f}. A lower variance is what allocation promises, not a higher accuracy.",
    )
    result.answer = (
        f"With the same {B * Q} forward runs, dividing them by residual lowers the squared error {gain:.2f} times "
        f"(the law says {law:.2f})."
    )
    return result
