"""`detect fit`, `detect score` and the demonstration."""

from __future__ import annotations

import csv
import json
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from onlyforward.core.checks import require
from onlyforward.core.errors import BudgetSpent, CheckpointError, FileError, UsageError
from onlyforward.core.keys import Key
from onlyforward.detect import figures, peers, store
from onlyforward.detect.command import DemoOptions, Fit, Score
from onlyforward.detect.estimator import QuantumSVDD
from onlyforward.detect.presets import settings
from onlyforward.detect.score import distance
from onlyforward.detect.tabular import read_images, read_table
from onlyforward.detect.tasks import Task, class_task, fit_tasks, peer_rows, pool
from onlyforward.run.checkpoint import write_atomically

if TYPE_CHECKING:
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result

HONEST = (
    "At 12 qubits or fewer the model is classically simulable: it is quantum-hardware-ready and has few parameters, and"
    " plain PCA reconstruction or Ledoit-Wolf on the same rows equals or beats it on MNIST."
)
KEPT = 200
"""Training rows kept with a detector, for calibration on devices."""
SETTINGS = (
    "n_qubits",
    "n_layers",
    "ansatz",
    "preprocess",
    "offset",
    "reduce",
    "latent",
    "objective",
    "nu",
    "threshold",
    "calibration",
    "center",
    "pretrain",
    "lr",
    "lr_milestone",
    "max_epochs",
    "batch_size",
    "weight_decay",
    "gradient",
    "copies",
    "shots",
    "noise",
    "backend",
    "max_shots",
    "max_jobs",
    "dtype",
)
"""Options of `detect fit` that go to the constructor as they are."""


@contextmanager
def told(context: Context) -> Iterator[None]:
    """Warnings of the library as one line each on stderr."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            yield
        finally:
            for text in dict.fromkeys(str(item.message) for item in caught if item.category is UserWarning):
                context.warn(text)


def device_of(options: Any) -> str:
    """Cpu unless cuda is asked for: circuits of this size are fastest there."""
    if options.device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"Unknown device {options.device!r}", "Give auto, cpu or cuda")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: this machine shows no CUDA device", "Use --device cpu")
    return "cuda" if options.device == "cuda" else "cpu"


def make_detector(options: Fit, task: Task) -> QuantumSVDD:
    """The preset with the command's changes."""
    chosen = settings(options.preset, data=task.kind)
    chosen |= {name: getattr(options, name) for name in SETTINGS if getattr(options, name) is not None}
    if options.score is not None:
        chosen["statistic"] = options.score
    if task.image:
        chosen["image_shape"] = tuple(task.image)
    return QuantumSVDD(**chosen, random_state=options.seed, device=device_of(options))


def named(rows: np.ndarray, columns: tuple[str, ...]) -> Any:
    """Rows with their column names, so that a detector remembers them."""
    if not columns:
        return rows
    return require("pandas", "data").DataFrame(rows, columns=list(columns))


def fit(options: Fit, context: Context) -> Result:
    """Fit one detector, or one per class, and judge it."""
    torch.set_num_threads(options.threads)
    wanted = peers.chosen(options.peers)
    with told(context):
        tasks = fit_tasks(options, context.key)
    result = context.result(question=question(options, tasks))
    detectors = train_all(options, context, tasks, result)
    judged = [judge(detector, task) for detector, task in zip(detectors, tasks, strict=True)]
    summarise(result, tasks, detectors, judged)
    compare(result, options, tasks, detectors, judged, wanted)
    for detector, task, scores in zip(detectors, tasks, judged, strict=True):
        label = f"class {task.name}" if task.kind != "table" else task.name
        figures.curves(result, task.anomalous, scores, detector.history_, label)
        result.artefacts[f"theta.{task.name}"] = torch.from_numpy(detector.theta_)
        result.artefacts[f"scores.{task.name}"] = torch.from_numpy(scores)
    most(result, options.top, detectors[0], tasks[0], judged[0])
    if context.folder is not None:
        deliver(context.folder, options, result, detectors, tasks, judged)
    result.answer = answer(result, detectors[0])
    result.notes.append(HONEST)
    return result


def question(options: Fit, tasks: list[Task]) -> str:
    """What is asked."""
    if options.csv is not None:
        return f"Which rows of {options.csv.name} are not like the normal ones?"
    if options.images is not None:
        return f"Which images of {options.images.name} are not like the others?"
    which = "each class" if len(tasks) > 1 else f"class {tasks[0].name}"
    return f"How well does a small circuit that has only seen {which} of {options.data} tell the rest?"


def train_all(options: Fit, context: Context, tasks: list[Task], result: Result) -> list[QuantumSVDD]:
    """Train the detectors one after the other; the state resumes to the bit."""
    detectors = [make_detector(options, task) for task in tasks]
    begin = time.process_time()
    found = context.restore()
    done: dict[str, torch.Tensor] = {}
    past: dict[str, Any] = {}
    if found is not None:
        done = {name: tensor for name, tensor in found.tensors.items() if name.startswith("done.")}
        past = dict(found.data["past"])
    epochs = None
    for k, (detector, task) in enumerate(zip(detectors, tasks, strict=True)):
        with told(context):
            trainer = detector.begin(named(task.train, task.columns))
        epochs = epochs or trainer.total
        if str(k) in past:
            trainer.load(part_of(done, f"done.{k}."), past[str(k)])
        elif found is not None and found.data["detector"] == k:
            trainer.load(part_of(found.tensors, "now."), found.data["trainer"])

        def state(k: int = k, trainer: Any = trainer, done: Any = done) -> tuple[dict[str, Any], dict[str, Any]]:
            tensors, data = trainer.state()
            now = {f"now.{name}": tensor for name, tensor in tensors.items()}
            return {**done, **now}, {"detector": k, "trainer": data, "past": dict(past)}

        with context.progress(trainer.total, label=f"class {task.name}" if len(tasks) > 1 else "fit") as tick:
            tick(to=trainer.epoch)
            try:
                while trainer.epoch < trainer.total:
                    trainer.run_epoch()
                    context.save(k * trainer.total + trainer.epoch, state)
                    tick(to=trainer.epoch, loss=trainer.history[-1])
                detector.finish(trainer)
            except BudgetSpent as spent:
                detector.finish(trainer, exact=True)
                if context.folder is not None:
                    store.save(detector, context.folder / folder_name(task, tasks))
                spent.partial = spent_result(result, detector, task)
                raise
        tensors, data = trainer.state()
        done |= {f"done.{k}.{name}": tensor.detach().clone() for name, tensor in tensors.items()}
        past[str(k)] = data
        result.forward_runs += trainer.total * len(trainer.psi)
    result.metric("fit_seconds", (time.process_time() - begin) / len(tasks), timing=True)
    return detectors


def part_of(tensors: Any, prefix: str) -> dict[str, torch.Tensor]:
    """Tensors under a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def spent_result(result: Result, detector: QuantumSVDD, task: Task) -> Result:
    """What is known when the budget ends."""
    result.metric("jobs", detector.n_jobs_used_)
    result.metric("shots", detector.n_shots_used_)
    result.metric("epochs", len(detector.history_))
    result.answer = f"The budget ended after {len(detector.history_)} epochs; the detector trained so far is kept."
    return result


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
                size = fitted.n_parameters_
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
    from safetensors.numpy import save as to_bytes

    for detector, task in zip(detectors, tasks, strict=True):
        place = folder / folder_name(task, tasks)
        store.save(detector, place)
        write_atomically(place / "rows.safetensors", to_bytes({"rows": np.ascontiguousarray(task.train[:KEPT])}))
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


def score_groups(task: Task, detector: QuantumSVDD, scores: np.ndarray) -> dict[str, np.ndarray]:
    """Scores by kind of row, for the histogram."""
    if not len(task.test):
        return {"training rows": scores}
    groups = {"normal": scores[~task.anomalous], "anomalous": scores[task.anomalous]}
    return {name: values for name, values in groups.items() if len(values)}


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


def score(options: Score, context: Context) -> Result:
    """Score rows with a fitted detector, and judge it where labels exist."""
    described = read_task(options.folder)
    if len(described["tasks"]) > 1:
        raise UsageError(f"{options.folder} holds one detector per class", "Give a folder fitted with one --normal")
    detector = QuantumSVDD.load(options.folder / described["tasks"][0]["folder"])
    with told(context):
        task = rows_to_score(options, described)
    scores = detector.anomaly_scores(named(task.test, task.columns))
    flagged = scores > detector.radius_
    result = context.result(question=f"Which rows does the detector in {options.folder.name} flag?")
    result.metric("n_rows", len(scores))
    result.metric("n_flagged", int(flagged.sum()))
    for name, value in (("min", scores.min()), ("max", scores.max()), ("std", scores.std())):
        result.metric(f"score_{name}", float(value))
    found = judgement(task.anomalous, scores, flagged) if len(task.anomalous) else {}
    for name, value in found.items():
        result.metric(name, value)
    if (options.label or described["label"]) and not found:
        context.warn("no label column with both kinds of rows: metrics of the labels are left out")
    shown = Task(task.name, task.kind, task.train, task.test, task.anomalous, task.columns, task.image, task.ids)
    listed(result, options.top, detector, shown, scores, described)
    result.artefacts["scores"] = torch.from_numpy(scores)
    result.forward_runs = len(scores)
    if options.scores is not None:
        write_scores(options.scores, task.ids, scores, flagged)
    if context.folder is not None:
        groups = score_groups(task, detector, scores) if len(task.anomalous) else {"rows": scores}
        figures.histogram(context.folder / "scores.svg", groups, detector.radius_)
        result.figures["Scores and threshold"] = "scores.svg"
        if task.image:
            order = np.argsort(-scores, kind="stable")[: options.top]
            titles = [f"{task.ids[i]}: {scores[i]:.3g}" for i in order]
            figures.pictures(context.folder / "most-anomalous.png", task.test[order].reshape(-1, *task.image), titles)
            result.figures["Most anomalous images, with their scores"] = "most-anomalous.png"
    result.answer = f"{int(flagged.sum())} of {len(scores)} rows are flagged (threshold {detector.radius_:.4g})."
    if found:
        result.answer = result.answer[:-1] + f"; AUROC {found['auroc']:.3f}."
    return result


def listed(
    result: Result, top: int, detector: QuantumSVDD, task: Task, scores: np.ndarray, described: dict[str, Any]
) -> None:
    """The most anomalous rows, compared with the mean and standard deviation of training."""
    order = np.argsort(-scores, kind="stable")[:top]
    mean, std = np.array(described["mean"]), np.array(described["std"])
    std = np.where(std > 0, std, 1.0)
    rows = []
    for i in order:
        cells = [task.ids[i], float(scores[i]), "yes" if scores[i] > detector.radius_ else "no"]
        rows.append(cells + ([furthest(task.test[i], mean, std, task.columns)] if task.columns else []))
    columns = ["row", "score", "flagged"] + (["furthest from normal"] if task.columns else [])
    result.table("Most anomalous rows", columns, rows)


def rows_to_score(options: Score, described: dict[str, Any]) -> Task:
    """Rows of a table by column name, of a data set's test part, or of a folder of images."""
    given = [bool(options.data), options.csv is not None, options.images is not None]
    if sum(given) != 1:
        raise UsageError("detect score needs one source of rows", "Give --csv, --data or --images")
    kind = "table" if options.csv is not None else "image"
    if (described["kind"] == "table") != (kind == "table"):
        raise UsageError(f"The detector was fitted on a {described['kind']}", "Score rows of the same kind")
    if options.csv is not None:
        return table_to_score(options, options.csv, described)
    if options.images is not None:
        x, names, broken = read_images(options.images)
        if broken:
            warnings.warn(f"{len(broken)} files cannot be read and are left out: {', '.join(broken[:5])}", stacklevel=2)
        if list(x.shape[1:]) != described["image"]:
            raise FileError(f"{options.images} holds {x.shape[1:]} images", f"The detector wants {described['image']}")
        flat = x.reshape(len(x), -1)
        return Task("images", "image", flat[:0], flat, np.zeros(0, bool), image=x.shape[1:], ids=names)
    rows = pool(options.data)
    if list(rows.image) != described["image"]:
        raise UsageError(f"{options.data} has {rows.image} images", f"The detector wants {described['image']}")
    normal = options.normal or described["normal"]
    ids = tuple(map(str, range(len(rows.x_test))))
    return Task(normal, "image", rows.x_test[:0], rows.x_test, rows.y_test != int(normal), image=rows.image, ids=ids)


def table_to_score(options: Score, path: Path, described: dict[str, Any]) -> Task:
    """A table whose columns are matched by name."""
    label, normal = options.label or described["label"], options.normal or described["normal"]
    medians = None if described["medians"] is None else np.array(described["medians"])
    table = read_table(
        path,
        label=label,
        identity=options.id or described["id"],
        drop=tuple(word.strip() for word in options.drop.split(",") if word.strip()),
        missing=options.missing,
        wanted=described["columns"],
        medians=medians,
    )
    if table.ignored:
        warnings.warn(f"columns that the model does not know are ignored: {', '.join(table.ignored)}", stacklevel=2)
    anomalous = np.zeros(0, bool)
    if table.labels is not None and normal:
        anomalous = np.array([value != normal for value in table.labels])
    return Task(path.stem, "table", table.x[:0], table.x, anomalous, table.names, ids=table.ids)


def write_scores(path: Path, ids: tuple[str, ...], scores: np.ndarray, flagged: np.ndarray) -> None:
    """Row, score, flagged (0 or 1) in input order."""
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["row", "score", "flagged"])
            writer.writerows(zip(ids, map(repr, scores.tolist()), flagged.astype(int).tolist(), strict=True))
    except OSError as error:
        raise UsageError(f"--scores {path} cannot be written: {error.strerror}", "Choose another file") from error


def demo(options: DemoOptions, context: Context) -> Result:
    """Digit 0 against the others: 36 angles, the untrained circuit and classical peers beside it."""
    task = class_task(pool("digits"), 0, Key(run=options.seed))
    result = context.result(question="Can 36 angles that have seen 100 zeros tell all other digits from zeros?")
    fitted = Fit(data="digits", normal="0", seed=options.seed)
    begin = time.process_time()
    detector = make_detector(fitted, task).fit(task.train)
    result.metric("fit_seconds", time.process_time() - begin, timing=True)
    scores = judge(detector, task)
    summarise(result, [task], [detector], [scores])
    compare(result, fitted, [task], [detector], [scores], ["pca", "ledoitwolf", "ocsvm", "untrained"])
    result.metric("detect_auc", result.metrics["auroc"] or 0.0)
    latents = detector.latents(task.test)
    area = require("sklearn.metrics", "data").roc_auc_score
    result.metric("distance_auroc", float(area(task.anomalous, distance(latents, detector.center_))))
    result.artefacts["theta"] = torch.from_numpy(detector.theta_)
    result.forward_runs = len(task.train) * len(detector.history_)
    result.answer = answer(result, detector)
    return result
