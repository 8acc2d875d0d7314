"""The benchmarks of the platform itself; those of the applications stand in their APPLICATION."""

from __future__ import annotations

from onlyforward.run.application import Benchmark

PLATFORM: dict[str, Benchmark] = {
    "laws": Benchmark(
        "Every estimator obeys the laws, and the laws catch wrong estimators.",
        "onlyforward.testing.laws:Laws",
        "onlyforward.testing.laws:run",
    ),
}
