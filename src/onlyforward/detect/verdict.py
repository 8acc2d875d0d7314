"""What is said of scores: metrics of labels, the table with the peers, the most anomalous rows, one sentence."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from onlyforward.core.checks import require
from onlyforward.detect import peers
from onlyforward.detect.command import Fit
from onlyforward.detect.estimator import QuantumSVDD
from onlyforward.detect.tasks import Task, named, peer_rows

if TYPE_CHECKING:
    from onlyforward.run.result import Result

HONEST = (
    "At 12 qubits or fewer the model is classically simulable: it is quantum-hardware-ready and has few parameters, and"
    " plain PCA reconstruction or Ledoit-Wolf on the same rows beats it on digits and is a hundredth behind on MNIST."
)


def judge(detector: QuantumSVDD, task: Task) -> np.ndarray:
    """Scores of the test rows, or of the training rows where there are none."""
    rows = task.test if len(task.test) else task.train
    return detector.anomaly_scores(named(rows, task.columns))


def judgement(anomalous: np.ndarray, scores: np.ndarray, flagged: np.ndarray) -> dict[str, float]:
    """Metrics where labels exist; empty without both kinds of rows."""
    if not 0 < anomalous.sum() < len(anomalous):
        return {}
    metrics = require("sklearn.metrics", "data")
    found, alarms = float(flagged[anomalous].mean()), float(flagged[~anomalous].mean())
    return {
        "auroc": float(metrics.roc_auc_score(anomalous, scores)),
        "average_precision": float(metrics.average_precision_score(anomalous, scores)),
        "accuracy": float((flagged == anomalous).mean()),
        "balanced_accuracy": (found + 1 - alarms) / 2,
        "false_alarm_rate": alarms,
        "detection_rate": found,
    }


def summarise(result: Result, tasks: list[Task], detectors: list[QuantumSVDD], judged: list[np.ndarray]) -> None:
    """Metrics of all detectors: means, sums of what was paid, and one area per class."""
    first = detectors[0]
    result.metric("n_train", len(tasks[0].train))
    result.metric("n_parameters", first.n_parameters_)
    result.metric("n_fitted_statistics", first.n_fitted_statistics_)
    result.metric("n_qubits", first.circuit_.n)
    for name, index in (("loss_first", 0), ("loss_last", -1)):
        result.metric(name, float(np.mean([d.history_[index] for d in detectors])))
    result.metric("score_std", float(np.min([d.train_scores_.std() for d in detectors])))
    result.metric("collapsed", 0)
    result.metric("threshold", float(np.mean([d.radius_ for d in detectors])))
    result.metric("jobs", sum(d.n_jobs_used_ for d in detectors))
    result.metric("shots", sum(d.n_shots_used_ for d in detectors))
    result.metric("train_flagged", float(np.mean([(d.train_scores_ > d.radius_).mean() for d in detectors])))
    found = [
        judgement(task.anomalous, scores, scores > detector.radius_)
        for task, scores, detector in zip(tasks, judged, detectors, strict=True)
        if len(task.test)
    ]
    found = [metrics for metrics in found if metrics]
    if not found:
        return
    for name in found[0]:
        result.metric(name, float(np.mean([metrics[name] for metrics in found])))
    if len(tasks) > 1:
        areas = [metrics["auroc"] for metrics in found]
        result.metric("auroc_mean", float(np.mean(areas)))
        result.metric("auroc_worst", float(np.min(areas)))
        for task, area in zip(tasks, areas, strict=True):
            result.metric(f"auroc_{task.name}", area)


def untrained_scores(detector: QuantumSVDD, task: Task) -> np.ndarray:
    """The same circuit at its initial angles, its law fitted alike."""
    made = QuantumSVDD(**{**detector.get_params(), "lr": 1e-12, "max_epochs": 1, "gradient": "auto", "pretrain": None})
    made.fit(named(task.train, task.columns))
    return made.anomaly_scores(named(task.test, task.columns))


def compare(
    result: Result,
    options: Fit,
    tasks: list[Task],
    detectors: list[QuantumSVDD],
    judged: list[np.ndarray],
    wanted: list[str],
) -> None:
    """The table of areas with the peers, best first, on the same rows."""
    if "auroc" not in result.metrics:
        return
    area = require("sklearn.metrics", "data").roc_auc_score
    detector = detectors[0]
    sizes = f"{detector.n_parameters_} angles + {detector.n_fitted_statistics_} statistics"
    rows: list[list[Any]] = [["QSVDD (ours)", result.metrics["auroc"], sizes, result.metrics["fit_seconds"]]]
    absent = []
    for name in wanted:
        areas, size, seconds = [], None, 0.0
        for task, fitted in zip(tasks, detectors, strict=True):
            begin = time.process_time()
            if name == "untrained":
                scores: np.ndarray | None = untrained_scores(fitted, task)
                size = fitted.n_fitted_statistics_
            else:
                train, test = peer_rows(task)
                peer = peers.run_peer(name, train, test, image=task.kind != "table", seed=options.seed)
                scores, size = peer.scores, peer.parameters
            seconds += time.process_time() - begin
            if scores is not None:
                areas.append(float(area(task.anomalous, scores)))
        if not areas:
            absent.append([name, "not installed", None, None])
            continue
        result.metric(f"peer_{name}_auroc", float(np.mean(areas)))
        rows.append([name, float(np.mean(areas)), f"{size} fitted numbers", seconds / len(tasks)])
    rows.sort(key=lambda row: -row[1])
    result.table("Area under the ROC curve", ["detector", "AUROC", "size", "CPU time [s]"], rows + absent, HONEST)


def score_groups(task: Task, detector: QuantumSVDD, scores: np.ndarray) -> dict[str, np.ndarray]:
    """Scores by kind of row, for the histogram."""
    if not len(task.test):
        return {"training rows": scores}
    groups = {"normal": scores[~task.anomalous], "anomalous": scores[task.anomalous]}
    return {name: values for name, values in groups.items() if len(values)}


def most(result: Result, top: int, detector: QuantumSVDD, task: Task, scores: np.ndarray) -> None:
    """The most anomalous rows, with the columns furthest from normal in standard deviations."""
    rows = task.test if len(task.test) else task.train
    order = np.argsort(-scores, kind="stable")[:top]
    mean, std = task.train.mean(0), task.train.std(0)
    std = np.where(std > 0, std, 1.0)
    listed = []
    for i in order:
        cells = [task.ids[i], float(scores[i]), "yes" if scores[i] > detector.radius_ else "no"]
        if task.columns:
            cells.append(furthest(rows[i], mean, std, task.columns))
        if len(task.test):
            cells.append("anomalous" if task.anomalous[i] else "normal")
        listed.append(cells)
    columns = ["row", "score", "flagged"]
    columns += ["furthest from normal"] if task.columns else []
    columns += ["truly"] if len(task.test) else []
    result.table("Most anomalous rows", columns, listed)


def furthest(row: np.ndarray, mean: np.ndarray, std: np.ndarray, columns: tuple[str, ...]) -> str:
    """The three columns of a row that are furthest from normal, in standard deviations."""
    z = (row - mean) / std
    return ", ".join(f"{columns[j]} {row[j]:.4g} ({z[j]:+.1f} sd)" for j in np.argsort(-np.abs(z))[:3])


def answer(result: Result, detector: QuantumSVDD) -> str:
    """The headline in one sentence."""
    size = f"{detector.n_parameters_} trained angles and {detector.n_fitted_statistics_} fitted statistics"
    metrics = result.metrics
    if "auroc" not in metrics:
        return f"With {size}, {metrics['train_flagged']:.1%} of the training rows lie beyond the threshold."
    text = f"AUROC {metrics['auroc']:.3f} with {size}; false alarms {metrics['false_alarm_rate']:.1%}"
    text += f", detections {metrics['detection_rate']:.1%}"
    rivals = {name: value for name, value in metrics.items() if name.startswith("peer_")}
    if rivals:
        best = max(rivals, key=lambda name: rivals[name] or 0.0)
        text += f"; the best peer, {best.removeprefix('peer_').removesuffix('_auroc')}, has {rivals[best]:.3f}"
    return text + "."
