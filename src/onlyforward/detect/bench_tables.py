"""Cases `threshold` (does the false-alarm rate hold?) and `tabular` (breast cancer and wine)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from onlyforward.core.checks import require
from onlyforward.core.keys import Key
from onlyforward.detect import peers
from onlyforward.detect.command import BenchQuantum
from onlyforward.detect.estimator import QuantumSVDD
from onlyforward.detect.presets import settings
from onlyforward.detect.score import crossfit, distance, mahalanobis, threshold
from onlyforward.detect.tasks import Task, class_task, peer_rows, pool
from onlyforward.detect.verdict import HONEST

if TYPE_CHECKING:
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result

NU = 0.1
TABLE_PEERS = ("ocsvm", "iforest", "ledoitwolf", "pca")


def rates(anomalous: np.ndarray, flagged: np.ndarray) -> tuple[float, float]:
    """False-alarm rate and balanced accuracy."""
    alarms, found = float(flagged[~anomalous].mean()), float(flagged[anomalous].mean())
    return alarms, (found + 1 - alarms) / 2


def thresholds(options: BenchQuantum, context: Context, result: Result) -> None:
    """Digits at nu = 0.1: thresholds from scores of rows that the law has seen, and from rows that it has not."""
    rows = pool("digits")
    found: dict[str, list[tuple[float, float]]] = {}
    seeds = range(options.seeds)
    with context.progress(10 * len(seeds), label="threshold") as tick:
        for seed in seeds:
            for k in range(10):
                task = class_task(rows, k, Key(run=seed))
                for name, flagged in decisions(task, seed).items():
                    found.setdefault(name, []).append(rates(task.anomalous, flagged))
                tick()
    table = []
    for name, pairs in found.items():
        alarms, balanced = np.mean(pairs, axis=0)
        result.metric(f"threshold_{name}_false_alarm", float(alarms))
        result.metric(f"threshold_{name}_balanced_accuracy", float(balanced))
        table.append([name, float(alarms), float(np.std([p[0] for p in pairs])), float(balanced)])
    note = f"nu = {NU}: a tenth of new normal rows may be flagged. 100 training rows a class, mean over 10 classes."
    columns = ["threshold", "false-alarm rate", "sd over fits", "balanced accuracy"]
    result.table(f"Thresholds on digits, {len(seeds)} seeds", columns, table, note)


def decisions(task: Task, seed: int) -> dict[str, np.ndarray]:
    """Flags [T] of every threshold: crossfit and train from one fit, holdout of another, peers by their own."""
    chosen = {**settings("digits"), "image_shape": tuple(task.image), "random_state": seed, "nu": NU}
    detector = QuantumSVDD(**chosen).fit(task.train)
    seen, new = detector.latents(task.train), detector.latents(task.test)
    law = (detector.location_, detector.precision_)
    scores, far = mahalanobis(new, *law), distance(new, detector.center_)
    held = QuantumSVDD(**{**chosen, "statistic": "distance"}).fit(task.train)
    made = {
        "crossfit": scores > threshold(crossfit(seen, Key(run=seed, site="detect/finish")), NU),
        "train": scores > threshold(mahalanobis(seen, *law), NU),
        "distance_holdout": held.anomaly_scores(task.test) > held.radius_,
        "distance_train": far > threshold(distance(seen, detector.center_), NU),
    }
    train, test = peer_rows(task)
    for name in ("ocsvm", "iforest"):
        peer = peers.run_peer(name, train, test, image=True, seed=seed)
        if peer.flagged is not None:
            made[name] = peer.flagged
    return made


def tables(seed: int, first: int = 0) -> Iterator[tuple[str, Task]]:
    """Breast cancer with benign rows as normal (200 train), and every class of wine (35 train)."""
    datasets = require("sklearn.datasets", "data")
    cancer, wine = datasets.load_breast_cancer(), datasets.load_wine()
    yield "breast", split("breast", cancer.data, cancer.target == 1, 200, seed)
    for k in range(3):
        yield "wine", split(f"wine{k}", wine.data, wine.target == k, 35, seed)


def split(name: str, x: np.ndarray, normal: np.ndarray, count: int, seed: int) -> Task:
    """`count` random normal rows train, all others judge."""
    order = Key(run=seed, site=f"detect/split/{name}").numpy().permutation(np.flatnonzero(normal))
    rest = np.setdiff1d(np.arange(len(x)), order[:count])
    columns = tuple(f"c{j}" for j in range(x.shape[1]))
    return Task(name, "table", x[order[:count]], x[rest], ~normal[rest], columns)


def tabular(options: BenchQuantum, context: Context, result: Result) -> None:
    """Tables of scikit-learn: ours with and without the offset, beside classical detectors."""
    area = require("sklearn.metrics", "data").roc_auc_score
    found: dict[str, dict[str, list[float]]] = {}

    def add(arm: str, kind: str, value: float) -> None:
        found.setdefault(arm, {}).setdefault(kind, []).append(float(value))

    for seed in range(options.seeds):
        for kind, task in tables(seed):
            wanted = {"ours": None, "rho = 1": 1.0, "rho = 4": 4.0, "without offset": 0.0}
            for arm, rho in wanted.items():
                detector = QuantumSVDD(**settings("tables"), offset=rho, random_state=seed).fit(task.train)
                f = detector.latents(task.test)
                add(arm, kind, area(task.anomalous, mahalanobis(f, detector.location_, detector.precision_)))
                add(f"{arm}, distance", kind, area(task.anomalous, distance(f, detector.center_)))
            train, test = peer_rows(task)
            for name in TABLE_PEERS:
                scores = peers.run_peer(name, train, test, image=False, seed=seed).scores
                if scores is not None:
                    add(name, kind, area(task.anomalous, scores))
            add("norm of s", kind, area(task.anomalous, (np.clip(test, -10, 10) ** 2).sum(1)))
    table = []
    for arm, kinds in found.items():
        breast, wine = (float(np.mean(kinds[kind])) for kind in ("breast", "wine"))
        table.append([arm, breast, float(np.std(kinds["breast"])), wine, float(np.std(kinds["wine"]))])
    result.metric("tabular_breast_auroc", table[0][1])
    result.metric("tabular_wine_auroc", table[0][3])
    for arm in ("without offset", "without offset, distance", "rho = 4", "norm of s", *TABLE_PEERS):
        if arm in found:
            word = arm.replace(" = ", "").replace(", ", "_").replace(" ", "_")
            result.metric(f"tabular_breast_{word}_auroc", float(np.mean(found[arm]["breast"])))
            result.metric(f"tabular_wine_{word}_auroc", float(np.mean(found[arm]["wine"])))
    table.sort(key=lambda row: -row[1])
    columns = ["detector", "breast cancer AUROC", "sd", "wine AUROC", "sd (classes and seeds)"]
    note = f"{HONEST} Without the offset amplitude the length of a row is lost, and with it what makes it anomalous."
    result.table(f"Tables, {options.seeds} seeds", columns, table, note)
