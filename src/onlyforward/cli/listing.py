"""`onlyforward bench list`: every benchmark, what it claims, and which of its peers are installed."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from onlyforward.run.application import Benchmark, applications
from onlyforward.run.context import Common, Context
from onlyforward.run.result import Result


@dataclass(frozen=True, kw_only=True)
class Listing(Common):
    """List every benchmark: claim, command, peers installed or not."""


def everything() -> dict[str, Benchmark]:
    """The platform's benchmarks and those of the applications."""
    from onlyforward.cli.bench import PLATFORM

    found = dict(PLATFORM)
    for application in applications().values():
        found |= application.benches
    return found


def run(options: Listing, context: Context) -> Result:
    """One row a benchmark; metric `benchmarks`."""
    result = context.result(question="Which benchmarks are there?")
    rows = []
    for name, bench in everything().items():
        peers = [f"{peer} ({'installed' if find_spec(peer) else 'not installed'})" for peer in bench.peers]
        rows.append([name, bench.claim, f"onlyforward bench {name}", ", ".join(peers)])
    result.metric("benchmarks", len(rows))
    result.table("Benchmarks", ["name", "claim", "command", "peers"], rows)
    result.answer = f"{len(rows)} benchmarks."
    return result
