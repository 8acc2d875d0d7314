"""Where circuits run: one protocol for the exact engine, its noisy forms, simulators of devices and devices.

A backend gives laws or relative frequencies of bitstrings; features and their shot covariance follow from them. What
was run is counted twice: by the account, before sending, and by the backend itself, after running.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from onlyforward.core.checks import check_choice, check_range
from onlyforward.core.errors import BudgetSpent, UsageError
from onlyforward.core.keys import Key
from onlyforward.detect.ansatz import Ansatz
from onlyforward.detect.engine import Engine, covariance, features, frequencies
from onlyforward.detect.noise import Noise, density_law, depolarised, misread
from onlyforward.detect.prepare import Circuit

ROWS = 4096
"""Rows that run at once: a constant, so that bits do not depend on how many rows are asked for."""


@dataclass
class Account:
    """A budget of jobs (distinct pairs of row and angles) and shots, reserved before anything is sent.

    Attributes:
        max_shots: never exceeded; None is no limit.
        max_jobs: never exceeded; None is no limit.
        jobs: reserved so far.
        shots: reserved so far.
    """

    max_shots: int | None = None
    max_jobs: int | None = None
    jobs: int = 0
    shots: int = 0

    def fits(self, jobs: int, shots: int) -> bool:
        """Whether that many more jobs and shots are left."""
        return (self.max_jobs is None or self.jobs + jobs <= self.max_jobs) and (
            self.max_shots is None or self.shots + shots <= self.max_shots
        )

    def reserve(self, jobs: int, shots: int) -> None:
        """Take jobs and shots from the budget.

        Raises:
            BudgetSpent: they do not fit; nothing was taken.
        """
        for name, wanted, used, limit in (
            ("shots", shots, self.shots, self.max_shots),
            ("jobs", jobs, self.jobs, self.max_jobs),
        ):
            if limit is not None and used + wanted > limit:
                raise BudgetSpent(
                    f"{wanted} more {name} would exceed max_{name}={limit} ({used} used)", f"Raise max_{name}"
                )
        self.jobs += jobs
        self.shots += shots


class Backend(Protocol):
    """What an estimator asks of a backend.

    Attributes:
        name: for reports and saved models.
        noisy: whether laws differ from the exact ones by more than shots.
        jobs: circuits run, counted by the backend itself.
        shots: shots run, counted by the backend itself.
    """

    name: str
    noisy: bool
    jobs: int
    shots: int

    def expect_features(
        self, psi: Tensor, theta: Tensor, *, shots: int | None, key: Key, latent: str = "z", spread: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Mean features [b, m], and with `spread` and shots their covariance [b, m, m]."""
        ...

    def cost(self, b: int, shots: int | None) -> tuple[int, int]:
        """Jobs and shots that b rows take."""
        ...


@dataclass
class LawBackend(ABC):
    """Features from laws of bitstrings, in chunks of rows.

    Attributes:
        ansatz: the circuit.
        account: the budget, shared by all backends of one estimator.
        name: for reports.
        noisy: whether laws are biased.
        jobs: circuits run.
        shots: shots run.
    """

    ansatz: Ansatz
    account: Account = field(default_factory=Account)
    name: str = "exact"
    noisy: bool = False
    jobs: int = 0
    shots: int = 0

    @abstractmethod
    def law(self, psi: Tensor, theta: Tensor, *, shots: int | None, key: Key) -> Tensor:
        """Laws, or with shots relative frequencies, of bitstrings: [b, 2^n] in float64."""

    @property
    def depth(self) -> int:
        """Depth of the circuit that runs, the preparation included."""
        return Circuit(self.ansatz).depth

    @property
    def two_qubit_gates(self) -> int:
        """Its gates on two qubits."""
        return Circuit(self.ansatz).two_qubit_gates

    def cost(self, b: int, shots: int | None) -> tuple[int, int]:
        """One job per row, `shots` shots each; exact runs cost nothing."""
        return (0, 0) if shots is None else (b, b * shots)

    def expect_features(
        self, psi: Tensor, theta: Tensor, *, shots: int | None, key: Key, latent: str = "z", spread: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Mean features [b, m], and with `spread` and shots their covariance [b, m, m]."""
        if shots is not None:
            check_range(shots, name="shots", low=2, why="one shot has no spread")
        self.account.reserve(*self.cost(len(psi), shots))
        means, spreads = [], []
        for chunk, start in enumerate(range(0, len(psi), ROWS)):
            part = psi[start : start + ROWS]
            angles = theta if theta.ndim == 1 else theta[start : start + ROWS]
            law = self.law(part, angles, shots=shots, key=key.at(chunk=key.chunk + 1000 * chunk))
            ran = self.cost(len(part), shots)
            self.jobs, self.shots = self.jobs + ran[0], self.shots + ran[1]
            means.append(features(law, latent))
            if spread and shots is not None:
                spreads.append(covariance(law, latent, shots))
        return torch.cat(means), torch.cat(spreads) if spreads else None


@dataclass
class TorchBackend(LawBackend):
    """The engine itself, in float64: exact, or with multinomial shots."""

    device: str = "cpu"

    def law(self, psi: Tensor, theta: Tensor, *, shots: int | None, key: Key) -> Tensor:
        """|psi|^2, or frequencies drawn from it."""
        engine = Engine(self.ansatz, "float64", self.device)
        law = engine.probabilities(psi, theta.to(engine.real))
        return law if shots is None else frequencies(law, shots, key)


@dataclass
class FastNoise(TorchBackend):
    """The engine with a global depolarising mix and readout errors."""

    name: str = "fast"
    noisy: bool = True
    noise: Noise = field(default_factory=Noise)

    def law(self, psi: Tensor, theta: Tensor, *, shots: int | None, key: Key) -> Tensor:
        """The mixed and misread law, or frequencies drawn from it."""
        law = super().law(psi, theta, shots=None, key=key)
        law = depolarised(law, self.noise.mixed(Circuit(self.ansatz)))
        law = misread(law, self.noise.readout01, self.noise.readout10)
        return law if shots is None else frequencies(law, shots, key)


@dataclass
class Density(LawBackend):
    """Exact density matrices with a depolarising channel after every gate, at most 5 qubits."""

    name: str = "density"
    noisy: bool = True
    noise: Noise = field(default_factory=Noise)

    def law(self, psi: Tensor, theta: Tensor, *, shots: int | None, key: Key) -> Tensor:
        """The noisy law, or frequencies drawn from it; 256 rows at once."""
        circuit = Circuit(self.ansatz)
        angles = torch.from_numpy(circuit.angles(psi.cpu().numpy(), theta.detach().cpu().numpy()))
        law = torch.cat([density_law(circuit, part, self.noise) for part in angles.split(256)])
        return law if shots is None else frequencies(law, shots, key)


SIMULATED = ("torch", "fast", "density")


def make_backend(
    spec: Any, ansatz: Ansatz, *, account: Account | None = None, device: str = "cpu", seed: int = 0
) -> Backend:
    """A backend by name: torch, fast, density, aer, pennylane, fake_<device>, ibm:<device>; objects pass as they are.

    Raises:
        UsageError: the name is unknown; the nearest are given.
    """
    if not isinstance(spec, str):
        if hasattr(spec, "expect_features"):
            return spec  # type: ignore[no-any-return]
        raise UsageError(f"backend is a {type(spec).__name__}", "Give a name or an object with expect_features")
    budget = account or Account()
    if spec == "torch":
        return TorchBackend(ansatz, budget, "torch", device=device)
    if spec == "fast":
        return FastNoise(ansatz, budget, device=device)
    if spec == "density":
        return Density(ansatz, budget)
    if spec == "pennylane":
        from onlyforward.detect.pennylane import PennylaneBackend

        return PennylaneBackend(ansatz, budget)
    if spec == "aer" or spec.startswith(("fake_", "ibm:")):
        from onlyforward.detect.qiskit import qiskit_backend

        return qiskit_backend(spec, ansatz, budget, seed=seed)
    check_choice(spec, (*SIMULATED, "aer", "pennylane", "fake_manila"), name="backend")
    raise AssertionError


def as_rows(psi: np.ndarray) -> Tensor:
    """Amplitudes as a float64 tensor."""
    return torch.from_numpy(np.ascontiguousarray(psi, dtype=np.float64))


def plan_shots(contraction: float, resolution: float, *, spread: float = 1.0) -> int:
    """Shots per row that resolve a squared score on a noisy device.

    Global depolarising turns f into a f, so a squared distance shrinks by a^2 and its shot variance, of order
    spread^2 / S, stays: S = (spread / (a^2 resolution))^2, which grows like a^-4. Derived.

    Args:
        contraction: a in (0, 1].
        resolution: wanted standard error of the noiseless squared score.
        spread: standard deviation of one shot's squared score.
    """
    check_range(contraction, name="contraction", low=0.0, high=1.0, open_low=True)
    check_range(resolution, name="resolution", low=0.0, open_low=True)
    return int(np.ceil((spread / (contraction**2 * resolution)) ** 2))
