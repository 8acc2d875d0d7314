"""`onlyforward bench flops`: the cases by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from onlyforward.run.benchmark import BenchOptions, Case, run_cases
from onlyforward.tune import bench_align, bench_overhead, bench_text, bench_variance, bench_vision, bench_vit

if TYPE_CHECKING:
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result

CASES: Mapping[str, Case] = {
    "allocate": bench_variance.allocate,
    "empirical": bench_variance.empirical,
    "bias": bench_variance.bias,
    "shared": bench_variance.shared,
    "overhead": bench_overhead.overhead,
    "settings": bench_vision.settings,
    "vision": bench_vision.vision,
    "imagenet": bench_vision.imagenet,
    "text": bench_text.text,
    "words": bench_text.words,
    "align": bench_align.align,
    "vit": bench_vit.vit,
}


def run(options: BenchOptions, context: Context) -> Result:
    """The chosen cases."""
    result = run_cases(options, context, CASES)
    result.answer = result.answer or "The notes below the tables say what is ahead and what ties."
    return result
