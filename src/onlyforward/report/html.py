"""The report: one self-contained HTML file without script or outside reference, made from `result.json` alone."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from onlyforward.report.figures import grouped, line_chart
from onlyforward.report.style import STYLESHEET
from onlyforward.report.tables import text, to_html

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
METRICS_TABLE = {"title": "", "columns": ["metric", "value"], "note": ""}


def write_report(report: Mapping[str, Any], folder: Path) -> Path:
    """Write `report.html` into the run's folder."""
    target = folder / "report.html"
    target.write_text(page(report, folder), encoding="utf-8")
    return target


def page(report: Mapping[str, Any], folder: Path | None = None) -> str:
    """The whole page: question, answer, figures, what to know about them, tables, settings, how to repeat it."""
    title = html.escape(report["question"] or f"onlyforward {report['app']}")
    tables = report["tables"]
    parts = [
        f"<p class=asked>onlyforward {html.escape(report['app'])}</p>",
        f"<h1>{title}</h1>",
        f"<p class=answer>{html.escape(report['answer'])}</p>",
        *figures(report, folder),
        notes(report),
        *(to_html(table) for table in tables),
        "<h2>All metrics</h2>",
        to_html(
            {
                **METRICS_TABLE,
                "rows": [[name, value] for name, value in report["metrics"].items() if name != "digest48"],
            }
        ),
        "<h2>Settings</h2>",
        definitions({name: value for name, value in report["config"].items() if value not in (None, "", [], False)}),
        "<h2>How to repeat it</h2>",
        f"<p><code>{html.escape(report.get('command', ''))}</code></p>",
        definitions(
            {
                **report["versions"],
                "seed": report["seed"],
                "digest": report["digest"],
                "forward runs": report["forward_runs"],
                "seconds": report["seconds"],
            }
        ),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLESHEET}</style></head><body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def notes(report: Mapping[str, Any]) -> str:
    """Warnings that belong to the numbers."""
    if not report["notes"]:
        return ""
    return "<ul class=small>" + "".join(f"<li>{html.escape(note)}</li>" for note in report["notes"]) + "</ul>"


def definitions(values: Mapping[str, Any]) -> str:
    """Names and values."""
    rows = "".join(
        f"<dt>{html.escape(str(name))}</dt><dd>{html.escape(text(value))}</dd>" for name, value in values.items()
    )
    return f"<dl>{rows}</dl>"


def figures(report: Mapping[str, Any], folder: Path | None) -> list[str]:
    """Drawn curves, then the pictures that the run left in its folder."""
    found = []
    if find_spec("matplotlib") is not None:
        for title, curves in grouped(report.get("curves", [])).items():
            found.append(figure(title, line_chart(title, curves)))
    for title, name in report["figures"].items():
        path = (folder / name) if folder is not None else None
        if path is not None and path.is_file() and path.parent == folder:
            found.append(figure(title, picture(path, title)))
    return found


def figure(title: str, content: str) -> str:
    """A figure with its caption as alternative text."""
    name = html.escape(title, quote=True)
    return f'<figure role="img" aria-label="{name}">{content}<figcaption>{name}</figcaption></figure>'


def picture(path: Path, title: str) -> str:
    """An SVG or PNG of the run as a data URI: an image can neither run a script nor fetch anything."""
    kind = {".svg": "image/svg+xml", ".png": "image/png", ".jpg": "image/jpeg"}[path.suffix.lower()]
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return f'<img alt="{html.escape(title, quote=True)}" src="data:{kind};base64,{data}">'


def external_references(content: str) -> int:
    """How many `src` or `href` point outside the file, fragments and data URIs aside."""
    found = re.findall(r"""(?:xlink:)?(?:src|href)\s*=\s*["']?([^"'\s>]+)""", content)
    return sum(not target.startswith(("data:", "#")) for target in found)
