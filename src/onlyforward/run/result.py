"""What a run leaves behind: metrics, tables, artefact tensors, and the digest that names it."""

from __future__ import annotations

import json
import math
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

from onlyforward.core.errors import UsageError


@dataclass(frozen=True)
class Table:
    """One table of a result.

    Attributes:
        title: what the rows are.
        columns: headings with units.
        rows: one sequence of numbers and strings per row.
        note: what a reader must know, one or two sentences.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """The form in `result.json`."""
        rows = [[plain(cell) for cell in row] for row in self.rows]
        return {"title": self.title, "columns": list(self.columns), "rows": rows, "note": self.note}


@dataclass(frozen=True)
class Curve:
    """One line of a figure.

    Attributes:
        figure: title of the figure; curves of equal title share it.
        label: name of the line.
        x: abscissae.
        y: ordinates.
        x_label: with its unit.
        y_label: with its unit.
        spread: half widths of the error bars, or empty.
    """

    figure: str
    label: str
    x: Sequence[float]
    y: Sequence[float]
    x_label: str
    y_label: str
    spread: Sequence[float] = ()

    def to_json(self) -> dict[str, Any]:
        """The form in `result.json`."""
        return {key: plain(value) for key, value in self.__dict__.items()}


@dataclass
class Result:
    """The outcome of one command, filled while it runs.

    Attributes:
        app: the application or tool.
        question: what was asked, one sentence, for the top of the report.
        answer: the answer in one sentence.
        metrics: name -> number; names hold letters, digits and underscores.
        timing: names of the metrics that are times, rates or memory, left out of the digest.
        tables: for people; the first one is the headline with its peers.
        figures: title -> file name of an SVG or PNG inside the run's folder.
        curves: lines of the figures that the report draws.
        artefacts: tensors that are the result proper, for `digest`.
        forward_runs: forward runs of the surviving path, counted once.
        status: "done", "failed", "stopped" or "partial".
        notes: warnings that belong to the numbers.
        exit_code: of the command that made it, 0 unless a documented one applies.
    """

    app: str
    question: str = ""
    answer: str = ""
    metrics: dict[str, float | None] = field(default_factory=dict)
    timing: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    figures: dict[str, str] = field(default_factory=dict)
    curves: list[Curve] = field(default_factory=list)
    artefacts: dict[str, Any] = field(default_factory=dict)
    forward_runs: int = 0
    status: str = "done"
    notes: list[str] = field(default_factory=list)
    seed: int = 0
    seconds: float = 0.0
    config: dict[str, Any] = field(default_factory=dict)
    resumed_from: list[int] = field(default_factory=list)
    exit_code: int = 0

    def metric(self, name: str, value: float | int | bool, *, timing: bool = False) -> None:
        """Record one number; a NaN or infinity becomes null and a note."""
        if not name.replace("_", "").isalnum():
            raise UsageError(f"The metric name {name!r} is not made of letters, digits and underscores", "Rename it")
        number = value.item() if hasattr(value, "item") else value
        if isinstance(number, bool):
            number = int(number)
        if isinstance(number, float) and not math.isfinite(number):
            self.notes.append(f"{name} is {number}")
            number = None
        self.metrics[name] = number
        if timing and name not in self.timing:
            self.timing.append(name)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], note: str = "") -> None:
        """Append one table."""
        self.tables.append(Table(title, columns, rows, note))

    def curve(
        self,
        figure: str,
        label: str,
        x: Sequence[float],
        y: Sequence[float],
        *,
        x_label: str,
        y_label: str,
        spread: Sequence[float] = (),
    ) -> None:
        """Append one line of a figure: what is drawn in the report, with units in the labels."""
        self.curves.append(Curve(figure, label, list(x), list(y), x_label, y_label, list(spread)))

    def digest(self) -> str:
        """SHA-256 of the artefact tensors, then of the canonical JSON of tables and metrics without timings.

        A table column whose heading names a time or a rate ("s", "ms", "/s" as unit) is left out as well.
        """
        total = sha256()
        if self.artefacts:
            from onlyforward.core.params import digest

            total.update(digest(self.artefacts).encode())
        metrics = {name: value for name, value in self.metrics.items() if name not in self.timing}
        tables = [without_times(table.to_json()) for table in self.tables]
        canonical = json.dumps({"metrics": metrics, "tables": tables}, sort_keys=True, separators=(",", ":"))
        total.update(canonical.encode())
        return total.hexdigest()

    def to_json(self) -> dict[str, Any]:
        """The object in `result.json` and on stdout with `--json`."""
        if self.artefacts and "digest48" not in self.metrics:
            from onlyforward.core.params import digest48

            self.metrics["digest48"] = digest48(self.artefacts)
        return {
            "app": self.app,
            "status": self.status,
            "question": self.question,
            "answer": self.answer,
            "metrics": self.metrics,
            "tables": [table.to_json() for table in self.tables],
            "figures": self.figures,
            "curves": [curve.to_json() for curve in self.curves],
            "seed": self.seed,
            "forward_runs": self.forward_runs,
            "seconds": self.seconds,
            "config": self.config,
            "versions": versions(),
            "digest": self.digest(),
            "timing": self.timing,
            "resumed_from": self.resumed_from,
            "notes": self.notes,
        }


def stored(folder: Path) -> Result | None:
    """The result in `result.json` of a folder, without its artefact tensors; None where there is none to read."""
    try:
        found = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        tables = [Table(**table) for table in found["tables"]]
        curves = [Curve(**curve) for curve in found["curves"]]
        kept = {field.name: found[field.name] for field in fields(Result) if field.name in found}
        return Result(**(kept | {"tables": tables, "curves": curves}))
    except (OSError, ValueError, KeyError, TypeError):
        return None


TIME_UNITS = ("[s]", "[ms]", "[us]", "[/s]", "[MB]", "seconds")


def without_times(table: dict[str, Any]) -> dict[str, Any]:
    """The table without the columns that hold times, rates or memory: their heading carries the unit in brackets."""
    kept = [i for i, column in enumerate(table["columns"]) if not any(unit in column for unit in TIME_UNITS)]
    rows = [[row[i] for i in kept if i < len(row)] for row in table["rows"]]
    return {**table, "columns": [table["columns"][i] for i in kept], "rows": rows}


def plain(value: Any) -> Any:
    """Numbers of numpy and torch as Python's own; paths as strings; containers through and through."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return plain(value.item()) if hasattr(value, "item") else value


def versions() -> dict[str, str]:
    """Versions of the interpreter and of what the numbers depend on; reads metadata, imports nothing."""
    from importlib import metadata

    found = {"python": platform.python_version(), "machine": platform.machine(), "system": sys.platform}
    for name in ("onlyforward", "torch", "numpy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
