"""Metrics and the table of arms that every tuning command reports."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from onlyforward.core.errors import UsageError
from onlyforward.tune.peers import ALLOCATORS, LABELS
from onlyforward.tune.study import Run, interval, of_arm

if TYPE_CHECKING:
    from onlyforward.run.result import Result
    from onlyforward.tune.command import Arms


def arms_of(options: Arms) -> list[str]:
    """The headline arm and those it is compared with, in order, each once."""
    named = [options.allocator, *(word.strip() for word in options.compare.split(",") if word.strip())]
    return list(dict.fromkeys(named))


def sigma_of(options: Arms) -> float | None:
    """The noise level of a command line; None is the task's own.

    Raises:
        UsageError: neither a number nor auto.
    """
    if options.sigma == "auto":
        return None
    try:
        return float(options.sigma)
    except ValueError:
        raise UsageError(f"--sigma is {options.sigma!r}", "Give a number, or auto") from None


def tag(arm: str) -> str:
    """An arm's name in metrics."""
    return arm.replace("-", "_")


def report(
    options: Arms, result: Result, runs: Sequence[Run], *, headline: str, missing: Sequence[str], note: str = ""
) -> Result:
    """Fill metrics, the table of arms, the curve of validation, and the answer."""
    main = of_arm(runs, headline)
    for name, values in (
        ("accuracy_before", [run.before for run in main]),
        ("accuracy", [run.accuracy for run in main]),
        ("gain", [run.accuracy - run.before for run in main]),
        ("validation_accuracy", [run.validation for run in main]),
        ("queries", [float(run.queries) for run in main]),
        ("expected_gain", [run.expected_gain for run in main]),
    ):
        mean, half = interval(values)
        result.metric(name, mean)
        result.metric(f"{name}_ci", half)
    result.metric("worst_accuracy", min(run.accuracy for run in main))
    budget = getattr(options, "budget", None)
    result.metric("budget", budget if budget is not None else round(result.metrics["queries"] or 0))
    result.metric("steps", statistics.fmean(run.steps for run in main))
    result.metric("kept_start", statistics.fmean(float(run.kept_start) for run in main))
    result.metric("seconds", statistics.fmean(run.seconds for run in main), timing=True)
    for arm in dict.fromkeys(run.arm for run in runs):
        if arm != headline:
            result.metric(f"{tag(arm)}_accuracy", statistics.fmean(run.accuracy for run in of_arm(runs, arm)))
            result.metric(f"{tag(arm)}_queries", statistics.fmean(run.queries for run in of_arm(runs, arm)))
    result.table(
        f"{len(main)} split{'s' if len(main) != 1 else ''} of {options.shots} shots per class"
        + (f", {budget} queries each" if budget is not None else ""),
        ["arm", "before", "accuracy", "+-", "gain", "worst", "validation", "queries", "kept the start", "time [s]"],
        [*rows(runs), *[[LABELS.get(arm, arm), reason(arm), "", "", "", "", "", "", "", ""] for arm in missing]],
        f"{verdict(runs, headline)} {note}".strip(),
    )
    for record in main[:1]:
        if record.history:
            result.curve(
                "Validation loss over queries", headline,
                [h["queries"] for h in record.history], [h["loss"] for h in record.history],
                x_label="queries", y_label="mean loss of the validation shots",
            )  # fmt: skip
    before, after = result.metrics["accuracy_before"], result.metrics["accuracy"]
    result.answer = (
        f"{LABELS.get(headline, headline)}: accuracy {before:.3f} before, {after:.3f} after "
        f"{result.metrics['queries']:.0f} queries and no gradient."
    )
    return result


def reason(arm: str) -> str:
    """Why an arm has no figures."""
    return "no gradient" if arm == "bp" else "not installed"


def rows(runs: Sequence[Run]) -> list[list[Any]]:
    """One row an arm."""
    made = []
    for arm in dict.fromkeys(run.arm for run in runs):
        own = of_arm(runs, arm)
        mean, half = interval([run.accuracy for run in own])
        before = statistics.fmean(run.before for run in own)
        made.append(
            [
                LABELS.get(arm, arm), before, mean, half, mean - before, min(run.accuracy for run in own),
                statistics.fmean(run.validation for run in own), statistics.fmean(run.queries for run in own),
                f"{sum(run.kept_start for run in own)} of {len(own)}",
                statistics.fmean(run.seconds for run in own),
            ]
        )  # fmt: skip
    return made


def verdict(runs: Sequence[Run], headline: str) -> str:
    """What the comparison with uniform counts and with the best arm says, in words."""
    main = of_arm(runs, headline)
    parts = []
    flat = of_arm(runs, "uniform")
    if flat and headline in ALLOCATORS and headline != "uniform" and len(flat) == len(main):
        mean, half = interval([a.accuracy - b.accuracy for a, b in zip(main, flat, strict=True)])
        gain = statistics.fmean(run.expected_gain for run in main)
        if abs(mean) > half > 0:
            word = "gains" if mean > 0 else "loses"
            parts.append(f"Allocation {word} {abs(mean):.3f} +- {half:.3f} in accuracy against uniform counts.")
        else:
            parts.append(
                f"Same accuracy as uniform counts ({mean:+.3f} +- {half:.3f}); predicted variance {gain:.2f} x lower."
            )
    means = {arm: statistics.fmean(r.accuracy for r in of_arm(runs, arm)) for arm in dict.fromkeys(r.arm for r in runs)}
    best = max(means, key=lambda arm: means[arm])
    if best != headline and means[best] > means[headline]:
        parts.append(f"{LABELS.get(best, best)} is ahead by {means[best] - means[headline]:.3f}.")
    return " ".join(parts)
