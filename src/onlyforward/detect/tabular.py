"""Rows from a user's table or folder of images: what is wrong is said in one sentence, with its place."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onlyforward.core.checks import check_choice, require
from onlyforward.core.errors import FileError, UsageError

ABSENT = {"", "na", "n/a", "nan", "null", "none", "inf", "-inf", "+inf", "infinity", "-infinity"}
CHUNK = 65536


@dataclass(frozen=True)
class Table:
    """Numbers of a table.

    Attributes:
        names: feature columns.
        x: [N, d].
        labels: [N] text of the label column, or None.
        ids: [N] text of the id column, or row numbers from 1.
        ignored: columns that were there and not asked for.
        dropped: rows left out because of missing cells.
        medians: [d] of the columns, to fill what is missing.
    """

    names: tuple[str, ...]
    x: np.ndarray
    labels: tuple[str, ...] | None
    ids: tuple[str, ...]
    ignored: tuple[str, ...]
    dropped: int
    medians: np.ndarray


def read_table(
    path: Path,
    *,
    label: str = "",
    identity: str = "",
    drop: Sequence[str] = (),
    missing: str = "stop",
    wanted: Sequence[str] | None = None,
    medians: np.ndarray | None = None,
) -> Table:
    """Read a table with a heading line: comma, semicolon or tab, quoted text, with or without byte-order mark.

    Args:
        path: the file.
        label: column of labels, or "".
        identity: column that names rows, or "".
        drop: columns to leave out.
        missing: "stop", "drop" or "median".
        wanted: feature columns in their order (scoring); default: all that remain.
        medians: [d] for missing="median" when scoring.

    Raises:
        FileError: no file, no row, a wanted column is not there, text in a column, a cell missing or not finite.
    """
    heading, rows = raw_rows(path)
    repeated = {name for name in heading if heading.count(name) > 1}
    if repeated:
        raise FileError(f"{path}: the column {min(repeated)!r} is there twice", "Give every column its own name")
    for name in (*([identity] if identity else []), *drop):
        if wanted is None:
            check_choice(name, heading, name="column")
    special = {label, identity, *drop}
    if wanted is None:
        names = [name for name in heading if name not in special]
    else:
        names = list(wanted)
        absent = [name for name in names if name not in heading]
        if absent:
            raise FileError(
                f"{path}: the column{'s' * (len(absent) > 1)} {', '.join(map(repr, absent))} of the fitted model"
                f" {'are' if len(absent) > 1 else 'is'} missing",
                "Add them; their order does not matter",
            )
    if not names:
        raise FileError(f"{path} has no feature column", "Keep at least one column of numbers")
    where = [heading.index(name) for name in names]
    x = numbers(path, rows, names, where)
    gaps = ~np.isfinite(x)
    kept = np.ones(len(x), dtype=bool)
    if gaps.any() and missing == "stop":
        row, column = np.argwhere(gaps)[0]
        raise FileError(
            f"{path}: row {row + 1}, column {names[column]!r} is empty or not finite ({int(gaps.sum())} such cells)",
            "Fill it, or use --missing drop or --missing median",
        )
    finite = np.where(gaps, np.nan, x)
    empty = np.flatnonzero(gaps.all(0))
    if len(empty):
        raise FileError(f"{path}: the column {names[empty[0]]!r} holds no number", f"Use --drop {names[empty[0]]}")
    middle = np.nanmedian(finite, axis=0) if medians is None else medians
    if missing == "median":
        x = np.where(gaps, middle, x)
    elif missing == "drop":
        kept = ~gaps.any(1)
    if not kept.any():
        raise FileError(f"{path}: every row has a missing cell", "Use --missing median")
    chosen = np.flatnonzero(kept)
    text = {name: tuple(rows[i][heading.index(name)] for i in chosen) for name in (label, identity) if name in heading}
    used = {*names, *special}
    return Table(
        tuple(names),
        x[kept],
        text.get(label) if label else None,
        text.get(identity) if identity and identity in text else tuple(str(i + 1) for i in chosen),
        tuple(name for name in heading if name not in used),
        int((~kept).sum()),
        middle,
    )


def raw_rows(path: Path) -> tuple[list[str], list[list[str]]]:
    """Heading and rows of text; rows of another length than the heading are refused."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            reader = csv.reader(file, delimiter=max(",;\t", key=first.count), strict=True)
            rows = [[cell.strip() for cell in row] for row in reader if row]
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror}", "Check the name and the rights") from error
    except UnicodeDecodeError as error:
        raise FileError(f"{path} is no UTF-8 text", "Save it as CSV in UTF-8") from error
    except csv.Error as error:
        raise FileError(f"{path} is no table: {error}", "Save it as CSV") from error
    if len(rows) < 2:
        raise FileError(f"{path} has no row below its heading", "Give a table with a heading line and rows")
    width = len(rows[0])
    for number, row in enumerate(rows[1:], start=1):
        if len(row) != width:
            raise FileError(f"{path}: row {number} has {len(row)} cells, the heading {width}", "Mend the row")
    return rows[0], rows[1:]


def numbers(path: Path, rows: list[list[str]], names: Sequence[str], where: Sequence[int]) -> np.ndarray:
    """Cells as numbers [N, d], NaN where absent; text names its column and row."""
    x = np.empty((len(rows), len(where)))
    for start in range(0, len(rows), CHUNK):
        part = rows[start : start + CHUNK]
        for column, place in enumerate(where):
            cells = [row[place] for row in part]
            try:
                x[start : start + CHUNK, column] = np.array(cells, dtype=np.float64)
            except ValueError:
                x[start : start + CHUNK, column] = [
                    number(path, cell, names[column], start + i + 1) for i, cell in enumerate(cells)
                ]
    return x


def number(path: Path, cell: str, name: str, row: int) -> float:
    """One cell."""
    if cell.lower() in ABSENT:
        return math.nan
    try:
        return float(cell)
    except ValueError:
        raise FileError(
            f"{path}: the column {name!r} holds text ({cell[:40]!r} in row {row})",
            f"Leave it out with --drop {name}, or name it with --id or --label",
        ) from None


def check_table(path: Path, x: np.ndarray) -> None:
    """A table to learn from has ten rows and something that varies."""
    if len(x) < 10:
        raise FileError(f"{path} has {len(x)} normal rows to train on", "Give at least 10")
    if not (x.std(0) > 0).any():
        raise FileError(f"{path}: all normal rows are equal", "There is nothing to learn from a constant table")


def read_images(folder: Path) -> tuple[np.ndarray, tuple[str, ...], list[str]]:
    """Greyscale images of a folder in 0..1, [N, h, w], their names, and the names of files that cannot be read.

    Raises:
        FileError: no folder, no readable image, or images of different sizes.
    """
    image = require("PIL.Image", "data")
    if not folder.is_dir():
        raise FileError(f"{folder} is no folder", "Give a folder of png or jpg files")
    found, names, broken = [], [], []
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in (".png", ".jpg", ".jpeg")):
        try:
            with image.open(path) as opened:
                found.append(np.asarray(opened.convert("L"), dtype=np.float64) / 255)
            names.append(path.name)
        except (OSError, SyntaxError, ValueError, image.DecompressionBombError):
            broken.append(path.name)
    if not found:
        raise FileError(f"{folder} holds no readable png or jpg file", "Give a folder of images")
    sizes = {a.shape for a in found}
    if len(sizes) > 1:
        raise FileError(f"{folder} holds images of different sizes {sorted(sizes)[:3]}", "Bring them to one size")
    return np.stack(found), tuple(names), broken


def check_normal(labels: Sequence[str], normal: str) -> np.ndarray:
    """Which rows are normal: [N] bool."""
    if not normal:
        raise UsageError("--label needs --normal", f"Give one of {', '.join(sorted(set(labels))[:8])}")
    check_choice(normal, set(labels), name="label")
    return np.array([value == normal for value in labels])
