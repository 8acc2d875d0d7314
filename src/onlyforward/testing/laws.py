"""`onlyforward bench laws`: every law over every member, and every sabotage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from onlyforward.run.context import Common, Context
from onlyforward.run.result import Result


@dataclass(frozen=True, kw_only=True)
class Laws(Common):
    """Hold every law against every member and every sabotage."""


def perturbation_laws(member: Any) -> float:
    """Every law of one perturbation."""
    from onlyforward.testing.perturbations import check_perturbation

    return check_perturbation(member.perturbation, member.problem(), copies=member.copies, random=member.random)


def weighting_laws(member: Any) -> float:
    """Every law of one weighting."""
    from onlyforward.testing.weightings import check_weighting

    return check_weighting(
        member.weighting, slope=member.slope, shift_invariant=member.shift_invariant, bias=member.bias
    )


def allocation_laws(allocation: Any) -> float:
    """Every law of one allocation."""
    from onlyforward.testing.allocations import check_allocation

    check_allocation(allocation)
    return 0.0


def purity() -> float:
    """One estimate of every perturbation, here and in another process."""
    from onlyforward.testing.perturbations import all_digests, check_pure

    check_pure(all_digests())
    return 0.0


def run(options: Laws, context: Context) -> Result:
    """Metrics members, checks, failures, sabotages, sabotages_caught and max_z."""
    from onlyforward.testing.members import ALLOCATIONS, PERTURBATIONS, WEIGHTINGS
    from onlyforward.testing.sabotage import SABOTAGES, caught

    result = context.result(question="Do all estimators obey the laws, and do the laws catch wrong estimators?")
    rows: list[list[object]] = []
    zs: list[float] = []
    checks: list[tuple[str, int, Callable[[], float]]] = []
    for member in PERTURBATIONS:
        checks.append((member.name, 6 if member.random else 5, partial(perturbation_laws, member)))
    for weighting in WEIGHTINGS:
        checks.append((weighting.name, 4, partial(weighting_laws, weighting)))
    for name, allocation in ALLOCATIONS:
        checks.append((name, 5, partial(allocation_laws, allocation)))
    checks.append(("all perturbations in another process", len(PERTURBATIONS), purity))
    failures = 0
    with context.progress(len(checks) + len(SABOTAGES), label="laws") as tick:
        for name, _, check in checks:
            try:
                zs.append(float(check()))
                rows.append([name, "holds", round(zs[-1], 2)])
            except AssertionError as error:
                failures += 1
                rows.append([name, str(error), None])
            tick()
        found = []
        for name in SABOTAGES:
            found.append([name, caught(name)])
            tick()
    count = sum(bool(message) for _, message in found)
    members = len(PERTURBATIONS) + len(WEIGHTINGS) + len(ALLOCATIONS)
    result.metric("members", members)
    result.metric("checks", sum(number for _, number, _ in checks))
    result.metric("failures", failures)
    result.metric("sabotages", len(SABOTAGES))
    result.metric("sabotages_caught", count)
    result.metric("max_z", max(zs, default=0.0))
    result.table("Laws", ["member", "outcome", "largest |z|"], rows)
    result.table("Sabotages", ["wrong member", "the law that catches it"], found)
    result.answer = (
        f"{members} members obey every law ({failures} failures); {count} of {len(SABOTAGES)} wrong members are caught."
    )
    return result
