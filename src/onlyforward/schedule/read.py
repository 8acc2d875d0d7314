"""Instances in and out: csv, orlib, geiger, json, npz; every bad input is one sentence with file, row, column."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onlyforward.core.checks import check_choice
from onlyforward.core.errors import FileError, UsageError
from onlyforward.schedule.cost import BadJob, Piecewise, Table
from onlyforward.schedule.jobs import Jobs

FORMATS = ("csv", "orlib", "geiger", "json", "npz")
COLUMNS = {
    "job": "names", "id": "names", "name": "names", "p": "p", "processing": "p", "duration": "p", "r": "r",
    "release": "r", "d": "due", "due": "due", "due_date": "due", "w": "weight", "weight": "weight", "cost": "cost",
}  # fmt: skip
SHORT = {"names": "job", "p": "p", "r": "r", "due": "d", "weight": "w", "cost": "cost"}
MOST_BYTES = 200_000_000


def text_of(path: Path) -> str:
    """A text file without its byte order mark: UTF-8, or the single-byte code that spreadsheets still write."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise FileError(f"{path} is larger than {MOST_BYTES // 10**6} MB", "Split it")
        content = path.read_bytes()
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror}", "Check the path") from error
    if b"\0" in content:
        raise FileError(f"{path} is not a text file", "Save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")


def guess(path: Path) -> str:
    """Format by file name and, for text without an ending of its own, by what is inside."""
    ending = path.suffix.lower().lstrip(".")
    if ending in ("csv", "json", "npz"):
        return ending
    words = text_of(path).split()
    if words and words[0].isdigit() and len(words) == 3 * int(words[0]) + 1:
        return "geiger"
    return "orlib" if words and all(is_number(word) for word in words[:3]) else "csv"


def is_number(word: str) -> bool:
    """Whether a word reads as a number."""
    try:
        float(word)
    except ValueError:
        return False
    return True


def number(word: str, where: str) -> int | float:
    """A finite number, int where it is written as one."""
    try:
        value: int | float = int(word)
    except ValueError:
        try:
            value = float(word)
        except ValueError:
            raise FileError(f"{where}: {word!r} is not a number", "Write a number") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise FileError(f"{where}: {word} is not finite", "Correct the number")
    return value


def count(path: Path, format: str, n: int | None) -> tuple[str, int]:
    """Format and number of instances of a file."""
    format = check_choice(format, FORMATS, name="format") if format else guess(path)
    if format != "orlib":
        return format, 1
    words = text_of(path).split()
    size = jobs_per_instance(path, len(words), n)
    return format, len(words) // (3 * size)


def jobs_per_instance(path: Path, words: int, n: int | None) -> int:
    """Jobs per instance of an orlib file: given, or the digits of its name."""
    digits = re.findall(r"\d+", path.stem)
    size = n or (int(digits[0]) if digits else 0)
    if size <= 0:
        raise FileError(f"{path} does not say how many jobs an instance has", "Give --n")
    if words == 0 or words % (3 * size):
        likely = [k for k in (20, 40, 50, 100, 150, 200, 250, 300, 500, 1000) if words and words % (3 * k) == 0]
        hint = f"Give --n {likely[-1]}" if likely else "The file may be truncated"
        raise FileError(f"{path} holds {words} numbers, which is no multiple of 3 x {size}", hint)
    return size


def read_instance(path: Path, *, format: str | None = None, index: int | None = None, n: int | None = None,
                  objective: Any = None) -> Jobs:  # fmt: skip
    """One instance of a file.

    Args:
        path: the file.
        format: csv, orlib, geiger, json or npz (default: by name and content).
        index: which instance of a file of many, from 1.
        n: jobs per instance of an orlib file.
        objective: a family's name (default: the file's own column, or weighted-tardiness).

    Raises:
        FileError: with file, row and column.
    """
    kind, instances = count(path, format or "", n)
    if index is not None and not 1 <= index <= instances:
        raise FileError(f"{path} holds no instance {index}", f"Give --index 1..{instances}")
    if instances > 1 and index is None:
        raise FileError(f"{path} holds {instances} instances", f"Give --index 1..{instances}, or --all")
    try:
        if kind == "csv":
            return read_csv(path, objective)
        if kind in ("json", "npz"):
            return read_mapping(path, kind, objective)
        words = text_of(path).split()
        size = jobs_per_instance(path, len(words), n) if kind == "orlib" else int(number(words[0], f"{path}, number 1"))
        if kind == "geiger" and (size <= 0 or len(words) < 3 * size + 1):
            raise FileError(f"{path} announces {size} jobs and holds {len(words) - 1} numbers", "It must hold 3 n")
        first = 1 if kind == "geiger" else ((index or 1) - 1) * 3 * size
        numbers = [number(word, f"{path}, number {first + i + 1}") for i, word in enumerate(words[first:][: 3 * size])]
        p, w, d = (numbers[k * size : (k + 1) * size] for k in range(3))
        return Jobs(p, weight=w, due=d, cost=objective or "weighted-tardiness")
    except BadJob as error:
        header = 2 if kind == "csv" else 1
        raise FileError(
            f"{path}, row {error.row + header}, column {error.column}: {error.problem}", error.remedy
        ) from error
    except UsageError as error:
        raise FileError(f"{path}: {error.message}", error.hint) from error


def read_csv(path: Path, objective: Any) -> Jobs:
    """A table with a header; comma, semicolon or tab."""
    text = text_of(path)
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise FileError(f"{path} is empty", "Give a header and one row per job")
    separator = max(",;\t", key=lines[0].count)
    rows = list(csv.reader(io.StringIO("\n".join(lines)), delimiter=separator))
    header = [COLUMNS.get(word.strip().lower(), "") for word in rows[0]]
    if "p" not in header:
        raise FileError(f"{path}: the column p (processing time) is missing", "Name it p, processing or duration")
    columns: dict[str, list[Any]] = {name: [] for name in header if name}
    for at, row in enumerate(rows[1:], start=2):
        if len(row) != len(header):
            raise FileError(f"{path}, row {at}: {len(row)} cells instead of {len(header)}", "Complete the row")
        for name, cell in zip(header, row, strict=True):
            if not name:
                continue
            if not cell.strip():
                raise FileError(f"{path}, row {at}, column {SHORT[name]}: the cell is empty", "Fill it in")
            plain = name in ("names", "cost")
            where = f"{path}, row {at}, column {SHORT[name]}"
            columns[name].append(cell.strip() if plain else number(cell.strip(), where))
    if not columns["p"]:
        raise FileError(f"{path} holds no jobs", "Give one row per job")
    cost = objective or columns.pop("cost", None) or "weighted-tardiness"
    columns.pop("cost", None)
    return Jobs(**columns, cost=cost)


def read_mapping(path: Path, kind: str, objective: Any) -> Jobs:
    """JSON or NPZ: arrays p, r, w, d, names; knots with value, slope, curvature; or table with ends."""
    try:
        if kind == "json":
            data = json.loads(text_of(path))
        else:
            with np.load(path, allow_pickle=False) as archive:
                data = {name: archive[name] for name in archive.files}
    except (OSError, ValueError) as error:
        raise FileError(f"{path} is not a readable {kind} file", "Write it anew") from error
    if not isinstance(data, dict):
        raise FileError(f"{path} holds no arrays by name", "Give an object with p, d, w")
    known = {COLUMNS[name.lower()]: value for name, value in data.items() if name.lower() in COLUMNS}
    if "p" not in known:
        raise FileError(f"{path}: p (processing time) is missing", "Add it")
    if "knots" in data:
        parts = [np.asarray(data.get(key, np.zeros_like(data["knots"]))) for key in ("value", "slope", "curvature")]
        known["cost"] = Piecewise(np.asarray(data["knots"]), np.stack(parts, -1))
    if "table" in data:
        known["cost"] = Table(np.asarray(data["table"]), np.asarray(data["ends"]))
    if objective:
        known["cost"] = objective
    return Jobs(**known)


def write_jobs(jobs: Jobs, path: Path) -> None:
    """A CSV that `read_csv` reads back."""
    rows: list[Sequence[Any]] = [["job", "p", "r", "d", "w", *(["cost"] if jobs.families else [])]]
    families = jobs.families * (jobs.n if len(jobs.families) == 1 else 1)
    for j in range(jobs.n):
        cells = [jobs.names[j], jobs.p[j], jobs.r[j], jobs.due[j], jobs.weight[j]]
        rows.append([*cells, *families[j : j + 1]])
    write_rows(path, rows)


def write_rows(path: Path, rows: Sequence[Sequence[Any]]) -> None:
    """A CSV file."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def read_plan(path: Path, jobs: Jobs) -> list[int]:
    """The order of a plan: the column job, in the order of its rows."""
    lines = text_of(path).splitlines()
    rows = list(csv.reader(lines, delimiter=max(",;\t", key=lines[0].count) if lines else ","))
    heads = [word.strip().lower() for word in rows[0]] if rows else []
    places = [i for i, word in enumerate(heads) if COLUMNS.get(word) == "names"]
    if not places:
        raise FileError(f"{path}: the column job is missing", "Give a plan as schedule solve --plan writes it")
    names = [row[places[0]].strip() for row in rows[1:] if len(row) > places[0]]
    order = jobs.index(names, option=str(path))
    if len(set(order)) < len(order):
        raise FileError(f"{path} names a job twice", "Keep one row per job")
    return order


def read_optima(path: Path) -> list[tuple[str, int]]:
    """One number per line, or `name value` lines; others are ignored."""
    found = []
    for line in text_of(path).splitlines():
        match = re.fullmatch(r"\s*(?:(\S+)\s+)?(\d+)\s*", line)
        if match:
            found.append((match.group(1) or "", int(match.group(2))))
    return found


def natural(path: Path) -> list[Any]:
    """Sort key: digits by value."""
    return [int(word) if word.isdigit() else word for word in re.split(r"(\d+)", path.name)]


def expand(files: Sequence[Path], pattern: str) -> Iterator[Path]:
    """Files, and the files of folders that match the pattern, in natural order."""
    for path in files:
        if path.is_dir():
            found = sorted(path.glob(pattern or "*"), key=natural)
            found = [item for item in found if item.is_file()]
            if not found:
                raise FileError(f"{path} holds no file that matches {pattern or '*'!r}", "Give another --pattern")
            yield from found
        else:
            yield path
