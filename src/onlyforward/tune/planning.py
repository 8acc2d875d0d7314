"""`tune plan`: divide a budget over anybody's own items by their losses or noise; nothing is run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from onlyforward.core.allocate.plan import Features, usable
from onlyforward.core.checks import check_range, require
from onlyforward.core.errors import FileError, UsageError
from onlyforward.core.keys import Key
from onlyforward.tune.peers import make_allocator

if TYPE_CHECKING:
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result
    from onlyforward.tune.command import Plan

ROWS = 200
"""Most rows of the table; all counts stand in the artefact."""


def numbers(path: Path) -> Tensor:
    """One number a line of a CSV or text file, or a one-dimensional NPY: [items], float64.

    Raises:
        FileError: missing, broken, or a line that is no number; the line is named.
    """
    if not path.is_file():
        raise FileError(f"There is no file {path}", "Give --losses FILE.npy or FILE.csv")
    if path.suffix == ".npy":
        numpy = require("numpy", "data")
        try:
            array = numpy.load(path, allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise FileError(f"{path} is no array of numbers: {error}", "Save it with numpy.save") from error
        if array.ndim != 1 or array.dtype.kind not in "fiu" or not len(array):
            raise FileError(f"{path} holds {array.dtype} of shape {list(array.shape)}", "Give one number per item")
        return torch.from_numpy(array.astype("float64"))
    found: list[float] = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{path} cannot be read: {error}", "Give UTF-8 text with a number a line") from error
    for number, line in enumerate(lines, start=1):
        text = line.split(",")[-1].strip()
        try:
            found.append(float(text))
        except ValueError:
            if number == 1 and text:  # a heading
                continue
            raise FileError(
                f"{path}: line {number} holds {text!r}, which is no number", "Give a number a line"
            ) from None
    if not found:
        raise FileError(f"{path} holds no number", "Give a number a line")
    return torch.tensor(found, dtype=torch.float64)


def plan(options: Plan, context: Context) -> Result:
    """Counts, weights and the expected gain."""
    if options.losses is None and options.residuals is None:
        raise UsageError("No losses are given", "Give --losses FILE, --residuals FILE or both")
    check_range(options.budget, name="--budget", low=1)
    loss = numbers(options.losses) if options.losses is not None else None
    residual = numbers(options.residuals) if options.residuals is not None else None
    if loss is not None and residual is not None and len(loss) != len(residual):
        raise UsageError(f"There are {len(loss)} losses and {len(residual)} residuals", "Give one of each per item")
    negative = loss is not None and bool((loss < 0).any())
    if negative:
        raise UsageError(f"Loss {int((loss < 0).nonzero()[0]) + 1} is negative", "Give losses of at least 0")
    proxy = options.proxy or ("residual" if residual is not None else "loss")
    allocator = make_allocator(options.allocator, proxy=proxy, key=Key(run=options.seed))
    features = Features(loss=loss, residual=residual, ids=torch.arange(len(loss if loss is not None else residual)))
    made = allocator.plan(options.budget, features)
    for _ in range(options.updates if options.allocator in ("gaussian", "bernoulli") else 0):
        made = allocator.plan(options.budget, features)
    counts = made.counts
    result = context.result(question=f"How should {options.budget} runs be divided over {len(counts)} items?")
    result.metric("expected_gain", made.expected_gain)
    result.metric("minimum", int(counts.min()))
    result.metric("maximum", int(counts.max()))
    result.metric("total", int(counts.sum()))
    result.metric("items", len(counts))
    result.artefacts = {"counts": counts}
    order = torch.argsort(counts, descending=True, stable=True)[:ROWS].tolist()
    rows = [
        [i, loss[i] if loss is not None else None, residual[i] if residual is not None else None, int(counts[i]),
         1.0 / (len(counts) * int(counts[i]))]
        for i in order
    ]  # fmt: skip
    note = "Weight each run of an item by 1 / (items x its runs): any other weights estimate another mean."
    if not usable(residual if residual is not None else loss):
        note = f"The features say nothing, so the plan is uniform. {note}"
    if len(counts) > ROWS:
        note = f"The {ROWS} items with most runs of {len(counts)}. {note}"
    result.table("Runs of each item", ["item", "loss", "residual", "runs", "weight of a run"], rows, note)
    result.answer = (
        f"{options.allocator} by {proxy}: {int(counts.min())} to {int(counts.max())} runs an item; if the proxy "
        f"is right, the variance of the mean is {made.expected_gain:.2f} times lower than with equal counts."
    )
    path = context.artefact("counts.csv")
    if path is not None:
        lines = [f"{i},{int(n)},{1.0 / (len(counts) * int(n))!r}" for i, n in enumerate(counts)]
        path.write_text("\n".join(["item,runs,weight", *lines]) + "\n", encoding="utf-8")
    return result
