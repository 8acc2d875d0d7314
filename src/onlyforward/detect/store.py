"""A detector in a folder: `detector.safetensors` and `detector.json`, each with a checksum; nothing is executed."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onlyforward.core.errors import CheckpointError, UsageError
from onlyforward.detect.ansatz import Ansatz
from onlyforward.detect.backends import Account
from onlyforward.detect.embed import from_arrays, to_arrays
from onlyforward.run.checkpoint import write_atomically

if TYPE_CHECKING:
    from onlyforward.detect.estimator import QuantumSVDD

ARRAYS = ("theta_", "center_", "location_", "precision_", "train_scores_")
NUMBERS = (
    "radius_",
    "offset_",
    "n_parameters_",
    "n_fitted_statistics_",
    "n_jobs_used_",
    "n_shots_used_",
    "n_features_in_",
)


def save(detector: QuantumSVDD, folder: Path) -> None:
    """Write a fitted detector into a folder."""
    from safetensors.numpy import save as to_bytes

    arrays, embedding = to_arrays(detector.embedding_)
    arrays |= {name: getattr(detector, name) for name in ARRAYS}
    names = getattr(detector, "feature_names_in_", None)
    settings = detector.get_params()
    if not isinstance(settings["backend"], str):
        raise UsageError("A backend object cannot be saved", "Use a backend's name, or calibrate after loading")
    if not isinstance(settings["random_state"], int | None):
        settings["random_state"] = detector._seed
    content = to_bytes({name: np.array(array, order="C") for name, array in arrays.items()})
    data = {
        "settings": settings,
        "embedding": embedding,
        "numbers": {name: getattr(detector, name) for name in NUMBERS},
        "layers": detector.circuit_.layers,
        "history": detector.history_,
        "calibrated_on": detector.calibrated_on_,
        "calibrated_shots": detector._calibrated_shots,
        "seed": detector._seed,
        "names": None if names is None else list(names),
        "sha256": sha256(content).hexdigest(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "detector.safetensors", content)
    write_atomically(folder / "detector.json", (json.dumps(data, indent=1) + "\n").encode())


def load(folder: Path) -> QuantumSVDD:
    """Read a detector.

    Raises:
        CheckpointError: the folder holds none, or it is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load as from_bytes

    from onlyforward.detect.estimator import QuantumSVDD

    try:
        data: dict[str, Any] = json.loads((folder / "detector.json").read_text(encoding="utf-8"))
        content = (folder / "detector.safetensors").read_bytes()
        if sha256(content).hexdigest() != data["sha256"]:
            raise ValueError("checksum")
        arrays = from_bytes(content)
        shape = data["settings"]["image_shape"]
        made = QuantumSVDD(**{**data["settings"], "image_shape": None if shape is None else tuple(shape)})
        for name in ARRAYS:
            setattr(made, name, arrays[name])
        for name in NUMBERS:
            setattr(made, name, data["numbers"][name])
        made.embedding_ = from_arrays(arrays, data["embedding"])
        made.circuit_ = Ansatz(made.ansatz, made.embedding_.n, data["layers"])
        made.history_, made.calibrated_on_ = data["history"], data["calibrated_on"]
        made._calibrated_shots, made._seed = data["calibrated_shots"], data["seed"]
        made.account_ = Account()
        if data["names"] is not None:
            made.feature_names_in_ = np.array(data["names"], dtype=object)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{folder} holds no detector", "Give the --out folder of a finished detect fit"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"The detector in {folder} is damaged", "Fit it again") from error
    return made
