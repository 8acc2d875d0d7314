"""Options of the `schedule` commands; the work is imported when it runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from onlyforward.core.errors import UsageError
from onlyforward.run.application import Demo
from onlyforward.run.benchmark import BenchOptions
from onlyforward.run.bounds import Count, Natural, NotNegative, Within
from onlyforward.run.context import Common

if TYPE_CHECKING:
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result

Time = Annotated[float, Within(-(2.0**62), 2.0**62)]


@dataclass(frozen=True, kw_only=True)
class Instances(Common):
    """Which instances are read, and under which objective."""

    files: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Files, or a folder with --pattern."""
    format: str = ""
    """csv, orlib, geiger, json or npz (default: by name and content)."""
    index: Natural = 0
    """Instance of a file that holds many, from 1."""
    all: bool = False
    """Every instance of every file."""
    n: Natural = 0
    """Jobs per instance of an orlib file (default: the digits of its name)."""
    every: Count = 1
    """With --all: only every so many instances, from the first."""
    pattern: str = ""
    """File name pattern inside folders, such as 'wt_1000_*.txt'."""
    objective: str = ""
    """Cost family (default: the file's own, or weighted-tardiness)."""
    optima: tuple[Path, ...] = ()
    """Files of known optima, paired with the instance files in order."""


@dataclass(frozen=True, kw_only=True)
class Solve(Instances):
    """Find an order, a Gantt chart and a certified bound on how far from optimal the order can be."""

    stop_at_optima: bool = False
    """Stop an instance as soon as its known optimum is reached."""
    time_limit: NotNegative = 5.0
    """Seconds per instance, compilation left out."""
    iterations: Natural = 0
    """Kicks of the search; makes the result independent of the clock (0: the time decides)."""
    gap_limit: NotNegative = 0.0
    """Stop at this certified gap, a fraction."""
    initial: Path | None = None
    """Plan to begin with; jobs it lacks are inserted greedily."""
    fixed: str = ""
    """Names of jobs that keep the first positions, comma-separated, in this order."""
    now: Time = 0.0
    """Nothing but the fixed jobs starts earlier."""
    start: Literal["auto", "rules", "edd", "network", "surrogate"] = "auto"
    """Where the search begins."""
    online: Literal["auto", "off", "surrogate", "lr", "control", "plackett-luce"] = "auto"
    """Gradient of the learned starts (auto: surrogate at n > 200, off below)."""
    learn: Literal["locations", "logits", "weights"] = "locations"
    """What online learning moves: a location per job, free logits, or the network's weights."""
    network: str = "default"
    """Start network: the shipped one, or a file that schedule train --weights wrote."""
    search: Literal["auto", "none", "descent", "iterated"] = "auto"
    """How far the search goes."""
    span: Annotated[int, Within(-1)] = -1
    """Longest move in positions; 0 is full (default: 60 with releases, full without)."""
    bound: Literal["auto", "on", "off"] = "auto"
    """Certified lower bound beside the search (auto: on, and off with --all)."""
    prove: bool = False
    """At n <= 60 let CP-SAT close what is left of the gap, after the time limit."""
    workers: Count = 1
    """Instances that are solved at once with --all."""
    plan: Path | None = None
    """Write the plan as CSV."""
    gantt: Path | None = None
    """Write the Gantt chart as SVG."""
    explain: str = ""
    """Name of a job: why it costs what it costs."""
    certificate: Path | None = None
    """Write the certificate as JSON."""


@dataclass(frozen=True, kw_only=True)
class Bound(Instances):
    """Prove a lower bound."""

    time_limit: NotNegative = 2.0
    """Seconds per instance, a third of which finds an incumbent."""
    K: Natural = 0
    """Number of price buckets (default: 400, up to 512 at n <= 100)."""
    certificate: Path | None = None
    """Write the certificate as JSON."""


@dataclass(frozen=True, kw_only=True)
class Verify(Instances):
    """Re-check a plan and a certificate in plain Python integers."""

    plan: Path | None = None
    """The plan, as CSV."""
    certificate: Path | None = None
    """The certificate, as JSON."""


@dataclass(frozen=True, kw_only=True)
class Train(Common):
    """Train the start network on generated instances; `onlyforward resume DIR` continues."""

    steps: Count = 400
    """Optimiser steps."""
    n_max: Count = 200
    """Jobs of the largest training instance."""
    windows: Count = 128
    """Start windows of the output."""
    labels: str = "special,search"
    """special (optimum by construction), search (random instances with a searched order), or both."""
    loss: str = "ce,surrogate"
    """ce (cross-entropy with the label), surrogate (expected cost), or both."""
    weights: Path | None = None
    """Where the safetensors file goes, with its JSON beside it (also in --out)."""
    minutes: NotNegative = 0.0
    """Stop after so long (0: never); the result then depends on the machine."""


@dataclass(frozen=True, kw_only=True)
class Generate(Common):
    """Write instances: wt, release, certified, certified-wt, blocks or plant."""

    kind: tyro.conf.Positional[str] = "wt"
    """wt and release: random; certified, certified-wt and blocks: with known optimum; plant: real due dates."""
    n: Count = 100
    """Jobs per instance."""
    count: Count = 10
    """Instances."""
    to: Path = Path("instances")
    """Folder."""


@dataclass(frozen=True, kw_only=True)
class Bench(BenchOptions):
    """Ours beside CP-SAT, PyJobShop and the rules: quality, certificates, learned starts, gradients, speed."""

    time_limit: float = 0.0
    """Seconds per instance (default: the case's own)."""
    clock: Literal["wall", "cpu"] = "wall"
    """What the seconds of the cases optima, large, long, bound, learned and families are: of the wall, or of the
    processor, all threads together, where other work shares the machine. Peers and release are always wall time."""
    files: Path | None = None
    """Folder of instances for the cases peers and release."""
    objective: str = ""
    """Cost family for the cases peers and release."""


DEMO = Demo(options=Solve(all=False, time_limit=3.0), targets={"schedule_gap": ("<=", 0.02)})


def run(options: Any, context: Context) -> Result:
    """Run one subcommand."""
    if isinstance(options, Verify):
        from onlyforward.schedule.verify import verify

        return verify(options, context)
    if isinstance(options, Generate):
        from onlyforward.schedule.generate import generate

        return generate(options, context)
    if isinstance(options, Train):
        from onlyforward.schedule.train import train

        return train(options, context)
    if isinstance(options, Solve) and not options.files:
        from onlyforward.schedule.demo import demo

        return demo(options, context)
    if not options.files:
        raise UsageError("schedule bound needs an instance", "Give a file or a folder of files")
    from onlyforward.schedule import batch, single

    many = options.all or len(options.files) > 1 or options.files[0].is_dir()
    return batch.run(options, context) if many else single.run(options, context)
