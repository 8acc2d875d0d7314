"""The seven laws of a perturbation. Each function raises AssertionError that begins with the law's name."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from onlyforward.core.estimate import gradient
from onlyforward.core.keys import Key
from onlyforward.core.params import digest
from onlyforward.core.sums import exact_sum
from onlyforward.core.weigh.baselines import Mean
from onlyforward.testing.problems import Problem, fixed, quadratic

ESTIMATES = 500
"""Independent estimates behind a statistical law."""


def probe_of(perturbation: Any, problem: Problem, key: Key, copies: int) -> Any:
    """The only probe of a member on its problem."""
    (probe,) = perturbation.probes(problem.run, problem.params, key=key, copies=copies)
    return probe


def check_perturbation(
    perturbation: Any, problem: Problem | None = None, *, copies: int = 8, random: bool = True
) -> float:
    """Run every law; returns the largest |z| of the statistical ones.

    Args:
        perturbation: the member.
        problem: whose exact gradient it must find; by default a quadratic of two tensors, the same for every sigma.
        copies: n of one estimate.
        random: False for rules without noise.

    Raises:
        AssertionError: naming the law that is broken.
    """
    problem = quadratic() if problem is None else problem
    check_linear(perturbation, problem, copies=copies)
    check_replayed(perturbation, problem, copies=copies)
    check_chunk_stable(perturbation, problem, copies=copies)
    check_frugal(perturbation, problem, copies=copies)
    z = check_right(perturbation, problem, copies=copies, random=random)
    return max(z, check_centred(perturbation, problem, copies=copies) if random else 0.0)


def check_linear(perturbation: Any, problem: Problem, *, copies: int) -> None:
    """Linear: pull(a u + b v) = a pull(u) + b pull(v) to 1e-10."""
    probe = probe_of(perturbation, problem, Key(site="linear"), copies)
    u, v = fixed(*probe.signal.shape, seed=21), fixed(*probe.signal.shape, seed=22)
    together, left, right = probe.pull(2.0 * u - 0.5 * v), probe.pull(u), probe.pull(v)
    for name, value in together.items():
        gap = float((value - (2.0 * left[name] - 0.5 * right[name])).abs().max())
        assert gap <= 1e-10, f"linear: pull(2u - v/2) differs by {gap:.1e} in {name}"


def check_replayed(perturbation: Any, problem: Problem, *, copies: int) -> None:
    """Stored = replayed: the same probe pulls the same bits twice, and a fresh probe of the same key the same again."""
    key = Key(site="replayed")
    probe = probe_of(perturbation, problem, key, copies)
    weight = fixed(*probe.signal.shape, seed=23)
    first = digest(probe.pull(weight))
    again = probe_of(perturbation, problem, key, copies)
    assert first == digest(probe.pull(weight)), "replayed: two pulls of one probe differ"
    assert first == digest(again.pull(weight)), "replayed: two probes of one key differ"
    assert torch.equal(probe.signal, again.signal), "replayed: the signals of one key differ"
    other = probe_of(perturbation, problem, key.at(step=1), copies)
    site = probe_of(perturbation, problem, key.at(site="elsewhere"), copies)
    for name, probe_of_other in (("step", other), ("site", site)):
        same = torch.equal(probe.signal, probe_of_other.signal)
        assert not same or not random_signals(perturbation), f"replayed: another {name} gives the same signal"


def random_signals(perturbation: Any) -> bool:
    """Whether the perturbation draws noise at all."""
    return type(perturbation).__name__ != "Coordinates"


def check_chunk_stable(perturbation: Any, problem: Problem, *, copies: int) -> None:
    """Chunk-stable: pulls of any partition of the copies add up, in any order, to the same bits."""
    probe = probe_of(perturbation, problem, Key(site="chunks"), copies)
    weight = fixed(*probe.signal.shape, seed=24)
    rows = torch.arange(len(weight))
    chunks = [probe.pull(torch.where(((rows // 2) == c)[:, None], weight, 0.0)) for c in range(-(-len(weight) // 2))]
    forward, backward = exact_sum(chunks), exact_sum(chunks[::-1])
    assert digest(forward) == digest(backward), "chunk-stable: the order of chunks changes bits"
    whole = probe.pull(weight)
    for name, value in whole.items():
        gap = float((value - forward[name]).abs().max())
        assert gap <= 1e-9, f"chunk-stable: chunks add up to something else in {name}, by {gap:.1e}"


def check_frugal(perturbation: Any, problem: Problem, *, copies: int) -> None:
    """Frugal: `runs` equals the runs that were made."""
    before = problem.runs
    probe = probe_of(perturbation, problem, Key(site="frugal"), copies)
    made = problem.runs - before
    batched = getattr(perturbation, "batched", False) or type(perturbation).__name__ == "Inputs"
    assert made == probe.runs or (batched and probe.runs == copies), f"frugal: {made} runs made, {probe.runs} reported"
    assert made > 0, "frugal: nothing was run"


def check_right(perturbation: Any, problem: Problem, *, copies: int, random: bool = True) -> float:
    """Right: the mean of many estimates is the exact gradient, within 4.5 standard errors (or 1e-9 without noise)."""
    count = ESTIMATES if random else 2
    drawn: list[Mapping[str, Tensor]] = []
    for step in range(count):
        estimate = gradient(
            problem.run,
            problem.params,
            perturb=perturbation,
            weigh=Mean(),
            key=Key(step=step, site="right"),
            copies=copies,
        )
        drawn.append(estimate.value)
    if random:
        return worst_z(drawn, problem.exact, "right")
    gap = max(float((drawn[0][name] - value).abs().max()) for name, value in problem.exact.items())
    assert gap <= 1e-9, f"right: the rule misses the exact gradient by {gap:.1e}"
    return 0.0


def check_centred(perturbation: Any, problem: Problem, *, copies: int) -> float:
    """Centred: the mean of pull(1/n) is 0, within 4.5 standard errors."""
    drawn = []
    for step in range(ESTIMATES):
        probe = probe_of(perturbation, problem, Key(step=step, site="centred"), copies)
        drawn.append(probe.pull(torch.full_like(probe.signal, 1 / probe.signal.shape[0])))
    return worst_z(drawn, {name: torch.zeros_like(value) for name, value in drawn[0].items()}, "centred")


def worst_z(drawn: list[Mapping[str, Tensor]], exact: Mapping[str, Tensor], law: str) -> float:
    """Largest |mean - exact| in standard errors over all coordinates."""
    worst = 0.0
    for name, truth in exact.items():
        values = torch.stack([value[name] for value in drawn])
        error = values.std(0) / math.sqrt(len(drawn))
        gap = (values.mean(0) - truth).abs()
        # A direction set that cancels exactly has no spread; rounding is then the only tolerance.
        z = torch.where(error > 1e-12, gap / error.clamp(min=1e-12), torch.where(gap < 1e-9, 0.0, math.inf))
        worst = max(worst, float(z.max()))
        assert worst <= 4.5, f"{law}: {name} is {worst:.1f} standard errors from the truth"
    return worst


def check_pure(digests: Mapping[str, str]) -> None:
    """Pure: another process computes the same bits from the same key."""
    code = "import json; from onlyforward.testing.perturbations import all_digests; print(json.dumps(all_digests()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
    there = json.loads(done.stdout)
    for name, value in digests.items():
        assert there[name] == value, f"pure: {name} has other bits in another process"


def all_digests() -> dict[str, str]:
    """Digest of one estimate of every member."""
    from onlyforward.testing.members import PERTURBATIONS

    found = {}
    for member in PERTURBATIONS:
        problem = member.problem()
        estimate = gradient(
            problem.run,
            problem.params,
            perturb=member.perturbation,
            weigh=Mean(),
            key=Key(site="pure"),
            copies=member.copies,
        )
        found[member.name] = digest(estimate.value)
    return found
