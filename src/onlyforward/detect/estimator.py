"""`QuantumSVDD`: a scikit-learn outlier detector whose model is a small quantum circuit.

At 12 qubits or fewer the model is classically simulable: n traceless quadratic forms of the embedded row. It is
quantum-hardware-ready and has few parameters; it claims no advantage over classical detectors.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from onlyforward.core.checks import check_choice, check_range, require
from onlyforward.core.errors import BudgetSpent, UsageError
from onlyforward.core.keys import Key
from onlyforward.detect.ansatz import Ansatz
from onlyforward.detect.backends import Account, Backend, as_rows, make_backend
from onlyforward.detect.embed import PREPROCESSES, fit_embedding
from onlyforward.detect.gradients import Plan, choose_plan
from onlyforward.detect.objective import OBJECTIVES, check_alive
from onlyforward.detect.score import crossfit, distance, fit_law, mahalanobis, threshold
from onlyforward.detect.train import Settings, Trainer

require("sklearn", "data")
from sklearn.base import BaseEstimator, OutlierMixin  # noqa: E402
from sklearn.utils import check_random_state  # noqa: E402
from sklearn.utils.validation import check_is_fitted, validate_data  # noqa: E402

ROWS = 4096
"""Rows embedded and scored at once."""


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
        latent: features behind the mahalanobis score, "z" or "z+zz".
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
        center_: [n]. radius_: the score at the threshold's quantile. offset_: of `decision_function`.
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
        trainer = self.begin(X)
        try:
            while trainer.epoch < trainer.total:
                trainer.run_epoch()
                if self.verbose and (trainer.epoch % 10 == 0 or trainer.epoch == trainer.total):
                    print(f"epoch {trainer.epoch}: loss {trainer.history[-1]:.5f}")  # noqa: T201
        except BudgetSpent as spent:
            self.finish(trainer, exact=True)
            spent.partial = self
            raise
        return self.finish(trainer)

    def begin(self, X: Any) -> Trainer:
        """Check the rows, fit the embedding, and set training up; `fit` is begin, epochs, finish."""
        self.check_settings()
        X = validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        self._seed = seed_of(self.random_state)
        key = Key(run=self._seed, site="detect/")
        kept = np.arange(len(X))
        self._rows_held = kept[:0]
        if self.threshold_kind == "holdout":
            order = key.at(site="detect/holdout").numpy().permutation(len(X))
            count = max(1, round(self.calibration * len(X)))
            if len(X) - count < 2:
                raise UsageError(f"{len(X)} rows leave {len(X) - count} for training", "Give more rows")
            self._rows_held, kept = np.sort(order[:count]), np.sort(order[count:])
        self.embedding_ = fit_embedding(
            X[kept],
            kind=self.preprocess,
            n_qubits=self.n_qubits,
            offset=self.offset,
            reduce=self.reduce,
            image_shape=self.image_shape,
        )
        n = self.embedding_.n
        layers = self.n_layers or (max(4, n) if n <= 6 else 10)
        self.circuit_ = Ansatz(self.ansatz, n, layers)
        self.account_ = Account(self.max_shots, self.max_jobs)
        psi = as_rows(self.embedding_(X))
        self._psi_all, self._kept = psi, kept
        plan, backend = self.measured(len(kept))
        settings = Settings(
            self.objective,
            self.nu,
            self.lr,
            self.lr_milestone,
            self.max_epochs,
            self.batch_size,
            self.weight_decay,
            self.pretrain,
            self.dtype,
            self.device,
        )
        return Trainer(self.circuit_, psi[torch.from_numpy(kept)], settings, key, plan, backend)

    def measured(self, rows: int) -> tuple[Plan | None, Backend | None]:
        """How gradients are measured, or None and None for autograd through the exact engine."""
        exact = self.shots is None and self.noise is None and self.backend == "torch"
        if self.gradient == "backprop" or (self.gradient == "auto" and exact):
            if not exact:
                raise UsageError(
                    "backprop needs the exact engine", "Leave shots, noise and backend, or change gradient"
                )
            return None, None
        if self.pretrain:
            raise UsageError("pretrain needs gradient='backprop'", "Leave it out where gradients are measured")
        plan = choose_plan(
            self.gradient,
            self.circuit_,
            copies=self.copies,
            shots=self.shots,
            rows=max(1, rows * self.max_epochs),
            max_shots=self.max_shots,
            max_jobs=self.max_jobs,
        )
        return plan, self.own_backend()

    def finish(self, trainer: Trainer, *, exact: bool = False) -> QuantumSVDD:
        """Law of the latents, scores and threshold after training; `exact`: without a further measurement."""
        self.theta_ = trainer.theta.detach().cpu().double().numpy().copy()
        self.history_ = list(trainer.history)
        self.n_parameters_ = self.circuit_.parameters
        self.calibrated_on_ = "torch" if exact or self.own_name == "torch" else self.own_name
        psi, kept = self._psi_all, self._kept
        del self._psi_all, self._kept
        backend = make_backend("torch", self.circuit_) if exact else trainer.backend or self.own_backend()
        shots = None if exact else self.shots
        key = Key(run=self._seed, site="detect/finish")
        mean, spread = backend.expect_features(
            psi, torch.from_numpy(self.theta_), shots=shots, key=key, latent=self.latent, spread=True
        )
        center = trainer.center.detach().cpu().double().numpy()
        self.fit_scores(mean.cpu().numpy(), None if spread is None else spread.cpu().numpy(), shots, kept, center, key)
        self._calibrated_shots, self._device_backend = shots, backend
        self.n_jobs_used_, self.n_shots_used_ = self.account_.jobs, self.account_.shots
        check_alive(self.train_scores_, self.center_)
        return self

    def fit_scores(
        self,
        latents: np.ndarray,
        spread: np.ndarray | None,
        shots: int | None,
        kept: np.ndarray,
        center: np.ndarray | None,
        key: Key,
    ) -> None:
        """Centre, law, radius and threshold from latents of training rows; center None: refitted."""
        n = self.circuit_.n
        held = np.setdiff1d(np.arange(len(latents)), kept)
        seen = latents[kept]
        refit = center is None or self.center == "refit"
        self.center_ = seen[:, :n].mean(0) if refit else center
        self.location_, self.precision_ = fit_law(seen)
        m = latents.shape[1]
        self.n_fitted_statistics_ = n + m + m * (m + 1) // 2 + self.embedding_.statistics
        scores = self.raw_scores(latents, spread, shots)
        self.train_scores_ = scores[kept]
        if len(held):
            judged = scores[held]
        elif self.threshold_kind == "crossfit" and self.statistic == "mahalanobis" and len(kept) >= 4:
            judged = crossfit(seen, key, None if spread is None else spread[kept])
        else:
            judged = self.train_scores_
        self.radius_ = threshold(judged, self.nu)
        self.offset_ = -self.radius_

    def check_settings(self) -> None:
        """Refuse settings that cannot be carried out."""
        if not 0 < self.nu < 1:
            raise UsageError(f"nu is {self.nu}", "It must lie between 0 and 1, both excluded")
        if not 0 < self.calibration < 1:
            raise UsageError(f"calibration is {self.calibration}", "It must lie between 0 and 1, both excluded")
        for name, choices in CHOICES.items():
            check_choice(getattr(self, name), choices, name=name)
        if self.pretrain is not None:
            check_choice(self.pretrain, ("autoencoder",), name="pretrain")
        if self.noise is not None:
            check_choice(self.noise, ("fast", "density"), name="noise")
            if self.backend != "torch":
                raise UsageError(
                    f"noise={self.noise!r} with backend={self.backend!r}", "A backend brings its own noise"
                )
        for name in ("max_epochs", "batch_size", "copies"):
            check_range(getattr(self, name), name=name, low=1)
        check_range(self.lr, name="lr", low=0.0, open_low=True)
        if self.threshold == "crossfit" and self.statistic == "distance":
            raise UsageError(
                "threshold='crossfit' with statistic='distance'", "Its centre is frozen: use holdout or auto"
            )

    @property
    def threshold_kind(self) -> str:
        """The threshold that "auto" stands for."""
        if self.threshold != "auto":
            return str(self.threshold)
        return "crossfit" if self.statistic == "mahalanobis" else "holdout"

    @property
    def own_name(self) -> str:
        """Name of the backend that the settings ask for."""
        if self.noise is not None:
            return str(self.noise)
        return self.backend if isinstance(self.backend, str) else str(self.backend.name)

    def own_backend(self) -> Backend:
        """The backend that the settings ask for, on the fit's account."""
        spec = self.noise or self.backend
        return make_backend(spec, self.circuit_, account=self.account_, device=self.device, seed=self._seed)

    # Scoring ---------------------------------------------------------------------------------------------------------

    def raw_scores(self, latents: np.ndarray, spread: np.ndarray | None, shots: int | None) -> np.ndarray:
        """Scores [b] from latents [b, m], higher = more anomalous, corrected for shots."""
        if self.statistic == "distance":
            return distance(latents, self.center_, shots)
        return mahalanobis(latents, self.location_, self.precision_, spread)

    def measure(
        self, X: Any, backend: Any = None, shots: int | None = None, *, spread: bool = False
    ) -> tuple[np.ndarray, np.ndarray | None, int | None]:
        """Latents [b, m], their shot covariance, and the shots: on a backend, or where the model was calibrated."""
        check_is_fitted(self, "theta_")
        X = validate_data(self, X, dtype=np.float64, reset=False)
        used: Backend
        if backend is None:
            used, shots = self.scoring_backend(), shots or self.scoring_shots
        else:
            used = make_backend(backend, self.circuit_, device=self.device, seed=self._seed)
            if used.noisy and used.name != self.calibrated_on_:
                warnings.warn(
                    f"The detector was calibrated on {self.calibrated_on_}, not on {used.name}: thresholds and scores"
                    " shift; use calibrate(X, backend) first",
                    stacklevel=3,
                )
        theta = torch.from_numpy(self.theta_)
        means, spreads = [], []
        for chunk, start in enumerate(range(0, len(X), ROWS)):
            key = Key(run=self._seed, site="detect/score", chunk=chunk)
            psi = as_rows(self.embedding_(X[start : start + ROWS]))
            mean, wide = used.expect_features(psi, theta, shots=shots, key=key, latent=self.latent, spread=spread)
            means.append(mean.cpu().numpy())
            if wide is not None:
                spreads.append(wide.cpu().numpy())
        return np.concatenate(means), np.concatenate(spreads) if spreads else None, shots

    @property
    def scoring_shots(self) -> int | None:
        """Shots per row when scoring where the model was calibrated."""
        shots: int | None = self._calibrated_shots
        return shots

    def scoring_backend(self) -> Backend:
        """Where scores are computed: on the backend that the threshold was fitted on."""
        if getattr(self, "_device_backend", None) is None:
            spec = self.calibrated_on_
            if spec == getattr(self.backend, "name", None):
                spec = self.backend
            self._device_backend = make_backend(spec, self.circuit_, device=self.device, seed=self._seed)
        return self._device_backend

    def anomaly_scores(self, X: Any, *, backend: Any = None, shots: int | None = None) -> np.ndarray:
        """Scores [b], higher = more anomalous; on another backend, where one is named."""
        latents, wide, used = self.measure(X, backend, shots, spread=self.statistic == "mahalanobis")
        return self.raw_scores(latents, wide, used)

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
        """Measured features [b, m]: <Z_j>, and with latent="z+zz" <Z_j Z_k> behind them."""
        return self.measure(X, backend, shots)[0]

    def calibrate(self, X: Any, backend: Any, *, shots: int | None = 4096) -> QuantumSVDD:
        """A new detector whose centre, law and threshold come from normal rows X run on `backend`.

        The angles stay. On a noisy device latents shrink and move, and a threshold from the simulator means nothing.
        For the distance score the threshold is the plain quantile of these rows, since the centre's refit is small.
        """
        check_is_fitted(self, "theta_")
        X = validate_data(self, X, dtype=np.float64, reset=False)
        made = copy.deepcopy(self)
        used = make_backend(backend, made.circuit_, device=made.device, seed=made._seed)
        key = Key(run=made._seed, site="detect/calibrate")
        mean, spread = used.expect_features(
            as_rows(made.embedding_(X)),
            torch.from_numpy(made.theta_),
            shots=shots,
            key=key,
            latent=made.latent,
            spread=True,
        )
        wide = None if spread is None else spread.cpu().numpy()
        made.fit_scores(mean.cpu().numpy(), wide, shots, np.arange(len(X)), None, key)
        made.calibrated_on_, made._calibrated_shots, made._device_backend = used.name, shots, used
        check_alive(made.train_scores_, made.center_)
        return made

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


CHOICES = {
    "preprocess": PREPROCESSES,
    "latent": ("z", "z+zz"),
    "statistic": ("mahalanobis", "distance"),
    "objective": OBJECTIVES,
    "threshold": ("auto", "crossfit", "holdout", "train"),
    "center": ("first_pass", "refit"),
    "dtype": ("float32", "float64", "complex64", "complex128"),
}


def seed_of(random_state: Any) -> int:
    """A Key's run from scikit-learn's random_state."""
    if isinstance(random_state, int | np.integer):
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))
