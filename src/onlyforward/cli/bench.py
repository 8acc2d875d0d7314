"""The benchmarks of the platform itself; those of the applications stand in their APPLICATION."""

from __future__ import annotations

from onlyforward.run.application import Benchmark

PLATFORM: dict[str, Benchmark] = {}
