"""Gradients of the angles from measured features alone, all through the core's one loop.

dL/dtheta = mean_b g_b . J_b. The slope g and the perturbed features must come from different shots, or E[g . J] is
biased; so g has a run of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from onlyforward.core.checks import check_choice
from onlyforward.core.errors import UsageError
from onlyforward.core.estimate import gradient
from onlyforward.core.keys import Key
from onlyforward.core.perturb.coordinates import Coordinates
from onlyforward.core.perturb.parameters import Parameters
from onlyforward.core.weigh.antithetic import Antithetic
from onlyforward.detect.ansatz import Ansatz
from onlyforward.detect.backends import Backend
from onlyforward.detect.objective import Objective

METHODS = ("parameter_shift", "random_shift", "likelihood_ratio", "likelihood_ratio_scalar", "spsa")


@dataclass(frozen=True)
class Plan:
    """One way to estimate the gradient.

    Attributes:
        method: one of METHODS.
        copies: K antithetic pairs, or the m axes of random_shift.
        shots: shots per job, None for exact features.
        noise: kind of direction of the likelihood ratio. Hadamard: the pairs of a row are orthogonal, and with K = P
            of them no error of the directions is left.
    """

    method: str
    copies: int
    shots: int | None
    noise: str = "hadamard"

    def jobs(self, b: int, ansatz: Ansatz) -> int:
        """Jobs per step on b rows."""
        runs = {
            "parameter_shift": 2 * ansatz.occurrences + 1,
            "random_shift": 2 * self.copies + 1,
            "likelihood_ratio": 2 * self.copies + 1,
            "likelihood_ratio_scalar": 2 * self.copies,
            "spsa": 2 * self.copies,
        }
        return b * runs[self.method]


def choose_plan(
    method: str,
    ansatz: Ansatz,
    *,
    copies: int,
    shots: int | None,
    rows: int,
    max_shots: int | None,
    max_jobs: int | None,
) -> Plan:
    """Resolve "auto": the shift rule where the budget per row allows it, else random axes, else few random directions.

    Args:
        method: auto or one of METHODS.
        ansatz: the circuit.
        copies: K or m.
        shots: shots per job.
        rows: rows visited in the whole training (epochs x N).
        max_shots: budget of shots.
        max_jobs: budget of jobs.
    """
    if method != "auto":
        check_choice(method, METHODS, name="gradient")
        if method == "random_shift" and copies > ansatz.occurrences:
            raise UsageError(f"copies is {copies} for {ansatz.occurrences} rotations", "Give fewer axes per row")
        return Plan(method, copies, shots)
    budget = math.inf
    if max_shots is not None and shots is not None:
        budget = max_shots / shots / rows
    if max_jobs is not None and max_jobs / rows < min(budget, 6):
        return Plan("likelihood_ratio", 2 if max_jobs / rows >= 5 else 1, shots)
    if 2 * ansatz.occurrences + 1 <= budget:
        return Plan("parameter_shift", ansatz.occurrences, shots)
    axes = int((budget - 1) // 2)
    return (
        Plan("random_shift", min(axes, ansatz.occurrences), shots) if axes >= 1 else Plan("likelihood_ratio", 1, shots)
    )


def step_size(parameters: int) -> float:
    """H = min(0.2, sqrt(0.6 / P)): a term of trigonometric order k is damped by exp(-k h^2 / 2)."""
    return min(0.2, math.sqrt(0.6 / parameters))


def estimate(
    plan: Plan, backend: Backend, ansatz: Ansatz, psi: Tensor, theta: Tensor, objective: Objective, key: Key
) -> tuple[Tensor, Tensor]:
    """The estimated gradient [P] of the mean loss over the rows, and an estimate of that loss.

    Args:
        plan: method, copies, shots.
        backend: where circuits run.
        ansatz: the circuit.
        psi: [b, 2^n].
        theta: [P].
        objective: the loss.
        key: coordinates of this step.
    """
    b = len(psi)
    shots, latent = plan.shots, objective.latent
    scalar = plan.method in ("likelihood_ratio_scalar", "spsa")
    if not scalar:
        first, _ = backend.expect_features(psi, theta, shots=shots, key=key.at(site="slope"), latent=latent)
        first = first.to(theta)
        slope = objective.slope(first) / b

    def run(params: Mapping[str, Tensor], at: Key) -> Tensor:
        angles = params["theta"]
        copies = angles.shape[0]
        each = angles if angles.ndim == 3 else angles[:, None, :].expand(copies, b, -1)
        rows = psi.repeat(copies, 1)
        found, _ = backend.expect_features(
            rows, each.reshape(copies * b, -1), shots=shots, key=at.at(site="features"), latent=latent
        )
        f = found.reshape(copies, b, -1).to(theta)
        if not scalar:
            return (slope * f).sum(-1)
        distance = (f - objective.center).square().sum(-1)
        if shots is not None:
            distance = distance - (1 - f.square()).sum(-1) / (shots - 1)
        return objective.loss(distance) / b

    if plan.method in ("parameter_shift", "random_shift"):
        # A shared angle is shifted at each of its occurrences; shifting all of them at once would be wrong.
        axes = None if plan.method == "parameter_shift" else plan.copies
        perturb: Coordinates | Parameters = Coordinates(
            shift=math.pi / 2, scale=0.5, choose=axes, per="datum", batched=True, data=b
        )
        made = gradient(run, {"theta": ansatz.expand(theta)}, perturb=perturb, weigh=Antithetic(), key=key, copies=2)
        value = ansatz.fold(made.value["theta"])
    else:
        shared = plan.method == "spsa"
        perturb = Parameters(
            noise="rademacher" if shared else plan.noise,
            sigma=step_size(ansatz.parameters),
            antithetic=True,
            per="batch" if shared else "datum",
            batched=True,
            data=b,
        )
        made = gradient(run, {"theta": theta}, perturb=perturb, weigh=Antithetic(), key=key, copies=2 * plan.copies)
        value = made.value["theta"]
    loss = made.signal[next(iter(made.signal))].mean(0).sum() if scalar else objective.of(first).mean()
    return value, loss.detach()
