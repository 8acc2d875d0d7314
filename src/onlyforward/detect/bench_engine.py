"""Cases `engine` (exactness and speed beside PennyLane, Qiskit, lightning and Aer) and `scaling`."""

from __future__ import annotations

import importlib.util
import resource
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from onlyforward.core.keys import Key
from onlyforward.detect.ansatz import FAMILIES, Ansatz
from onlyforward.detect.backends import as_rows
from onlyforward.detect.command import BenchQuantum
from onlyforward.detect.engine import Engine, features
from onlyforward.detect.prepare import state_angles

if TYPE_CHECKING:
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result

SIZES = ((4, 4), (8, 10), (10, 20))
ROWS, RUNS, SAMPLES = 256, 5, 2
"""Rows of a gradient, timed runs, rows of the loops that are extrapolated."""


def random_states(rows: int, n: int, site: str) -> Tensor:
    """Signed real states [rows, 2^n] of norm 1."""
    draw = Key(site=f"bench/{site}").numpy().standard_normal((rows, 2**n))
    return as_rows(draw / np.linalg.norm(draw, axis=1, keepdims=True))


def exactness(result: Result) -> None:
    """Largest difference of an amplitude from PennyLane and Qiskit over all families, even and odd sizes."""
    from onlyforward.detect import pennylane, qiskit

    rows = []
    for family in FAMILIES:
        for n in (2, 3, 5, 6):
            ansatz = Ansatz(family, n, 3)
            psi = random_states(4, n, f"{family}/{n}")
            theta = torch.randn(
                ansatz.parameters, dtype=torch.float64, generator=Key(site=f"bench/{family}").generator()
            )
            double = Engine(ansatz, "float64").state(psi, theta).numpy()
            single = Engine(ansatz, "float32").state(psi.float(), theta.float()).numpy()
            found = {}
            circuit = qiskit.ParametricCircuit(ansatz, theta.numpy()).bound()
            for peer, states in (
                ("PennyLane", pennylane.states(ansatz, psi.numpy(), theta.numpy())),
                ("Qiskit", qiskit.amplitudes(circuit, state_angles(psi.numpy()))),
            ):
                found[peer] = (float(np.abs(double - states).max()), float(np.abs(single - states).max()))
            rows.append([family, n, *(found[peer][i] for i in (0, 1) for peer in found)])
    result.metric("engine_error_f64", max(max(row[2:4]) for row in rows))
    result.metric("engine_error_f32", max(max(row[4:6]) for row in rows))
    columns = ["family", "qubits", "float64: PennyLane", "float64: Qiskit", "float32: PennyLane", "float32: Qiskit"]
    result.table("engine: largest error of an amplitude", columns, rows, "3 layers, 4 random signed states each.")


def ours(ansatz: Ansatz, psi: Tensor, theta: Tensor, dtype: str) -> Callable[[], Any]:
    """Loss and gradient of all angles on all rows by our engine."""
    engine = Engine(ansatz, dtype)
    rows = psi.to(engine.real)
    angles = theta.to(engine.real)

    def work() -> Tensor:
        leaf = angles.clone().requires_grad_()
        engine.expect(rows, leaf).sub(0.3).square().sum(1).mean().backward()
        assert leaf.grad is not None
        return leaf.grad

    return work


def broadcast(ansatz: Ansatz, psi: Tensor, theta: Tensor, dtype: torch.dtype) -> Callable[[], Any]:
    """PennyLane's default.qubit with all rows broadcast, backpropagation through torch."""
    import pennylane as qml

    from onlyforward.detect.pennylane import apply_gates

    wires = range(ansatz.n)
    kind = torch.complex64 if dtype == torch.float32 else torch.complex128
    rows, angles = psi.to(kind), theta.to(dtype)

    @qml.qnode(qml.device("default.qubit", wires=wires), interface="torch", diff_method="backprop")
    def circuit(turns: Tensor) -> Any:
        qml.StatePrep(rows, wires=wires, validate_norm=False)
        apply_gates(ansatz.gates(), turns)
        return [qml.expval(qml.Z(wire)) for wire in wires]

    def work() -> Tensor:
        leaf = angles.clone().requires_grad_()
        torch.stack(tuple(circuit(leaf))).sub(0.3).square().sum(0).mean().backward()
        assert leaf.grad is not None
        return leaf.grad

    return work


def loop(ansatz: Ansatz, psi: Tensor, theta: Tensor, device: str, method: str) -> Callable[[], Any]:
    """PennyLane row by row on the first SAMPLES rows: default.qubit with backprop, or lightning with adjoint."""
    import pennylane as qml

    from onlyforward.detect.pennylane import apply_gates

    wires = range(ansatz.n)

    @qml.qnode(qml.device(device, wires=wires), interface="torch", diff_method=method)
    def circuit(state: Tensor, turns: Tensor) -> Any:
        qml.StatePrep(state, wires=wires)
        apply_gates(ansatz.gates(), turns)
        return [qml.expval(qml.Z(wire)) for wire in wires]

    def work() -> Tensor:
        leaf = theta.clone().requires_grad_()
        losses = [torch.stack(tuple(circuit(state, leaf))).sub(0.3).square().sum() for state in psi[:SAMPLES]]
        torch.stack(losses).mean().backward()
        assert leaf.grad is not None
        return leaf.grad

    return work


def shifted(ansatz: Ansatz, psi: Tensor, theta: Tensor) -> Callable[[], Any]:
    """Aer's exact simulation of SAMPLES circuits: a gradient by the shift rule takes (2 P + 1) circuits per row."""
    from qiskit_aer import AerSimulator

    from onlyforward.detect.qiskit import ParametricCircuit

    exported = ParametricCircuit(ansatz)
    circuit = exported.circuit.copy()
    circuit.save_statevector()
    values = exported.values(psi[:SAMPLES].numpy(), theta.numpy())
    binds = [{p: values[:, i].tolist() for i, p in enumerate(exported.parameters)}]
    simulator = AerSimulator(method="statevector", max_parallel_threads=1)
    return lambda: simulator.run(circuit, parameter_binds=binds).result()


def cpu(work: Callable[[], Any]) -> float:
    """CPU milliseconds of one call."""
    begin = time.process_time()
    work()
    return (time.process_time() - begin) * 1e3


def arms(ansatz: Ansatz, psi: Tensor, theta: Tensor) -> dict[str, tuple[Callable[[], Any], float, bool]]:
    """Arm -> work, factor to a whole gradient of all rows, whether it is slow; absent packages are left out."""
    whole = ROWS / SAMPLES
    made: dict[str, tuple[Callable[[], Any], float, bool]] = {
        "ours f32": (ours(ansatz, psi, theta, "float32"), 1.0, False),
        "ours f64": (ours(ansatz, psi, theta, "float64"), 1.0, False),
        "ours c128": (ours(ansatz, psi, theta, "complex128"), 1.0, False),
        "PennyLane broadcast c64": (broadcast(ansatz, psi, theta, torch.float32), 1.0, False),
        "PennyLane broadcast c128": (broadcast(ansatz, psi, theta, torch.float64), 1.0, False),
        "PennyLane loop": (loop(ansatz, psi, theta, "default.qubit", "backprop"), whole, True),
    }
    if importlib.util.find_spec("pennylane_lightning") is not None:
        made["lightning adjoint loop"] = (loop(ansatz, psi, theta, "lightning.qubit", "adjoint"), whole, True)
    made["Aer, shift rule"] = (shifted(ansatz, psi, theta), whole * (2 * ansatz.parameters + 1), True)
    return made


def engine(options: BenchQuantum, context: Context, result: Result) -> None:
    """Exactness, then CPU time of loss and gradient of all angles for 256 rows: minimum of interleaved runs."""
    exactness(result)
    rows = []
    for n, layers in SIZES:
        ansatz = Ansatz("ry_brick", n, layers)
        psi = random_states(ROWS, n, f"speed/{n}")
        theta = torch.randn(ansatz.parameters, dtype=torch.float64, generator=Key(site="bench/speed").generator())
        work = arms(ansatz, psi, theta)
        same = [work[name][0]() for name in ("ours f64", "PennyLane broadcast c128")]
        result.metric(f"engine_n{n}_gradient_difference", float((same[0] - same[1]).abs().max()))
        times: dict[str, list[float]] = {name: [] for name in work}
        for name, (call, _, _) in work.items():
            call()
            context.say(f"n = {n}: {name} warm")
        with context.progress(RUNS, label=f"n = {n}") as tick:
            for _ in range(RUNS):
                for name, (call, factor, _) in work.items():
                    times[name].append(cpu(call) * factor)
                tick()
        best = {name: min(values) for name, values in times.items()}
        result.metric(f"engine_n{n}_grad_ms", best["ours f32"], timing=True)
        ratios = {
            "broadcast": ("PennyLane broadcast c64", "ours f32"),
            "broadcast_f64": ("PennyLane broadcast c128", "ours f64"),
            "broadcast_c128": ("PennyLane broadcast c128", "ours c128"),
            "default_broadcast": ("PennyLane broadcast c128", "ours f32"),
            "loop": ("PennyLane loop", "ours f32"),
            "loop_f64": ("PennyLane loop", "ours f64"),
            "lightning": ("lightning adjoint loop", "ours f32"),
            "lightning_f64": ("lightning adjoint loop", "ours f64"),
            "aer": ("Aer, shift rule", "ours f64"),
        }
        for tag, (peer, own) in ratios.items():
            if peer in best:
                result.metric(f"engine_n{n}_speedup_{tag}", best[peer] / best[own], timing=True)
        rows += [
            [n, layers, name, value, "extrapolated from 2 rows" if work[name][2] else ""]
            for name, value in best.items()
        ]
    if "lightning adjoint loop" not in best:
        rows.append([n, layers, "lightning adjoint loop", None, "not installed"])
    note = f"{ROWS} rows, one thread, CPU time, minimum of {RUNS} interleaved runs after a warm-up."
    result.table("engine: loss and gradient of all angles", ["qubits", "layers", "arm", "[ms]", "note"], rows, note)


def scaling(options: BenchQuantum, context: Context, result: Result) -> None:
    """Rows scored per second over 4 to 12 qubits, the memory of a long stream, and the GPU where there is one."""
    rows = []
    places = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    for n in (4, 6, 8, 10, 12):
        ansatz = Ansatz("ry_brick", n, 10)
        theta = torch.randn(ansatz.parameters, generator=Key(site="bench/scaling").generator())
        count = 4096 if n <= 10 else 1024
        psi = random_states(count, n, f"scaling/{n}").float()
        speed = {place: rate(Engine(ansatz, "float32", place), psi, theta) for place in places}
        rows.append([n, ansatz.parameters, speed["cpu"], speed.get("cuda")])
        result.metric(f"scaling_rows_per_second_n{n}", speed["cpu"], timing=True)
    if "cuda" in speed:
        result.metric("scaling_gpu_speedup", speed["cuda"] / speed["cpu"], timing=True)
    ansatz = Ansatz("ry_brick", 8, 10)
    theta = torch.randn(ansatz.parameters, generator=Key(site="bench/scaling").generator())
    runner, block = Engine(ansatz, "float32"), random_states(4096, 8, "scaling/8").float()
    with torch.no_grad():
        for _ in range(25 if options.quick else 245):
            runner.expect(block, theta, "z+zz")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    result.metric("scaling_peak_mb", peak, timing=True)
    columns = ["qubits", "angles", "rows on the CPU [/s]", "rows on the GPU [/s]"]
    note = "Embedded rows to z latents in float32, 10 layers, one thread; no GPU column where there is none."
    result.table("scaling: rows scored per second", columns, rows, note)


def rate(runner: Engine, psi: Tensor, theta: Tensor) -> float:
    """Rows per second, best of five."""
    psi = psi.to(runner.device)
    best = np.inf
    with torch.no_grad():
        features(runner.probabilities(psi, theta), "z")
        for _ in range(5):
            begin = time.perf_counter()
            runner.expect(psi, theta).sum().item()
            best = min(best, time.perf_counter() - begin)
    return len(psi) / best
