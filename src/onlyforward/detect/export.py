"""`detect export`: a detector's circuit for other tools, its states compared with the engine's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from onlyforward.core.errors import UsageError
from onlyforward.detect.command import Export
from onlyforward.detect.delivery import read_task
from onlyforward.detect.engine import Engine
from onlyforward.detect.estimator import QuantumSVDD
from onlyforward.detect.prepare import Circuit, state_angles
from onlyforward.run.checkpoint import write_atomically

if TYPE_CHECKING:
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result

COMPARED = 8
"""Random signed states whose images are compared."""


def export(options: Export, context: Context) -> Result:
    """Write the circuit into --out, read it back, and compare its states with the engine's."""
    described = read_task(options.folder)
    if len(described["tasks"]) > 1:
        raise UsageError(f"{options.folder} holds one detector per class", "Give a folder fitted with one --normal")
    detector = QuantumSVDD.load(options.folder / described["tasks"][0]["folder"])
    circuit, theta = detector.circuit_, detector.theta_
    draw = context.key.at(site="detect/export").numpy().standard_normal((COMPARED, 2**circuit.n))
    psi = draw / np.linalg.norm(draw, axis=1, keepdims=True)
    exact = Engine(circuit, "float64").state(torch.from_numpy(psi), torch.from_numpy(theta)).numpy()
    result = context.result(question=f"Is the circuit in {options.format} the detector's?")
    content, found = written(options.format, detector, psi)
    # A global phase says nothing: it is taken out before amplitudes are compared.
    phase = (found.conj() * exact).sum(1, keepdims=True)
    error = float(np.abs(found * phase / np.abs(phase) - exact).max())
    exported = detector.to_qiskit().circuit if options.format != "pennylane" else None
    parts = Circuit(circuit)
    result.metric("max_state_error", error)
    result.metric("depth", parts.depth if exported is None else exported.depth())
    result.metric("two_qubit_gates", parts.two_qubit_gates)
    result.metric("bytes", len(content))
    name = {"qiskit": "circuit.qpy", "qasm3": "circuit.qasm", "pennylane": "circuit.py"}[options.format]
    if context.folder is not None:
        write_atomically(context.folder / name, content)
    where = f"{context.folder / name}" if context.folder is not None else "nothing is written without --out"
    result.answer = f"{options.format}: largest error of an amplitude {error:.1e}; {where}."
    result.forward_runs = COMPARED
    return result


def written(form: str, detector: QuantumSVDD, psi: np.ndarray) -> tuple[bytes, np.ndarray]:
    """The file's content, and the states [b, 2^n] that it makes of psi after it was read back."""
    if form == "pennylane":
        from onlyforward.detect.pennylane import source, states

        text = source(detector.circuit_, detector.theta_)
        return text.encode(), states(detector.circuit_, psi, detector.theta_)
    from onlyforward.detect.qiskit import amplitudes, read_qasm3, read_qpy

    circuit = detector.to_qiskit()
    if form == "qasm3":
        text = circuit.qasm3()
        return text.encode(), amplitudes(read_qasm3(text), state_angles(psi))
    content = circuit.qpy()
    return content, amplitudes(read_qpy(content), state_angles(psi))
