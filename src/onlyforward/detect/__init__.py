"""Detect anomalies with small quantum circuits: trained in seconds, ready for a noisy chip, beside classical peers."""

from onlyforward.core.lazy import attach
from onlyforward.run.application import Application, Benchmark

APPLICATION = Application(
    name="detect",
    sentence="Detect anomalies with a small quantum circuit: fit, score, calibrate and run it on a noisy device.",
    options={
        "fit": "onlyforward.detect.command:Fit",
        "score": "onlyforward.detect.command:Score",
        "run-on-device": "onlyforward.detect.command:RunOnDevice",
        "calibrate": "onlyforward.detect.command:Calibrate",
        "export": "onlyforward.detect.command:Export",
    },
    run="onlyforward.detect.command:run",
    demo="onlyforward.detect.command:DEMO",
    benches={
        "quantum": Benchmark(
            claim="Small circuits detect anomalies beside classical detectors, on recorded chips and under shot noise.",
            options="onlyforward.detect.command:BenchQuantum",
            run="onlyforward.detect.bench:run",
            peers=("pennylane", "pennylane_lightning", "qiskit", "qiskit_aer", "pyod", "sklearn"),
        ),
    },
)

PUBLIC = {
    "QuantumSVDD": "onlyforward.detect.estimator",
    "PyODAdapter": "onlyforward.detect.pyod",
    "Ansatz": "onlyforward.detect.ansatz",
    "Engine": "onlyforward.detect.engine",
    "capacity_bound": "onlyforward.detect.capacity",
    "plan_shots": "onlyforward.detect.backends",
}
__getattr__, __dir__ = attach(__name__, PUBLIC)
