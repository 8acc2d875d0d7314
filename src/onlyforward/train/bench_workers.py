"""Case `workers` of `onlyforward bench ulr`: one, two and three processes end in the same bits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from onlyforward.core.errors import EngineError
from onlyforward.data import nets
from onlyforward.data.sets import load

if TYPE_CHECKING:
    from onlyforward.run.benchmark import BenchOptions
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result

COPIES, EPOCHS = 32, 2


def workers(options: BenchOptions, context: Context, result: Result) -> None:
    """`train fit` on the digits MLP with 32 copies under 1, 2 and 3 workers: digests, traffic, accuracy, time."""
    model = nets.build("mlp", load("digits"))
    gradient_bytes = 4 * sum(p.numel() for p in model.parameters())
    found = {count: fitted(count) for count in (1, 2, 3)}
    digests = {run["digest48"] for run in found.values()}
    result.metric("workers_digest_equal", len(digests) == 1)
    result.metric("workers_digests", len(digests))
    rows = []
    for count, run in found.items():
        sent = run["exchanged_bytes_per_step"]
        result.metric(f"workers_{count}_bytes", sent)
        result.metric(f"workers_{count}_step_ms", run["step_ms"], timing=True)
        rows.append([count, f"{run['digest48']:x}", run["accuracy"], sent, sent / gradient_bytes, run["step_ms"]])
    result.metric("workers_bytes_ratio", found[2]["exchanged_bytes_per_step"] / gradient_bytes)
    result.metric("workers_gradient_bytes", gradient_bytes)
    result.table(
        f"Workers that exchange losses only (digits MLP, {COPIES} copies, {EPOCHS} epochs)",
        ["workers", "digest48", "accuracy", "bytes exchanged per step", "over the gradient's bytes", "step [ms]"],
        rows,
        "Each worker runs its share of a fixed list of chunks; all redo the same pull. The gradient's bytes are what "
        "data-parallel training would exchange. A site here is two chunks: a third worker has none and sends padding. "
        "On a network as small as this one, starting and waiting cost more time than two processors save.",
    )


def fitted(count: int) -> dict[str, Any]:
    """Metrics of one `train fit` with `count` workers, as a process of its own."""
    argv = [sys.executable, "-m", "onlyforward", "train", "fit", "--copies", str(COPIES), "--epochs", str(EPOCHS)]
    done = subprocess.run(  # noqa: S603  our own command
        [*argv, "--workers", str(count), "--json"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise EngineError(f"train fit with {count} workers failed: {done.stderr.strip()[-300:]}")
    return dict(json.loads(done.stdout)["metrics"])
