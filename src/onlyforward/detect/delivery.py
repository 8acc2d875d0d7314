"""What a fit leaves in its folder for `detect score` and for devices, and how it is read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onlyforward.core.errors import CheckpointError
from onlyforward.detect import figures, store
from onlyforward.detect.command import Fit
from onlyforward.detect.estimator import QuantumSVDD
from onlyforward.detect.tasks import Task
from onlyforward.detect.verdict import score_groups
from onlyforward.run.checkpoint import write_atomically

if TYPE_CHECKING:
    from onlyforward.run.result import Result

KEPT = 200
"""Training rows kept with a detector, for calibration on devices."""


def folder_name(task: Task, tasks: list[Task]) -> str:
    """Where a detector is kept inside the run's folder."""
    return f"detector-{task.name}" if len(tasks) > 1 else "detector"


def deliver(
    folder: Path,
    options: Fit,
    result: Result,
    detectors: list[QuantumSVDD],
    tasks: list[Task],
    judged: list[np.ndarray],
) -> None:
    """Detectors, what scoring needs to know, training rows for calibration, and pictures."""
    for detector, task in zip(detectors, tasks, strict=True):
        place = folder / folder_name(task, tasks)
        store.save(detector, place)
        write_rows(place, task.train[:KEPT])
    described = {
        "data": options.data,
        "seed": options.seed,
        "train": options.train,
        "tasks": [{"name": task.name, "folder": folder_name(task, tasks)} for task in tasks],
        "kind": tasks[0].kind,
        "image": list(tasks[0].image),
        "columns": list(tasks[0].columns),
        "medians": None if tasks[0].medians is None else tasks[0].medians.tolist(),
        "mean": tasks[0].train.mean(0).tolist(),
        "std": tasks[0].train.std(0).tolist(),
        "label": options.label,
        "normal": options.normal,
        "id": options.id,
    }
    write_atomically(folder / "task.json", (json.dumps(described) + "\n").encode())
    groups = score_groups(tasks[0], detectors[0], judged[0])
    figures.histogram(folder / "scores.svg", groups, detectors[0].radius_)
    result.figures["Scores and threshold"] = "scores.svg"
    figures.circuit(folder / "circuit.svg", detectors[0].circuit_)
    result.figures["The circuit"] = "circuit.svg"
    if tasks[0].image:
        rows = tasks[0].test if len(tasks[0].test) else tasks[0].train
        order = np.argsort(-judged[0], kind="stable")[: options.top]
        titles = [f"{tasks[0].ids[i]}: {judged[0][i]:.3g}" for i in order]
        figures.pictures(folder / "most-anomalous.png", rows[order].reshape(-1, *tasks[0].image), titles)
        result.figures["Most anomalous images, with their scores"] = "most-anomalous.png"


def read_task(folder: Path) -> dict[str, Any]:
    """What `deliver` described.

    Raises:
        CheckpointError: the folder holds no finished fit, or it is damaged.
    """
    try:
        found = json.loads((folder / "task.json").read_text(encoding="utf-8"))
        if {"tasks", "kind", "columns", "data"} <= set(found):
            return dict(found)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{folder} holds no detector", "Give the --out folder of a finished detect fit"
        ) from error
    except (OSError, ValueError, TypeError):
        pass
    raise CheckpointError(f"The detector in {folder} is damaged", "Fit it again")


def write_rows(place: Path, rows: np.ndarray) -> None:
    """Training rows [N, d] beside a detector, for its calibration on devices."""
    from safetensors.numpy import save as to_bytes

    write_atomically(place / "rows.safetensors", to_bytes({"rows": np.ascontiguousarray(rows)}))


def kept_rows(place: Path) -> np.ndarray:
    """The training rows that `write_rows` kept.

    Raises:
        CheckpointError: they are missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load as from_bytes

    try:
        rows: np.ndarray = from_bytes((place / "rows.safetensors").read_bytes())["rows"]
    except (OSError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"The training rows of {place} are missing or damaged", "Fit it again") from error
    return rows
