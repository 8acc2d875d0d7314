"""`onlyforward report DIR...`: rebuild the report of finished runs from `result.json` alone, in any format."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from onlyforward.core.errors import FileError, UsageError


@dataclass(frozen=True, kw_only=True)
class Options:
    """Rebuild the report of a finished run in any format; several runs stand side by side."""

    folders: tyro.conf.Positional[tuple[Path, ...]]
    """--out folders of finished runs."""
    format: Literal["html", "md", "latex", "csv"] = "html"
    """Format of the report."""
    output: Path | None = None
    """File to write (default: report.html in the folder; other formats go to stdout)."""
    json: bool = False
    """Print one JSON object on stdout."""
    traceback: bool = False
    """Show the Python traceback of an error."""


def run(options: Options) -> int:
    """Write the report and say what it holds."""
    from onlyforward.report.html import external_references, page
    from onlyforward.report.tables import latex, markdown, to_csv

    if not options.folders:
        raise UsageError("report got no folder", "Give the --out folder of a finished run")
    reports = [read_result(folder) for folder in options.folders]
    report = reports[0] if len(reports) == 1 else side_by_side(reports, options.folders)
    if options.format == "html":
        content = page(report, options.folders[0])
        target: Path | None = options.output or options.folders[0] / "report.html"
    else:
        form = {"md": markdown, "latex": latex, "csv": to_csv}[options.format]
        content = "\n".join(form(table) for table in report["tables"])
        target = options.output
    if target is not None:
        target.write_text(content, encoding="utf-8")
    elif not options.json:
        sys.stdout.write(content)
    metrics = {
        "tables": len(report["tables"]),
        "figures": len(report["figures"]) + len({curve["figure"] for curve in report.get("curves", [])}),
        "report_bytes": len(content.encode()),
        "external_references": external_references(content) if options.format == "html" else 0,
    }
    if options.json:
        print(
            json.dumps(
                {"app": "report", "status": "done", "metrics": metrics, "output": str(target) if target else None}
            )
        )
    elif target is not None:
        print(f"{target}: {metrics['tables']} tables, {metrics['figures']} figures, {metrics['report_bytes']} bytes")
    return 0


def read_result(folder: Path) -> dict[str, Any]:
    """`result.json` of a folder."""
    try:
        found = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        if {"app", "metrics", "tables", "answer"} <= set(found):
            return dict(found)
    except (OSError, ValueError, TypeError):
        pass
    raise FileError(f"{folder} holds no result", "Give the --out folder of a finished run")


def side_by_side(reports: list[dict[str, Any]], folders: tuple[Path, ...]) -> dict[str, Any]:
    """One report with a row per metric and a column per run."""
    names = list(dict.fromkeys(name for report in reports for name in report["metrics"]))
    rows = [[name, *(report["metrics"].get(name) for report in reports)] for name in names]
    table = {
        "title": "Runs side by side",
        "columns": ["metric", *(folder.name for folder in folders)],
        "rows": rows,
        "note": "",
    }
    answers = " ".join(f"{folder.name}: {report['answer']}" for folder, report in zip(folders, reports, strict=True))
    return {
        **reports[0],
        "question": "How do these runs compare?",
        "answer": answers,
        "tables": [table],
        "figures": {},
        "curves": [],
        "metrics": {},
    }
