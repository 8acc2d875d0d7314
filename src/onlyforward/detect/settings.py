"""What the constructor of `QuantumSVDD` was given: checked, and its automatic choices resolved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from onlyforward.core.checks import check_choice, check_range, require
from onlyforward.core.errors import UsageError
from onlyforward.detect.embed import PREPROCESSES
from onlyforward.detect.engine import LATENTS
from onlyforward.detect.objective import OBJECTIVES

if TYPE_CHECKING:
    from onlyforward.detect.estimator import QuantumSVDD

CHOICES = {
    "preprocess": PREPROCESSES,
    "latent": LATENTS,
    "statistic": ("mahalanobis", "distance"),
    "objective": OBJECTIVES,
    "threshold": ("auto", "crossfit", "holdout", "train"),
    "center": ("first_pass", "refit"),
    "dtype": ("float32", "float64", "complex64", "complex128"),
}


def check_settings(detector: QuantumSVDD) -> None:
    """Refuse settings that cannot be carried out."""
    if not 0 < detector.nu < 1:
        raise UsageError(f"nu is {detector.nu}", "It must lie between 0 and 1, both excluded")
    if not 0 < detector.calibration < 1:
        raise UsageError(f"calibration is {detector.calibration}", "It must lie between 0 and 1, both excluded")
    for name, choices in CHOICES.items():
        check_choice(getattr(detector, name), choices, name=name)
    chosen = check_choice(objective_latent(detector), LATENTS, name="objective_latent")
    if LATENTS.index(chosen) > LATENTS.index(detector.latent):
        raise UsageError(
            f"objective_latent={chosen!r} is more than latent={detector.latent!r}",
            "Raise latent: the objective sees a part of it",
        )
    if detector.pretrain is not None:
        check_choice(detector.pretrain, ("autoencoder",), name="pretrain")
    if detector.noise is not None:
        check_choice(detector.noise, ("fast", "density"), name="noise")
        if detector.backend != "torch":
            raise UsageError(
                f"noise={detector.noise!r} with backend={detector.backend!r}", "A backend brings its own noise"
            )
    for name in ("max_epochs", "batch_size", "copies"):
        check_range(getattr(detector, name), name=name, low=1)
    for name in ("max_shots", "max_jobs"):
        if getattr(detector, name) is not None:
            check_range(getattr(detector, name), name=name, low=1)
    check_range(detector.lr, name="lr", low=0.0, open_low=True)
    check_range(detector.weight_decay, name="weight_decay", low=0.0)
    if detector.threshold == "crossfit" and detector.statistic == "distance":
        raise UsageError("threshold='crossfit' with statistic='distance'", "Its centre is frozen: use holdout or auto")


def threshold_kind(detector: QuantumSVDD) -> str:
    """The threshold that "auto" stands for."""
    if detector.threshold != "auto":
        return str(detector.threshold)
    return "crossfit" if detector.statistic == "mahalanobis" else "holdout"


def objective_latent(detector: QuantumSVDD) -> str:
    """The features that None stands for: z+zz, or z where nothing else is measured."""
    if detector.objective_latent is None:
        return "z" if detector.latent == "z" else "z+zz"
    return str(detector.objective_latent)


def backend_name(detector: QuantumSVDD) -> str:
    """Name of the backend that the settings ask for."""
    if detector.noise is not None:
        return str(detector.noise)
    return detector.backend if isinstance(detector.backend, str) else str(detector.backend.name)


def seed_of(random_state: Any) -> int:
    """A Key's run from scikit-learn's random_state."""
    if isinstance(random_state, int | np.integer):
        return int(random_state)
    check_random_state = require("sklearn.utils", "data").check_random_state
    return int(check_random_state(random_state).randint(2**31 - 1))
