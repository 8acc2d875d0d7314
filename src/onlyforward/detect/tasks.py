"""What to learn and what to judge by: rows of one normal class against all others, from data sets, tables, images."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onlyforward.core.checks import check_choice, require
from onlyforward.core.errors import UsageError
from onlyforward.core.keys import Key
from onlyforward.data import sets
from onlyforward.detect.embed import resized
from onlyforward.detect.tabular import check_normal, check_table, read_images, read_table

if TYPE_CHECKING:
    from onlyforward.detect.command import Fit
    from onlyforward.run.context import Context

DATA = ("digits", "mnist", "fashion_mnist")


@dataclass(frozen=True)
class Task:
    """One detector's work.

    Attributes:
        name: the normal class, or what the rows are.
        kind: digits, image or table: which recommended preset.
        train: [N, d] normal rows.
        test: [T, d] rows to judge, empty without labels.
        anomalous: [T] bool.
        columns: names of table columns, () for images.
        image: (height, width), or ().
        ids: names of the test rows, or of the training rows where nothing is judged.
        medians: [d], for tables.
    """

    name: str
    kind: str
    train: np.ndarray
    test: np.ndarray
    anomalous: np.ndarray
    columns: tuple[str, ...] = ()
    image: tuple[int, ...] = ()
    ids: tuple[str, ...] = ()
    medians: np.ndarray | None = None


@dataclass(frozen=True)
class Pool:
    """Rows of a named data set: training file and test file.

    Attributes:
        name: digits, mnist or fashion_mnist.
        x_train: [N, d]. y_train: [N].
        x_test: [T, d]; for digits the same rows, of which those trained on are left out.
        y_test: [T].
        image: (height, width).
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    image: tuple[int, int]


def pool(name: str) -> Pool:
    """A named data set in 0..1."""
    check_choice(name, DATA, name="data")
    found = sets.load("fashion" if name == "fashion_mnist" else name)
    height, width = found.shape[-2:]
    x_train, x_test = (x.reshape(len(x), -1).double().numpy() for x in (found.x_train, found.x_test))
    y_train, y_test = found.y_train.numpy(), found.y_test.numpy()
    if name == "digits":
        x_train = x_test = np.concatenate([x_train, x_test])
        y_train = y_test = np.concatenate([y_train, y_test])
    return Pool(name, x_train, y_train, x_test, y_test, (height, width))


def class_task(rows: Pool, normal: int, key: Key, count: int = 0) -> Task:
    """`count` random normal rows train; the test file, or every other row of digits, judges."""
    wanted = count or (100 if rows.name == "digits" else 300)
    candidates = np.flatnonzero(rows.y_train == normal)
    if wanted > len(candidates) - (rows.name == "digits"):
        raise UsageError(f"--train {wanted} is more than the {len(candidates)} rows of class {normal}", "Give fewer")
    order = key.at(site=f"detect/split/{rows.name}/{normal}").numpy().permutation(candidates)
    chosen = order[:wanted]
    tested = np.arange(len(rows.x_test))
    if rows.name == "digits":
        tested = np.setdiff1d(tested, chosen)
    kind = "digits" if rows.name == "digits" else "image"
    return Task(
        str(normal),
        kind,
        rows.x_train[chosen],
        rows.x_test[tested],
        rows.y_test[tested] != normal,
        image=rows.image,
        ids=tuple(map(str, tested)),
    )


def peer_rows(task: Task) -> tuple[np.ndarray, np.ndarray]:
    """What peers see: 16x16 area-resized pixels of larger images, else the rows as they are (tables standardised)."""
    if task.kind == "image" and min(task.image) > 16:
        return resized(task.train, task.image, (16, 16)), resized(task.test, task.image, (16, 16))
    if task.kind == "table":
        mean, std = task.train.mean(0), task.train.std(0)
        std = np.where(std > 0, std, 1.0)
        return (task.train - mean) / std, (task.test - mean) / std
    return task.train, task.test


def fit_tasks(options: Fit, key: Key) -> list[Task]:
    """The tasks that `detect fit` asks for."""
    given = [bool(options.data), options.csv is not None, options.images is not None]
    if sum(given) != 1:
        raise UsageError("detect fit needs one source of rows", "Give --data, --csv or --images")
    if options.csv is not None:
        return [table_task(options, options.csv, key)]
    if options.images is not None:
        x, names, broken = read_images(options.images)
        if broken:
            warnings.warn(f"{len(broken)} files cannot be read and are left out: {', '.join(broken[:5])}", stacklevel=2)
        flat = x.reshape(len(x), -1)
        check_table(options.images, flat)
        return [Task("images", "image", flat, flat[:0], np.zeros(0, bool), image=x.shape[1:], ids=names)]
    rows = pool(options.data)
    if not options.normal:
        raise UsageError("--data needs --normal", "Give a class, 0 to 9, or all")
    return [class_task(rows, k, key, options.train) for k in classes_of(options.normal)]


def classes_of(normal: str) -> list[int]:
    """The classes of digits or images that --normal names: one, or all."""
    names = [str(k) for k in range(10)]
    return [int(k) for k in (names if normal == "all" else [check_choice(normal, names, name="class")])]


def table_task(options: Fit, path: Path, key: Key) -> Task:
    """A table: rows of other labels never enter training; a share of the normal ones is kept for judging."""
    drop = tuple(word.strip() for word in options.drop.split(",") if word.strip())
    table = read_table(path, label=options.label, identity=options.id, drop=drop, missing=options.missing)
    if options.missing == "drop" and table.dropped:
        warnings.warn(f"{table.dropped} rows with missing cells are left out", stacklevel=2)
    labels = table.labels
    if options.label and labels is None:
        warnings.warn(f"There is no column {options.label!r}: all rows are taken as normal", stacklevel=2)
    if labels is not None and len(set(labels)) < 2:
        warnings.warn(f"The column {options.label!r} has one value: all rows are taken as normal", stacklevel=2)
        labels = None
    empty = np.zeros(0, bool)
    base = Task(path.stem, "table", table.x, table.x[:0], empty, table.names, ids=table.ids, medians=table.medians)
    if labels is None:
        check_table(path, table.x)
        return base
    if not 0 < options.test_fraction < 1:
        raise UsageError(f"--test-fraction is {options.test_fraction}", "It must lie between 0 and 1")
    normal = np.flatnonzero(check_normal(labels, options.normal))
    order = key.at(site="detect/split/table").numpy().permutation(normal)
    count = max(1, round(options.test_fraction * len(order)))
    others = np.setdiff1d(np.arange(len(labels)), normal)
    trained, tested = np.sort(order[count:]), np.sort(np.concatenate([order[:count], others]))
    check_table(path, table.x[trained])
    return replace(
        base,
        train=table.x[trained],
        test=table.x[tested],
        anomalous=~np.isin(tested, normal),
        ids=tuple(table.ids[i] for i in tested),
    )


def named(rows: np.ndarray, columns: tuple[str, ...]) -> Any:
    """Rows with their column names, so that a detector remembers them."""
    if not columns:
        return rows
    return require("pandas", "data").DataFrame(rows, columns=list(columns))


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
