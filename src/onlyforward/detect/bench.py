"""`onlyforward bench quantum`: engine, detectors, thresholds, devices and gradients, each beside its peers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from onlyforward.detect import bench_device, bench_engine, bench_gradients, bench_images, bench_tables
from onlyforward.detect.command import BenchQuantum
from onlyforward.detect.verdict import HONEST
from onlyforward.run.benchmark import run_cases

if TYPE_CHECKING:
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result

CASES = {
    "engine": bench_engine.engine,
    "digits": bench_images.digits,
    "threshold": bench_tables.thresholds,
    "tabular": bench_tables.tabular,
    "mnist": bench_images.mnist,
    "fashion": bench_images.fashion,
    "paper": bench_images.paper,
    "device": bench_device.device,
    "gradients": bench_gradients.gradients,
    "scaling": bench_engine.scaling,
}


def run(options: BenchQuantum, context: Context) -> Result:
    """Run the chosen cases."""
    torch.set_num_threads(options.threads)
    result = run_cases(options, context, CASES)  # type: ignore[arg-type]
    if "device_cpu_seconds" in result.metrics:
        # The target is of CPU seconds: wall time says how busy the machine was.
        result.metric("device_seconds", result.metrics["device_cpu_seconds"] or 0.0, timing=True)
    result.answer = " ".join([*result.notes, HONEST])
    return result
