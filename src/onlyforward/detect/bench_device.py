"""Case `device`: 16 angles on a recorded chip under Aer, calibrated there, beside classical detectors of 16 pixels."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from onlyforward.core.checks import require
from onlyforward.detect import peers
from onlyforward.detect.command import BenchQuantum, RunOnDevice
from onlyforward.detect.device import read_trials, run_on_device
from onlyforward.detect.embed import resized
from onlyforward.detect.verdict import HONEST
from onlyforward.run.context import Context

if TYPE_CHECKING:
    from onlyforward.run.result import Result

NOT_THE_PAPERS = "A comparable setting under our protocol: the paper's own hardware protocol is not public."


def device(options: BenchQuantum, context: Context, result: Result) -> None:
    """Ten classes of digits, 120 balanced rows each, 4096 shots."""
    wanted = RunOnDevice(
        data="digits", normal="all", backend="fake_manila", seed=options.seed, threads=options.threads, json=True
    )
    own = Context(wanted, application="detect", command="detect run-on-device")
    begin = time.process_time()
    made = run_on_device(wanted, own)
    result.metric("device_cpu_seconds", time.process_time() - begin, timing=True)
    for name, value in made.metrics.items():
        if value is not None:
            result.metric(f"device_{name}", value, timing=name in made.timing)
    area = require("sklearn.metrics", "data").roc_auc_score
    found: dict[str, list[float]] = {}
    for trial in read_trials(wanted, own):
        side = int(np.sqrt(trial.train.shape[1]))
        train, test = (resized(rows, (side, side), (4, 4)) for rows in (trial.train, trial.test))
        for name in ("ledoitwolf", "pca", "ocsvm"):
            scores = peers.run_peer(name, train, test, image=True, seed=options.seed).scores
            if scores is not None:
                found.setdefault(name, []).append(float(area(trial.anomalous, scores)))
    for made_table in made.tables:
        result.table(f"device: {made_table.title}", made_table.columns, made_table.rows, made_table.note)
    result.notes.append(NOT_THE_PAPERS)
    rows = [[f"QSVDD, {arm}", made.metrics[f"{arm}_auroc"]] for arm in ("mahalanobis", "refit", "exact")]
    rows += [[f"{name}, the same 16 pixels", float(np.mean(areas))] for name, areas in found.items()]
    for name, areas in found.items():
        result.metric(f"device_peer_{name}_auroc", float(np.mean(areas)))
    rows.sort(key=lambda row: -row[1])
    result.table("device: AUROC beside classical detectors", ["detector", "AUROC"], rows, HONEST)
