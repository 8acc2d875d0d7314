"""Latents and scores of new rows, measured where the detector was calibrated or on a backend of the caller's."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from onlyforward.core.checks import require
from onlyforward.core.keys import Key
from onlyforward.detect.backends import Backend, as_rows, make_backend
from onlyforward.detect.score import distance, mahalanobis

if TYPE_CHECKING:
    from onlyforward.detect.estimator import QuantumSVDD

require("sklearn", "data")
from sklearn.utils.validation import check_is_fitted, validate_data  # noqa: E402

ROWS = 4096
"""Rows embedded and scored at once."""


def measure(
    detector: QuantumSVDD, X: Any, backend: Any = None, shots: int | None = None, *, spread: bool = False
) -> Iterator[tuple[np.ndarray, np.ndarray | None, int | None]]:
    """Latents [b, m], their shot covariance [b, m, m], and the shots, ROWS rows at a time.

    They are measured on a backend, or where the model was calibrated.
    """
    check_is_fitted(detector, "theta_")
    X = validate_data(detector, X, dtype=np.float64, reset=False)
    used: Backend
    if backend is None:
        used, shots = scoring_backend(detector), shots or detector._calibrated_shots
    else:
        used = make_backend(backend, detector.circuit_, device=detector.device, seed=detector._seed)
        if used.noisy and used.name != detector.calibrated_on_:
            warnings.warn(
                f"The detector was calibrated on {detector.calibrated_on_}, not on {used.name}: thresholds and scores"
                " shift; use calibrate(X, backend) first",
                stacklevel=3,
            )
    theta = torch.from_numpy(detector.theta_)
    for chunk, start in enumerate(range(0, len(X), ROWS)):
        key = Key(run=detector._seed, site="detect/score", chunk=chunk)
        psi = as_rows(detector.embedding_(X[start : start + ROWS]))
        mean, wide = used.expect_features(psi, theta, shots=shots, key=key, latent=detector.latent, spread=spread)
        yield mean.cpu().numpy(), None if wide is None else wide.cpu().numpy(), shots


def scoring_backend(detector: QuantumSVDD) -> Backend:
    """Where scores are computed: on the backend that the threshold was fitted on."""
    if getattr(detector, "_device_backend", None) is None:
        spec = detector.calibrated_on_
        if spec == getattr(detector.backend, "name", None):
            spec = detector.backend
        detector._device_backend = make_backend(spec, detector.circuit_, device=detector.device, seed=detector._seed)
    return detector._device_backend


def raw_scores(detector: QuantumSVDD, latents: np.ndarray, spread: np.ndarray | None, shots: int | None) -> np.ndarray:
    """Scores [b] from latents [b, m], higher = more anomalous, corrected for shots."""
    if detector.statistic == "distance":
        return distance(latents, detector.center_, shots)
    return mahalanobis(latents, detector.location_, detector.precision_, spread)
