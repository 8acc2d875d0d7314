"""`detect score`: rows of a table, a data set or a folder of images against a fitted detector."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from onlyforward.core.errors import FileError, UsageError
from onlyforward.detect import figures
from onlyforward.detect.command import Score
from onlyforward.detect.delivery import read_task
from onlyforward.detect.estimator import QuantumSVDD
from onlyforward.detect.tabular import read_images, read_table
from onlyforward.detect.tasks import Task, classes_of, named, pool, told
from onlyforward.detect.verdict import furthest, judgement, score_groups

if TYPE_CHECKING:
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result


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
    other = ~np.isin(rows.y_test, classes_of(normal))
    return Task(normal, "image", rows.x_test[:0], rows.x_test, other, image=rows.image, ids=ids)


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
