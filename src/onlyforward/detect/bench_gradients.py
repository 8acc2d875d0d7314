"""Case `gradients`: every estimator at equal shots against the exact gradient, jobs and shots counted twice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from onlyforward.core.keys import Key
from onlyforward.detect.ansatz import Ansatz
from onlyforward.detect.backends import Account, TorchBackend, as_rows
from onlyforward.detect.command import BenchQuantum
from onlyforward.detect.embed import fit_embedding
from onlyforward.detect.engine import Engine
from onlyforward.detect.gradients import Plan, estimate
from onlyforward.detect.objective import Objective, first_center
from onlyforward.detect.tasks import class_task, pool

if TYPE_CHECKING:
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result

BATCH, REPEATS = 20, 60
ARMS = {
    "shift": ("parameter_shift", 16),
    "random8": ("random_shift", 8),
    "lr_chain8": ("likelihood_ratio", 8),
    "lr_chain": ("likelihood_ratio", 16),
    "lr_scalar": ("likelihood_ratio_scalar", 16),
    "lr_scalar_gaussian": ("likelihood_ratio_scalar", 16),
    "spsa1": ("spsa", 1),
    "spsa": ("spsa", 16),
}
"""Arm -> method, copies: K pairs per row, or m axes; arms that end in _gaussian take independent directions."""


@dataclass(frozen=True)
class Problem:
    """A circuit in training whose gradient is known.

    Attributes:
        ansatz: 4 qubits, 16 angles.
        psi: [b, 16].
        theta: [P].
        objective: the loss.
        exact: [P], its gradient by autograd.
    """

    ansatz: Ansatz
    psi: Tensor
    theta: Tensor
    objective: Objective
    exact: Tensor


def problem(seed: int = 0) -> Problem:
    """20 zeros as 4x4 pixels, the device preset's circuit at random angles, the centre of its first pass."""
    ansatz = Ansatz("ry_brick", 4, 4)
    task = class_task(pool("digits"), 0, Key(run=seed), BATCH)
    psi = as_rows(fit_embedding(task.train, kind="l2", n_qubits=4, image_shape=tuple(task.image))(task.train))  # type: ignore[arg-type]
    draw = torch.randn(2, ansatz.parameters, dtype=torch.float64, generator=Key(run=seed, site="angles").generator())
    engine = Engine(ansatz, "float64")
    center = first_center(engine.expect(psi, 0.01 * draw[0]))
    theta = draw[1].requires_grad_()
    objective = Objective("one-class", center, 0.1, torch.zeros(()))
    objective.of(engine.expect(psi, theta)).mean().backward()
    assert theta.grad is not None
    return Problem(ansatz, psi, theta.detach(), objective, theta.grad)


def gradient_table(
    given: Problem, arms: dict[str, tuple[str, int]], budget: int, *, repeats: int = REPEATS, seed: int = 0
) -> list[dict[str, Any]]:
    """Every arm at one budget of shots per gradient: relative mean squared error, jobs and shots, each counted twice.

    Args:
        given: the problem.
        arms: name -> method of `gradients.METHODS` and its copies.
        budget: shots per gradient; every job gets an equal share, rounded down.
        repeats: gradients per arm.
        seed: of all shots.
    """
    size = float(given.exact.square().sum())
    rows = []
    for name, (method, copies) in arms.items():
        jobs = Plan(method, copies, None).jobs(len(given.psi), given.ansatz)
        shots = budget // jobs
        if shots < 2:
            continue
        noise = "gaussian" if name.endswith("_gaussian") else "hadamard"
        plan, account = Plan(method, copies, shots, noise), Account()
        backend = TorchBackend(given.ansatz, account)
        found = []
        for repeat in range(repeats):
            key = Key(run=seed, step=repeat, site=f"gradients/{name}/{budget}")
            value, _ = estimate(plan, backend, given.ansatz, given.psi, given.theta, given.objective, key)
            found.append(value)
        errors = (torch.stack(found) - given.exact).square().sum(1) / size
        rows.append(
            {
                "arm": name,
                "method": f"{method}, Gaussian" if noise == "gaussian" else method,
                "copies": copies,
                "jobs": jobs,
                "shots": jobs * shots,
                "error": float(errors.mean()),
                "standard_error": float(errors.std() / np.sqrt(repeats)),
                "counted": account.shots == repeats * jobs * shots and account.jobs == repeats * jobs,
                "ratio": account.shots / backend.shots,
                "ratio_jobs": account.jobs / backend.jobs,
            }
        )
    return rows


def pennylane_error(given: Problem) -> float | None:
    """Largest difference of our parameter shift without shots from PennyLane's, or None where it is not installed."""
    try:
        import pennylane as qml
    except ImportError:
        return None
    from onlyforward.detect.pennylane import apply_gates

    wires = range(given.ansatz.n)
    some = given.psi[:3]

    @qml.qnode(qml.device("default.qubit", wires=wires), interface="torch", diff_method="parameter-shift")
    def circuit(psi: Tensor, theta: Tensor) -> Any:
        qml.StatePrep(psi, wires=wires)
        apply_gates(given.ansatz.gates(), theta)
        return [qml.expval(qml.Z(wire)) for wire in wires]

    theta = given.theta.clone().requires_grad_()
    losses = [given.objective.of(torch.stack(tuple(circuit(psi, theta)))[None])[0] for psi in some]
    torch.stack(losses).mean().backward()
    plan = Plan("parameter_shift", 16, None)
    ours, _ = estimate(
        plan, TorchBackend(given.ansatz), given.ansatz, some, given.theta, given.objective, Key(site="gradients")
    )
    return float((ours - theta.grad).abs().max())


def gradients(options: BenchQuantum, context: Context, result: Result) -> None:
    """Relative errors at 6,600 and 66,000 shots per gradient."""
    given = problem(options.seed)
    table = []
    counted, ratios = True, []
    errors: dict[tuple[str, int], float] = {}
    for budget in (6_600, 66_000):
        for row in gradient_table(given, ARMS, budget, seed=options.seed):
            counted &= row["counted"]
            ratios += [row["ratio"], row["ratio_jobs"]]
            errors[row["arm"], budget] = row["error"]
            result.metric(f"gradients_{row['arm']}_{budget}", row["error"])
            table.append([row["method"], row["copies"], row["jobs"], row["shots"], row["error"], row["standard_error"]])
    result.metric("gradients_lr_over_spsa", errors["spsa", 66_000] / errors["lr_scalar", 66_000])
    result.metric("gradients_lr_over_spsa_6600", errors["spsa", 6_600] / errors["lr_scalar", 6_600])
    result.metric("gradients_shots_accounted", float(np.mean(ratios)) if counted and len(set(ratios)) == 1 else 0.0)
    found = pennylane_error(given)
    if found is not None:
        result.metric("gradients_pennylane_error", found)
    note = (
        f"4 qubits, 16 angles, {BATCH} rows, {REPEATS} repeats; error: squared distance from the exact gradient"
        " over its square. Directions of the likelihood ratio are per row, and orthogonal unless Gaussian; those of"
        " SPSA are shared. At 16 angles the shift rule is best."
    )
    columns = ["estimator", "copies", "jobs", "shots", "relative squared error", "standard error"]
    result.table("gradients under shot noise", columns, table, note)
