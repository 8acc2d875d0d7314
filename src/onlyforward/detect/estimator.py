"""`QuantumSVDD`: a scikit-learn outlier detector whose model is a small quantum circuit.

At 12 qubits or fewer the model is classically simulable: n traceless quadratic forms of the embedded row. It is
quantum-hardware-ready and has few parameters; it claims no advantage over classical detectors.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from onlyforward.core.checks import require
from onlyforward.core.errors import BudgetSpent
from onlyforward.detect.fitting import begin, calibrate, finish
from onlyforward.detect.readout import measure, raw_scores

require("sklearn", "data")
from sklearn.base import BaseEstimator, OutlierMixin  # noqa: E402
from sklearn.utils.validation import check_is_fitted  # noqa: E402


class QuantumSVDD(OutlierMixin, BaseEstimator):
    """One-class detector: amplitude embedding, a trained circuit, a distance of its latents.

    `score_samples` follows scikit-learn: higher is MORE NORMAL (PyOD's sign is the opposite, see `PyODAdapter`).

    Args:
        n_qubits: n; None is the smallest that holds the columns.
        n_layers: L; None is max(4, n) up to 6 qubits, else 10.
        ansatz: ry_brick, ry_rz_brick or su4_shared.
        preprocess: offset (tables), l2_offset, l2 or gcn_tanh (images).
        offset: rho of the offset kinds; None is 2 for offset and 0.7 for l2_offset.
        reduce: "pca" projects to 2^n - 1 columns.
        image_shape: (height, width) of a row.
        latent: features behind the mahalanobis score, "z", "z+zz" or "z+zz+zzz", all of the same bitstrings.
        objective_latent: those of them whose distance to the centre is trained and is the distance score; None is
            "z+zz", or "z" where latent is.
        statistic: the score, mahalanobis or distance (scikit-learn keeps the name `score` for a method).
        objective: one-class or soft-boundary.
        nu: share of normal rows that may be flagged.
        threshold: auto, crossfit (mahalanobis), holdout or train.
        calibration: share of rows that "holdout" keeps out of training.
        center: first_pass, or refit: the mean latent after training, for scoring only.
        pretrain: None or "autoencoder".
        lr: step size of Adam.
        lr_milestone: epoch at which lr is divided by ten, or None.
        max_epochs: passes over the rows.
        batch_size: rows per step.
        weight_decay: of the angles.
        gradient: auto, backprop, parameter_shift, random_shift, likelihood_ratio, likelihood_ratio_scalar or spsa.
        copies: pairs per row of likelihood_ratio and spsa, axes per row of random_shift.
        shots: measurements per job; None is exact.
        noise: None, "fast" or "density".
        backend: torch, aer, pennylane, fake_<device>, ibm:<device>, or an object with `expect_features`.
        max_shots: budget of the whole fit; the model reached so far is kept when it is spent.
        max_jobs: the same in jobs (one row with one set of angles).
        dtype: of training; scores are always computed in float64.
        device: cpu or cuda.
        random_state: seed of all random numbers; None draws one.
        verbose: 1 prints the loss of every tenth epoch.

    Attributes:
        theta_: [P] trained angles.
        center_: of the objective's features. radius_: the score at the threshold's quantile.
        offset_: of `decision_function`.
        location_, precision_: [m], [m, m] of the mahalanobis score.
        n_parameters_, n_fitted_statistics_: what was trained, and what was fitted besides; both belong in any table.
        n_jobs_used_, n_shots_used_: what the fit cost. history_: mean loss per epoch.
    """

    def __init__(
        self,
        n_qubits: int | None = None,
        n_layers: int | None = None,
        *,
        ansatz: str = "ry_brick",
        preprocess: str = "offset",
        offset: float | None = None,
        reduce: str | None = None,
        image_shape: tuple[int, int] | None = None,
        latent: str = "z+zz",
        objective_latent: str | None = None,
        statistic: str = "mahalanobis",
        objective: str = "one-class",
        nu: float = 0.1,
        threshold: str = "auto",
        calibration: float = 0.2,
        center: str = "first_pass",
        pretrain: str | None = None,
        lr: float = 0.03,
        lr_milestone: int | None = None,
        max_epochs: int = 60,
        batch_size: int = 50,
        weight_decay: float = 0.0,
        gradient: str = "auto",
        copies: int = 8,
        shots: int | None = None,
        noise: str | None = None,
        backend: Any = "torch",
        max_shots: int | None = None,
        max_jobs: int | None = None,
        dtype: str = "float32",
        device: str = "cpu",
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.n_qubits = n_qubits
        self.n_layers = n_layers
        self.ansatz = ansatz
        self.preprocess = preprocess
        self.offset = offset
        self.reduce = reduce
        self.image_shape = image_shape
        self.latent = latent
        self.objective_latent = objective_latent
        self.statistic = statistic
        self.objective = objective
        self.nu = nu
        self.threshold = threshold
        self.calibration = calibration
        self.center = center
        self.pretrain = pretrain
        self.lr = lr
        self.lr_milestone = lr_milestone
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.weight_decay = weight_decay
        self.gradient = gradient
        self.copies = copies
        self.shots = shots
        self.noise = noise
        self.backend = backend
        self.max_shots = max_shots
        self.max_jobs = max_jobs
        self.dtype = dtype
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    @classmethod
    def preset(cls, name: str = "recommended", **changes: Any) -> QuantumSVDD:
        """An estimator with a preset's settings: digits, images, tables (recommended), paper, paper-fast, device."""
        from onlyforward.detect.presets import settings

        return cls(**{**settings(name), **changes})

    # Fitting ---------------------------------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any = None) -> QuantumSVDD:
        """Fit on normal rows X [N, d]; y is ignored.

        Raises:
            BudgetSpent: a budget was reached; the model trained so far is kept and fitted to what was run.
            CollapsedDetector: the scores of the training rows are constant.
        """
        trainer = begin(self, X)
        try:
            while trainer.epoch < trainer.total:
                trainer.run_epoch()
                if self.verbose and (trainer.epoch % 10 == 0 or trainer.epoch == trainer.total):
                    print(f"epoch {trainer.epoch}: loss {trainer.history[-1]:.5f}")  # noqa: T201
            return finish(self, trainer)
        except BudgetSpent as spent:
            finish(self, trainer, exact=True)
            spent.partial = self
            raise

    # Scoring ---------------------------------------------------------------------------------------------------------

    def anomaly_scores(self, X: Any, *, backend: Any = None, shots: int | None = None) -> np.ndarray:
        """Scores [b], higher = more anomalous; on another backend, where one is named."""
        measured = measure(self, X, backend, shots, spread=self.statistic == "mahalanobis")
        return np.concatenate([raw_scores(self, *part) for part in measured])

    def score_samples(self, X: Any) -> np.ndarray:
        """Scores [b], higher = more normal."""
        return -self.anomaly_scores(X)

    def decision_function(self, X: Any) -> np.ndarray:
        """`score_samples - offset_`: [b], negative for anomalies."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> np.ndarray:
        """+1 for normal rows, -1 for anomalies: [b]."""
        return np.where(self.decision_function(X) >= 0, 1, -1)

    def latents(self, X: Any, *, backend: Any = None, shots: int | None = None) -> np.ndarray:
        """Measured features [b, m]: <Z_j>, and with latent="z+zz" <Z_j Z_k> behind them, then <Z_j Z_k Z_l>."""
        return np.concatenate([part[0] for part in measure(self, X, backend, shots)])

    def calibrate(self, X: Any, backend: Any, *, shots: int | None = 4096) -> QuantumSVDD:
        """A new detector whose centre, law and threshold come from normal rows X run on `backend`.

        The angles stay. On a noisy device latents shrink and move, and a threshold from the simulator means nothing.
        For the distance score the threshold is the plain quantile of these rows, since the centre's refit is small.
        """
        return calibrate(self, X, backend, shots=shots)

    # Leaving Python --------------------------------------------------------------------------------------------------

    def to_qiskit(self) -> Any:
        """The circuit with state angles and weights as parameters (`detect.qiskit.ParametricCircuit`)."""
        from onlyforward.detect.qiskit import ParametricCircuit

        check_is_fitted(self, "theta_")
        return ParametricCircuit(self.circuit_, self.theta_)

    def to_pennylane(self) -> Callable[[np.ndarray], Any]:
        """A PennyLane QNode: amplitudes [2^n] -> expectations of the n Z latents."""
        from onlyforward.detect.pennylane import qnode

        check_is_fitted(self, "theta_")
        return qnode(self.circuit_, self.theta_)

    def to_qasm3(self) -> str:
        """OpenQASM 3 text with the state angles as inputs and the trained angles bound."""
        return str(self.to_qiskit().qasm3())

    def save(self, path: str | Path) -> None:
        """Write the detector into a folder: safetensors and JSON, no pickle."""
        from onlyforward.detect.store import save

        save(self, Path(path))

    @classmethod
    def load(cls, path: str | Path) -> QuantumSVDD:
        """Read what `save` wrote; scores are equal to the bit."""
        from onlyforward.detect.store import load

        return load(Path(path))

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        state.pop("_device_backend", None)
        return state
