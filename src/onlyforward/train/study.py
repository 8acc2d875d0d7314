"""Arms of a benchmark side by side: the same data, order, optimiser and epochs, several seeds, mean and spread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onlyforward.core.errors import MissingExtra
from onlyforward.data.nets import build, preset
from onlyforward.run.benchmark import seeds
from onlyforward.train.fit import Chosen, trained
from onlyforward.train.loop import preset_schedule
from onlyforward.train.methods import LIKELIHOOD_RATIOS, Settings, cost, make_method

if TYPE_CHECKING:
    from torch import nn

    from onlyforward.data.sets import Dataset
    from onlyforward.run.benchmark import BenchOptions
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result

OWN = ("sigma", "noise", "visits", "baseline", "pairing", "plan")
"""What of a preset belongs to the likelihood ratio alone."""


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        method: name in `methods`.
        settings: fields of `Settings` that differ from the preset's.
        schedule: fields of `Schedule` that differ from the preset's.
        change: applied to the fresh network before training.
        loss: ce, zero-one or mse.
        note: for the table.
    """

    method: str
    settings: Mapping[str, Any]
    schedule: Mapping[str, Any]
    change: Callable[[nn.Module], Any] | None = None
    loss: str = "ce"
    note: str = ""


def arm(
    method: str,
    *,
    schedule: Mapping[str, Any] | None = None,
    change: Any = None,
    loss: str = "ce",
    note: str = "",
    **settings: Any,
) -> Arm:
    """An arm from keywords: those left over are fields of `Settings`."""
    return Arm(method, settings, schedule or {}, change, loss, note)


@dataclass(frozen=True)
class Finding:
    """What the seeds of one arm came to.

    Attributes:
        accuracies: on the test part, per seed.
        seconds: of training, per seed.
        step_ms: median milliseconds of a step.
        forwards: full forward runs per step.
    """

    accuracies: tuple[float, ...]
    seconds: tuple[float, ...]
    step_ms: float
    forwards: float

    @property
    def mean(self) -> float:
        """Mean accuracy."""
        return statistics.fmean(self.accuracies)

    @property
    def std(self) -> float:
        """Standard deviation over the seeds; 0 for one seed."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else 0.0


def train_arm(arm: Arm, model: str, data: Dataset, seed: int) -> tuple[float, float, float, float]:
    """Accuracy, seconds, step milliseconds and forwards per step of one seed."""
    net = build(model, data, seed=seed)
    if arm.change is not None:
        arm.change(net)
    base = preset(model, data.name, loss=arm.loss)
    own = {name: getattr(base, name) for name in OWN} if arm.method in LIKELIHOOD_RATIOS else {}
    settings = Settings(**{"copies": base.copies, "seed": seed, **own, **arm.settings})
    method = make_method(arm.method, net, settings)
    begin = time.perf_counter()
    chosen = Chosen(settings, preset_schedule(base, **arm.schedule))
    outcome = trained(net, method, data, chosen, loss=arm.loss, seed=seed)
    return outcome.accuracy, time.perf_counter() - begin, outcome.course.step_ms, cost(method)[0]


def compare(
    options: BenchOptions,
    context: Context,
    result: Result,
    case: str,
    model: str,
    data: Dataset,
    arms: Mapping[str, Arm],
    *,
    note: str = "",
) -> dict[str, Finding]:
    """Train every arm with every seed; metrics `<case>_<arm>_{accuracy,std,seconds}` and one table.

    A peer that is not installed is listed as such and never counted.
    """
    prefix = case.replace("-", "_")
    found: dict[str, Finding] = {}
    rows: list[list[Any]] = []
    missing: list[list[Any]] = []
    with context.progress(len(arms) * len(seeds(options)), label=case) as tick:
        for name, one in arms.items():
            try:
                runs = []
                for seed in seeds(options):
                    runs.append(train_arm(one, model, data, seed))
                    tick(accuracy=runs[-1][0])
            except MissingExtra:
                missing.append([name, "not installed", "", "", "", "", one.note])
                continue
            finding = Finding(
                tuple(r[0] for r in runs), tuple(r[1] for r in runs), statistics.median(r[2] for r in runs), runs[0][3]
            )
            found[name] = finding
            result.metric(f"{prefix}_{name}_accuracy", finding.mean)
            result.metric(f"{prefix}_{name}_std", finding.std)
            result.metric(f"{prefix}_{name}_seconds", statistics.fmean(finding.seconds), timing=True)
            context.say(f"{case} {name}: {finding.mean:.4f} +- {finding.std:.4f}")
    reference = found["bp"].step_ms if "bp" in found else 0.0
    for name, finding in found.items():
        ratio = finding.step_ms / reference if reference else float("nan")
        rows.append([name, finding.mean, finding.std, finding.forwards, finding.step_ms, ratio, arms[name].note])
    result.table(
        f"{case}: {model} on {data.name}, {len(seeds(options))} seeds",
        ["arm", "test accuracy", "std", "forward runs per step", "step [ms]", "over backpropagation [ms/ms]", "note"],
        rows + missing,
        note or "Same data order, optimiser, batch and epochs for every arm.",
    )
    return found
