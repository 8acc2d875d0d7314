"""Qiskit: one circuit whose state angles and weights are parameters, transpiled once, all rows as one array of values.

`fake_<device>` is a device recorded by qiskit-ibm-runtime under Aer's noise; a chip (`ibm:<name>`) is reached through
its runtime service. Our qubit 0 is the most significant bit of an index, Qiskit's the least.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onlyforward.core.checks import check_choice, require
from onlyforward.core.errors import FileError, OnlyForwardError, OracleUnreachable, UsageError
from onlyforward.core.keys import Key
from onlyforward.detect.ansatz import Ansatz
from onlyforward.detect.backends import Account, LawBackend
from onlyforward.detect.engine import reversed_bits
from onlyforward.detect.prepare import Circuit

LEVEL = 3
"""Optimisation level of the one transpilation."""
TRANSPILE_SEED = 0
"""Routing is random: with a fixed seed depth and gate counts are those of the circuit, not of the run."""
SHOTS_AT_ONCE = 1 << 20
"""Shots sent in one call to a simulator, which keeps every bitstring as text."""
TOKEN = "QISKIT_IBM_TOKEN"  # noqa: S105
"""Environment variable that holds the runtime service's token; qiskit-ibm-runtime reads it, nothing prints it."""


class ParametricCircuit:
    """The exported circuit: preparation of a real state, then the ansatz, all angles as parameters.

    Args:
        ansatz: the circuit family.
        theta: trained angles [P] or [G] for the exports that bind them; None leaves them free.
    """

    def __init__(self, ansatz: Ansatz, theta: np.ndarray | None = None) -> None:
        qiskit = require("qiskit", "quantum")
        parameter = require("qiskit.circuit", "quantum").Parameter
        self.parts = Circuit(ansatz)
        self.theta = theta
        total = self.parts.state_angles + ansatz.occurrences
        names = [f"state_{i}" if i < self.parts.state_angles else f"theta_{i}" for i in range(total)]
        self.parameters = [parameter(name) for name in names]
        self.circuit = qiskit.QuantumCircuit(ansatz.n)
        for gate in self.parts.gates:
            if gate.name == "cx":
                self.circuit.cx(*gate.wires)
            else:
                getattr(self.circuit, gate.name)(self.parameters[gate.angle], gate.wires[0])

    @property
    def measured(self) -> Any:
        """The circuit with a measurement of every qubit at its end."""
        return self.circuit.measure_all(inplace=False)

    def values(self, psi: np.ndarray, theta: np.ndarray | None = None) -> np.ndarray:
        """Values of `parameters` [b, A] for real states [b, 2^n]; theta None: the trained angles."""
        return self.parts.angles(psi, self.angles(theta))

    def angles(self, theta: np.ndarray | None = None) -> np.ndarray:
        """Given angles, or the trained ones.

        Raises:
            UsageError: there are none.
        """
        used = self.theta if theta is None else theta
        if used is None:
            raise UsageError("The circuit has no trained angles", "Give theta")
        return used

    def bound(self) -> Any:
        """The circuit with its trained angles bound; only the state angles are parameters."""
        first = self.parts.state_angles
        empty = np.zeros((1, 2**self.parts.n))
        empty[0, 0] = 1.0
        turns = self.values(empty)[0, first:]
        return self.circuit.assign_parameters(dict(zip(self.parameters[first:], turns, strict=True)))

    def qasm3(self) -> str:
        """OpenQASM 3 text: inputs `state_0` .. are the state angles, the trained angles are numbers."""
        return str(require("qiskit.qasm3", "quantum").dumps(self.bound()))

    def qpy(self) -> bytes:
        """Qiskit's own format of the same circuit."""
        file = io.BytesIO()
        require("qiskit.qpy", "quantum").dump(self.bound(), file)
        return file.getvalue()


def amplitudes(circuit: Any, values: np.ndarray) -> np.ndarray:
    """States [b, 2^n] in our order of qubits of a circuit whose parameters `state_i` take values [b, 2^n - 1].

    Qiskit's exact simulation, one row after the other: for comparisons.
    """
    statevector = require("qiskit.quantum_info", "quantum").Statevector
    made = []
    for row in values:
        bindings = {p: float(row[int(p.name.split("_")[1])]) for p in circuit.parameters}
        made.append(statevector.from_instruction(circuit.assign_parameters(bindings)).data)
    return np.stack(made)[:, reversed_bits(circuit.num_qubits)]


@dataclass
class QiskitBackend(LawBackend):
    """Circuits through a Qiskit sampler: one circuit, one transpilation, rows as an array of parameter values.

    Attributes:
        target: the device or simulator that circuits are compiled for; None runs them as they are.
        sampler: key -> a SamplerV2 whose random numbers are the key's.
        transpiles: transpilations so far.
        seconds: wall seconds of the transpilation.
    """

    target: Any = None
    sampler: Any = None
    transpiles: int = 0
    seconds: float = 0.0
    exported: ParametricCircuit = field(init=False)

    def __post_init__(self) -> None:
        self.exported = ParametricCircuit(self.ansatz)

    @cached_property
    def compiled(self) -> Any:
        """The measured circuit in the device's gates, made once."""
        import time

        circuit = self.exported.measured
        if self.target is None:
            return circuit
        if self.ansatz.n > self.target.num_qubits:
            raise UsageError(
                f"{self.name} has {self.target.num_qubits} qubits, the detector {self.ansatz.n}",
                "Choose a larger device, or fit with --preset device (4 qubits)",
            )
        transpiler = require("qiskit.transpiler", "quantum")
        begin = time.perf_counter()
        manager = transpiler.generate_preset_pass_manager(
            optimization_level=LEVEL, backend=self.target, seed_transpiler=TRANSPILE_SEED
        )
        made = manager.run(circuit)
        self.transpiles += 1
        self.seconds = time.perf_counter() - begin
        return made

    @property
    def depth(self) -> int:
        """Depth of the compiled circuit."""
        return int(self.compiled.depth())

    @property
    def two_qubit_gates(self) -> int:
        """Gates on two qubits of the compiled circuit."""
        return sum(len(item.qubits) == 2 and item.operation.name != "barrier" for item in self.compiled.data)

    def law(self, psi: Tensor, theta: Tensor, *, shots: int | None, key: Key) -> Tensor:
        """Relative frequencies of bitstrings [b, 2^n]."""
        if shots is None:
            raise UsageError(f"The backend {self.name} measures with shots", "Give shots, for example 4096")
        values = self.exported.values(psi.cpu().numpy(), theta.detach().cpu().numpy())
        place = {parameter.name: i for i, parameter in enumerate(self.exported.parameters)}
        values = values[:, [place[parameter.name] for parameter in self.compiled.parameters]]
        rows = max(1, SHOTS_AT_ONCE // shots)
        parts = []
        for number, start in enumerate(range(0, len(values), rows)):
            parts.append(self.sampled(values[start : start + rows], shots, key.at(copy=number)))
        return torch.from_numpy(np.concatenate(parts))

    def sampled(self, values: np.ndarray, shots: int, key: Key) -> np.ndarray:
        """One call to the sampler: frequencies [b, 2^n] in our order of qubits.

        Raises:
            OracleUnreachable: the service did not answer.
        """
        try:
            found = self.sampler(key).run([(self.compiled, values, shots)]).result()[0].data.meas.array
        except OnlyForwardError:
            raise
        except Exception as error:
            if not self.name.startswith("ibm:"):
                raise
            raise unreachable(self.name, error) from error
        n = self.ansatz.n
        outcome = np.zeros(found.shape[:2], dtype=np.int64)
        for byte in range(found.shape[2]):
            outcome = outcome << 8 | found[..., byte]
        law = np.zeros((len(values), 2**n))
        for row, ones in enumerate(outcome):
            law[row] = np.bincount(ones, minlength=2**n)
        return law[:, reversed_bits(n)] / shots


def qiskit_backend(spec: str, ansatz: Ansatz, account: Account, *, seed: int = 0) -> QiskitBackend:
    """A backend by name: aer (no noise), fake_<device> (Aer with a recorded device's noise), ibm:<device> (a chip).

    Raises:
        MissingExtra: Qiskit, Aer or the runtime is not installed.
        UsageError: the device is unknown; the nearest are given.
        OracleUnreachable: the service does not answer or has no token.
    """
    if spec.startswith("ibm:"):
        target = chip(spec)
        runtime = require("qiskit_ibm_runtime", "quantum")
        return QiskitBackend(
            ansatz, account, spec, noisy=True, target=target, sampler=lambda key: runtime.SamplerV2(mode=target)
        )
    aer = require("qiskit_aer", "quantum")
    samplers = require("qiskit_aer.primitives", "quantum")
    settings = {"max_parallel_threads": torch.get_num_threads()}
    if spec == "aer":
        target, simulator = None, aer.AerSimulator(method="statevector", **settings)
    else:
        target = fake_device(spec)
        simulator = aer.AerSimulator.from_backend(target, **settings)

    def sampler(key: Key) -> Any:
        return samplers.SamplerV2.from_backend(simulator, seed=(key.seed ^ seed) & 0x7FFFFFFF)

    return QiskitBackend(ansatz, account, spec, noisy=target is not None, target=target, sampler=sampler)


def fake_device(spec: str) -> Any:
    """A recorded device of qiskit-ibm-runtime: fake_manila is FakeManilaV2."""
    provider = require("qiskit_ibm_runtime.fake_provider", "quantum")
    known = {}
    for name in dir(provider):
        if name.startswith("Fake") and isinstance(getattr(provider, name), type):
            word = name.removeprefix("Fake").removesuffix("V2").lower()
            if word not in ("fractionalbackend", "providerforbackend"):
                known[f"fake_{word}"] = name
    return getattr(provider, known[check_choice(spec, known, name="backend")])()


def chip(spec: str) -> Any:
    """A device behind the runtime service.

    Raises:
        OracleUnreachable: no token, or the service does not answer.
    """
    runtime = require("qiskit_ibm_runtime", "quantum")
    name = spec.removeprefix("ibm:")
    if not os.environ.get(TOKEN):
        raise OracleUnreachable(f"The backend {spec} needs a token", f"Set the environment variable {TOKEN}")
    try:
        return runtime.QiskitRuntimeService().backend(name)
    except Exception as error:
        raise unreachable(spec, error) from error


def unreachable(name: str, error: Exception) -> OracleUnreachable:
    """What went wrong without the service's own words, which may repeat what was sent."""
    return OracleUnreachable(
        f"The backend {name} does not answer ({type(error).__name__})", f"Check the name, the network and {TOKEN}"
    )


def read_qpy(content: bytes) -> Any:
    """The circuit that `ParametricCircuit.qpy` wrote."""
    return require("qiskit.qpy", "quantum").load(io.BytesIO(content))[0]


def read_qasm3(text: str) -> Any:
    """A circuit from OpenQASM 3 text.

    Raises:
        MissingExtra: the reader is not installed.
        FileError: the text is no program.
    """
    require("qiskit_qasm3_import", "quantum")
    try:
        return require("qiskit.qasm3", "quantum").loads(text)
    except Exception as error:
        raise FileError(f"The OpenQASM text cannot be read: {type(error).__name__}", "Export it again") from error
