"""Cases `digits`, `mnist`, `fashion` and `paper`: one class against all others, beside classical detectors."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from onlyforward.core.checks import require
from onlyforward.core.keys import Key
from onlyforward.detect import peers
from onlyforward.detect.backends import as_rows
from onlyforward.detect.command import BenchQuantum
from onlyforward.detect.engine import Engine
from onlyforward.detect.estimator import QuantumSVDD
from onlyforward.detect.objective import first_center
from onlyforward.detect.presets import settings
from onlyforward.detect.score import distance, fit_law, mahalanobis
from onlyforward.detect.tasks import Task, class_task, peer_rows, pool
from onlyforward.detect.train import initial_angles
from onlyforward.detect.verdict import HONEST

if TYPE_CHECKING:
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result

CLASSICAL = ("pca", "ledoitwolf", "ocsvm", "kde", "iforest", "cosine", "deepsvdd")
PUBLISHED = (
    "Oh and Park (arXiv 2310.06375) print a mean AUROC of 83.1 with 75 angles on MNIST: another split, not the same"
    " protocol."
)
CLASSES = range(10)
QUICK_SU4 = (0, 1, 2)


@dataclass
class Arm:
    """One row of a table: areas by class and seed, size, CPU seconds per class."""

    areas: list[list[float]] = field(default_factory=list)
    size: str = ""
    seconds: float = 0.0
    absent: bool = False

    @property
    def by_class(self) -> np.ndarray:
        """Mean over seeds of every class: [classes]."""
        return np.mean(self.areas, axis=0)

    @property
    def mean(self) -> float:
        """Mean over classes and seeds."""
        return float(np.mean(self.areas))

    @property
    def spread(self) -> float | None:
        """Standard deviation over seeds of the mean over classes."""
        return float(np.std(np.mean(self.areas, axis=1), ddof=1)) if len(self.areas) > 1 else None


def area(task: Task, scores: np.ndarray) -> float:
    """AUROC of scores on a task's test rows."""
    return float(require("sklearn.metrics", "data").roc_auc_score(task.anomalous, scores))


def fitted(task: Task, seed: int, **changes: Any) -> tuple[QuantumSVDD, float]:
    """The recommended detector of a task, with changes, and the CPU seconds of its fit."""
    chosen = {**settings("recommended", data=task.kind), "image_shape": tuple(task.image), "random_state": seed}
    detector = QuantumSVDD(**{**chosen, **changes})
    begin = time.process_time()
    detector.fit(task.train)
    return detector, time.process_time() - begin


def both(detector: QuantumSVDD, task: Task) -> tuple[float, float, float]:
    """AUROC of distance and Mahalanobis from the same fit, and the spread of the scores of the test rows."""
    f = detector.latents(task.test)
    far, law = distance(f, detector.center_), mahalanobis(f, detector.location_, detector.precision_)
    return area(task, far), area(task, law), float(min(far.std(), law.std()))


def untrained(detector: QuantumSVDD, task: Task, seed: int) -> tuple[float, float]:
    """The same circuit at its initial angles: AUROC of distance and Mahalanobis."""
    theta = initial_angles(detector.circuit_, Key(run=seed, site="detect/"))
    engine = Engine(detector.circuit_, "float64")
    train, test = (
        engine.expect(as_rows(detector.embedding_(rows)), theta, detector.latent) for rows in (task.train, task.test)
    )
    center = first_center(train[:, : len(detector.center_)]).numpy()
    law = fit_law(train.numpy())
    return area(task, distance(test.numpy(), center)), area(task, mahalanobis(test.numpy(), *law))


def same_embedding(detector: QuantumSVDD, task: Task) -> float:
    """Ledoit-Wolf on the embedded rows: everything but the circuit."""
    train, test = (detector.embedding_(rows) for rows in (task.train, task.test))
    return area(task, peers.run_peer("ledoitwolf", train, test, image=False, seed=0).scores)  # type: ignore[arg-type]


def random_projections(detector: QuantumSVDD, task: Task, seed: int) -> float:
    """Ledoit-Wolf on 36 squared random projections of the embedded rows: as many features, no circuit."""
    train, test = (detector.embedding_(rows) for rows in (task.train, task.test))
    draw = Key(run=seed, site="detect/random36").numpy().standard_normal((train.shape[1], 36))
    law = fit_law((train @ draw) ** 2)
    return area(task, mahalanobis((test @ draw) ** 2, *law))


def compare(
    options: BenchQuantum, context: Context, result: Result, name: str, seeds: Sequence[int], data: str
) -> dict[str, Arm]:
    """All arms on all classes and seeds; metrics under `name`, one table."""
    rows = pool(data)
    arms: dict[str, Arm] = {}

    def arm(key: str) -> Arm:
        return arms.setdefault(key, Arm())

    def add(key: str, value: float, seconds: float = 0.0, size: str = "") -> None:
        arm(key).areas[-1].append(value)
        arm(key).seconds += seconds
        arm(key).size = size or arm(key).size

    ours = ("distance", "mahalanobis", "untrained distance", "untrained mahalanobis", "lw_embedding", "random36")
    extra = ("su4_shared",) if data == "digits" else ("su4_shared", "l2 mahalanobis")
    classical = [*CLASSICAL, *(("deepsvdd [4,2]",) if data == "digits" else ())]
    stds = []
    with context.progress(len(CLASSES) * len(seeds), label=name) as tick:
        for seed in seeds:
            for key in (*ours, *extra, *classical):
                arm(key).areas.append([])
            for k in CLASSES:
                task = class_task(rows, k, Key(run=seed))
                detector, seconds = fitted(task, seed)
                size = f"{detector.n_parameters_} angles + {detector.n_fitted_statistics_} statistics"
                far, law, std = both(detector, task)
                stds.append(std)
                add("distance", far, seconds, f"{detector.n_parameters_} angles + {len(detector.center_)} statistics")
                add("mahalanobis", law, seconds, size)
                far, law = untrained(detector, task, seed)
                add("untrained distance", far, size="0 angles")
                add("untrained mahalanobis", law, size=f"0 angles + {detector.n_fitted_statistics_} statistics")
                add("lw_embedding", same_embedding(detector, task), size="no circuit")
                add("random36", random_projections(detector, task, seed), size="no circuit")
                if not options.quick or k in QUICK_SU4:
                    other, seconds = fitted(task, seed, ansatz="su4_shared", n_layers=5)
                    add("su4_shared", both(other, task)[1], seconds, f"{other.n_parameters_} angles")
                if data != "digits":
                    other, seconds = fitted(task, seed, preprocess="l2")
                    add("l2 mahalanobis", both(other, task)[1], seconds, f"{other.n_parameters_} angles")
                train, test = peer_rows(task)
                for key in classical:
                    word, hidden = ("deepsvdd", {"hidden": (4, 2)}) if key.startswith("deepsvdd [") else (key, {})
                    peer = peers.run_peer(word, train, test, image=True, seed=seed, **hidden)
                    if peer.scores is None:
                        arm(key).absent = True
                    else:
                        add(key, area(task, peer.scores), peer.seconds, f"{peer.parameters} numbers")
                tick()
    summarise(result, name, arms, stds, len(seeds), options.quick)
    return arms


def summarise(result: Result, name: str, arms: dict[str, Arm], stds: list[float], seeds: int, quick: bool) -> None:
    """Metrics and the table, best first."""
    for key in ("distance", "mahalanobis"):
        result.metric(f"{name}_{key}_auroc", arms[key].mean)
        result.metric(f"{name}_{key}_worst", float(arms[key].by_class.min()))
        if arms[key].spread is not None:
            result.metric(f"{name}_{key}_sd", arms[key].spread or 0.0)
    best = arms["mahalanobis"].mean
    for k, value in zip(CLASSES, arms["mahalanobis"].by_class, strict=True):
        result.metric(f"{name}_mahalanobis_auroc_{k}", float(value))
    for key, made in arms.items():
        if made.absent or key in ("distance", "mahalanobis"):
            continue
        result.metric(f"{name}_{tag(key)}_auroc", made.mean)
        if key in CLASSICAL:
            result.metric(f"{name}_margin_over_{tag(key)}", best - made.mean)
    result.metric(f"{name}_margin_over_lw_offset", best - arms["lw_embedding"].mean)
    for key in ("distance", "mahalanobis"):
        result.metric(f"{name}_{key}_gain", arms[key].mean - arms[f"untrained {key}"].mean)
    classes = len(arms["mahalanobis"].areas[0])
    per_class = arms["mahalanobis"].seconds / (classes * seeds)
    result.metric(f"{name}_fit_seconds", per_class, timing=True)
    result.metric(f"{name}_seconds_per_class", per_class, timing=True)
    result.metric(f"{name}_min_score_std", min(stds))
    rows = []
    for key, made in arms.items():
        if made.absent:
            rows.append([label(key, quick), "not installed", None, None, None, None])
            continue
        count = sum(map(len, made.areas))
        rows.append(
            [
                label(key, quick),
                made.mean,
                made.spread,
                float(made.by_class.min()),
                made.size,
                made.seconds / count or None,
            ]
        )
    rows.sort(key=lambda row: -row[1] if isinstance(row[1], float) else 1.0)
    note = HONEST + " With Mahalanobis most of the area comes from the covariance, as the untrained rows show."
    if name == "mnist":
        note += f" {PUBLISHED}"
    columns = ["detector", "AUROC", "sd over seeds", "worst class", "size", "CPU time per class [s]"]
    result.table(
        f"{name}: one class against nine, mean over classes and {seeds} seed{'s' * (seeds > 1)}", columns, rows, note
    )


def tag(key: str) -> str:
    """A row's name as a part of a metric's name."""
    return key.replace(" ", "_").replace("[", "").replace("]", "").replace(",", "_")


def label(key: str, quick: bool) -> str:
    """A row's name for readers."""
    few = f" (classes {', '.join(map(str, QUICK_SU4))} alone)" if quick else ""
    names = {
        "distance": "QSVDD, distance (ours)",
        "mahalanobis": "QSVDD, mahalanobis (ours)",
        "lw_embedding": "ledoitwolf on the embedded rows",
        "random36": "36 squared random projections",
        "su4_shared": f"su4_shared, mahalanobis{few}",
        "l2 mahalanobis": "QSVDD without offset, mahalanobis",
    }
    return names.get(key, key)


def digits(options: BenchQuantum, context: Context, result: Result) -> None:
    """36 angles on 8x8 digits, 100 rows of one class."""
    compare(options, context, result, "digits", range(options.seeds), "digits")


def mnist(options: BenchQuantum, context: Context, result: Result) -> None:
    """80 angles on MNIST, 300 rows of one class of the training file, the whole test file."""
    compare(options, context, result, "mnist", range(1 if options.quick else options.seeds), "mnist")


def fashion(options: BenchQuantum, context: Context, result: Result) -> None:
    """80 angles on Fashion-MNIST."""
    compare(options, context, result, "fashion", range(1 if options.quick else options.seeds), "fashion_mnist")


def paper(options: BenchQuantum, context: Context, result: Result) -> None:
    """200 angles as in arXiv 2412.16867's description: digit 0 alone with --quick, else ten classes."""
    rows = pool("mnist")
    table = []
    with context.progress(1 if options.quick else 11, label="paper") as tick:
        for k in range(1 if options.quick else 10):
            task = class_task(rows, k, Key(run=0))
            seconds, far = in_paper(task, "paper-fast")
            table.append([str(k), far, *classical_areas(task), seconds])
            tick()
        result.metric("paper_digit0_auroc", table[0][1])
        result.metric("paper_digit0_seconds", table[0][-1], timing=True)
        if not options.quick:
            result.metric("paper_mean_auroc", float(np.mean([row[1] for row in table])))
            table.append(["mean", *np.mean([row[1:] for row in table], axis=0).tolist()])
            seconds, far = in_paper(class_task(rows, 0, Key(run=0)), "paper")
            result.metric("paper_full_digit0_auroc", far)
            result.metric("paper_full_digit0_seconds", seconds, timing=True)
            table.append(["0, full preset (150 epochs)", far, None, None, None, seconds])
            tick()
    columns = ["normal", "QSVDD paper-fast, distance", "iforest", "kde", "ocsvm", "CPU time of our fit [s]"]
    result.table("paper: 10 qubits, 20 layers, 200 angles, MNIST", columns, table, HONEST)


def in_paper(task: Task, preset: str) -> tuple[float, float]:
    """CPU seconds of a fit with a preset of the paper, and the AUROC of its distance."""
    detector = QuantumSVDD.preset(preset, image_shape=tuple(task.image), random_state=0)
    begin = time.process_time()
    detector.fit(task.train)
    seconds = time.process_time() - begin
    return seconds, area(task, detector.anomaly_scores(task.test))


def classical_areas(task: Task) -> list[float]:
    """AUROC of isolation forest, kernel density and one-class SVM on 16x16 pixels."""
    train, test = peer_rows(task)
    found = [peers.run_peer(name, train, test, image=True, seed=0).scores for name in ("iforest", "kde", "ocsvm")]
    return [area(task, scores) for scores in found if scores is not None]
