"""How a detector comes to be: embedding, training, then the law of its latents and its threshold."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from onlyforward.core.checks import require
from onlyforward.core.errors import UsageError
from onlyforward.core.keys import Key
from onlyforward.detect.ansatz import Ansatz
from onlyforward.detect.backends import Account, Backend, as_rows, make_backend
from onlyforward.detect.embed import fit_embedding
from onlyforward.detect.engine import feature_count
from onlyforward.detect.gradients import Plan, choose_plan
from onlyforward.detect.objective import check_alive
from onlyforward.detect.readout import raw_scores
from onlyforward.detect.score import crossfit, fit_law, threshold
from onlyforward.detect.settings import backend_name, check_settings, objective_latent, seed_of, threshold_kind
from onlyforward.detect.train import Settings, Trainer

if TYPE_CHECKING:
    from onlyforward.detect.estimator import QuantumSVDD

require("sklearn", "data")
from sklearn.utils.validation import check_is_fitted, validate_data  # noqa: E402


def begin(detector: QuantumSVDD, X: Any) -> Trainer:
    """Check the rows, fit the embedding, and set training up; `fit` is begin, epochs, finish."""
    check_settings(detector)
    X = validate_data(detector, X, dtype=np.float64, ensure_min_samples=2)
    detector._seed = seed_of(detector.random_state)
    key = Key(run=detector._seed, site="detect/")
    kept = np.arange(len(X))
    detector._rows_held = kept[:0]
    if threshold_kind(detector) == "holdout":
        order = key.at(site="detect/holdout").numpy().permutation(len(X))
        count = max(1, round(detector.calibration * len(X)))
        if len(X) - count < 2:
            raise UsageError(f"{len(X)} rows leave {len(X) - count} for training", "Give more rows")
        detector._rows_held, kept = np.sort(order[:count]), np.sort(order[count:])
    detector.embedding_ = fit_embedding(
        X[kept],
        kind=detector.preprocess,
        n_qubits=detector.n_qubits,
        offset=detector.offset,
        reduce=detector.reduce,
        image_shape=detector.image_shape,
    )
    n = detector.embedding_.n
    layers = detector.n_layers or (max(4, n) if n <= 6 else 10)
    detector.circuit_ = Ansatz(detector.ansatz, n, layers)
    detector.account_ = Account(detector.max_shots, detector.max_jobs)
    psi = as_rows(detector.embedding_(X))
    detector._psi_all, detector._kept = psi, kept
    plan, backend = plan_of(detector, len(kept))
    settings = Settings(
        detector.objective,
        detector.nu,
        detector.lr,
        detector.lr_milestone,
        detector.max_epochs,
        detector.batch_size,
        detector.weight_decay,
        detector.pretrain,
        detector.dtype,
        detector.device,
        objective_latent(detector),
    )
    return Trainer(detector.circuit_, psi[torch.from_numpy(kept)], settings, key, plan, backend)


def plan_of(detector: QuantumSVDD, rows: int) -> tuple[Plan | None, Backend | None]:
    """How gradients are measured, or None and None for autograd through the exact engine."""
    exact = detector.shots is None and detector.noise is None and detector.backend == "torch"
    if detector.gradient == "backprop" or (detector.gradient == "auto" and exact):
        if not exact:
            raise UsageError("backprop needs the exact engine", "Leave shots, noise and backend, or change gradient")
        return None, None
    if detector.pretrain:
        raise UsageError("pretrain needs gradient='backprop'", "Leave it out where gradients are measured")
    plan = choose_plan(
        detector.gradient,
        detector.circuit_,
        copies=detector.copies,
        shots=detector.shots,
        rows=max(1, rows * detector.max_epochs),
        max_shots=detector.max_shots,
        max_jobs=detector.max_jobs,
    )
    return plan, own_backend(detector)


def own_backend(detector: QuantumSVDD) -> Backend:
    """The backend that the settings ask for, on the fit's account."""
    spec = detector.noise or detector.backend
    return make_backend(spec, detector.circuit_, account=detector.account_, device=detector.device, seed=detector._seed)


def finish(detector: QuantumSVDD, trainer: Trainer, *, exact: bool = False) -> QuantumSVDD:
    """Law of the latents, scores and threshold after training; `exact`: without a further measurement."""
    detector.theta_ = trainer.theta.detach().cpu().double().numpy().copy()
    detector.history_ = list(trainer.history)
    detector.n_parameters_ = detector.circuit_.parameters
    detector.calibrated_on_ = "torch" if exact or backend_name(detector) == "torch" else backend_name(detector)
    psi, kept = detector._psi_all, detector._kept
    backend = make_backend("torch", detector.circuit_) if exact else trainer.backend or own_backend(detector)
    shots = None if exact else detector.shots
    key = Key(run=detector._seed, site="detect/finish")
    mean, spread = backend.expect_features(
        psi, torch.from_numpy(detector.theta_), shots=shots, key=key, latent=detector.latent, spread=True
    )
    center = trainer.center.detach().cpu().double().numpy()
    # A budget that ends in the measurement above leaves the rows to a second call, which needs none.
    del detector._psi_all, detector._kept
    fit_scores(detector, mean.cpu().numpy(), None if spread is None else spread.cpu().numpy(), shots, kept, center, key)
    detector._calibrated_shots, detector._device_backend = shots, backend
    detector.n_jobs_used_, detector.n_shots_used_ = detector.account_.jobs, detector.account_.shots
    check_alive(detector.train_scores_, detector.center_)
    return detector


def fit_scores(
    detector: QuantumSVDD,
    latents: np.ndarray,
    spread: np.ndarray | None,
    shots: int | None,
    kept: np.ndarray,
    center: np.ndarray | None,
    key: Key,
) -> None:
    """Centre, law, radius and threshold from latents of training rows; center None: refitted."""
    width = feature_count(detector.circuit_.n, objective_latent(detector))
    held = np.setdiff1d(np.arange(len(latents)), kept)
    seen = latents[kept]
    refit = center is None or detector.center == "refit"
    detector.center_ = seen[:, :width].mean(0) if refit else center
    detector.location_, detector.precision_ = fit_law(seen)
    m = latents.shape[1]
    detector.n_fitted_statistics_ = width + m + m * (m + 1) // 2 + detector.embedding_.statistics
    scores = raw_scores(detector, latents, spread, shots)
    detector.train_scores_ = scores[kept]
    if len(held):
        judged = scores[held]
    elif threshold_kind(detector) == "crossfit" and detector.statistic == "mahalanobis" and len(kept) >= 4:
        judged = crossfit(seen, key, None if spread is None else spread[kept])
    else:
        judged = detector.train_scores_
    detector.radius_ = threshold(judged, detector.nu)
    detector.offset_ = -detector.radius_


def calibrate(detector: QuantumSVDD, X: Any, backend: Any, *, shots: int | None = 4096) -> QuantumSVDD:
    """A new detector whose centre, law and threshold come from normal rows X run on `backend`.

    The angles stay. On a noisy device latents shrink and move, and a threshold from the simulator means nothing.
    For the distance score the threshold is the plain quantile of these rows.
    """
    check_is_fitted(detector, "theta_")
    X = validate_data(detector, X, dtype=np.float64, reset=False)
    made = copy.deepcopy(detector)
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
    fit_scores(made, mean.cpu().numpy(), wide, shots, np.arange(len(X)), None, key)
    made.calibrated_on_, made._calibrated_shots, made._device_backend = used.name, shots, used
    check_alive(made.train_scores_, made.center_)
    return made
