"""The benchmarks of the platform itself; those of the applications stand in their APPLICATION."""

from __future__ import annotations

from onlyforward.run.application import Benchmark

PLATFORM: dict[str, Benchmark] = {
    "list": Benchmark(
        "Every benchmark, its command and its peers.", "onlyforward.cli.listing:Listing", "onlyforward.cli.listing:run"
    ),
    "laws": Benchmark(
        "Every estimator obeys the laws, and the laws catch wrong estimators.",
        "onlyforward.testing.laws:Laws",
        "onlyforward.testing.laws:run",
    ),
    "startup": Benchmark(
        "Help, errors and doctor answer in half a CPU second and import nothing heavy.",
        "onlyforward.cli.startup:Startup",
        "onlyforward.cli.startup:run",
    ),
}
