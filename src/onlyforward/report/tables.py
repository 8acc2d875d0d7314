"""One table, five forms: terminal, Markdown, LaTeX, HTML, CSV. A table is the dictionary of `result.json`."""

from __future__ import annotations

import csv
import html
import io
import os
from collections.abc import Mapping
from typing import Any, TextIO

TableData = Mapping[str, Any]
"""{"title", "columns", "rows", "note"}."""


def text(cell: Any) -> str:
    """A cell for people: four significant digits, empty for null."""
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, float):
        return f"{cell:.4g}" if abs(cell) < 1e5 else f"{cell:,.0f}"
    if isinstance(cell, int):
        return f"{cell:,}" if abs(cell) >= 100_000 else str(cell)
    return " ".join(str(cell).split())


def markdown(table: TableData) -> str:
    """A Markdown table with title and note."""
    columns = [escape_markdown(column) for column in table["columns"]]
    lines = [f"### {escape_markdown(table['title'])}", "", "| " + " | ".join(columns) + " |"]
    lines.append("|" + "|".join("---" for _ in columns) + "|")
    lines += ["| " + " | ".join(escape_markdown(text(cell)) for cell in row) + " |" for row in table["rows"]]
    return "\n".join([*lines, "", escape_markdown(table["note"]), ""] if table["note"] else [*lines, ""])


def escape_markdown(value: str) -> str:
    """No cell breaks the table or becomes markup."""
    for sign in ("\\", "|", "<", ">", "`", "*", "_", "["):
        value = value.replace(sign, f"\\{sign}")
    return " ".join(value.split())


def latex(table: TableData) -> str:
    """A booktabs table."""
    rows = [" & ".join(escape_latex(text(cell)) for cell in row) + r" \\" for row in table["rows"]]
    head = " & ".join(escape_latex(column) for column in table["columns"]) + r" \\"
    alignment = "l" + "r" * (len(table["columns"]) - 1)
    body = [r"\toprule", head, r"\midrule", *rows, r"\bottomrule"]
    caption = escape_latex(f"{table['title']}. {table['note']}".strip())
    return "\n".join(
        [
            r"\begin{table}",
            rf"\begin{{tabular}}{{{alignment}}}",
            *body,
            r"\end{tabular}",
            rf"\caption{{{caption}}}",
            r"\end{table}",
            "",
        ]
    )


def escape_latex(value: str) -> str:
    """LaTeX's ten special characters."""
    signs = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    signs |= {sign: f"\\{sign}" for sign in "&%$#_{}"}
    return "".join(signs.get(sign, sign) for sign in value)


def to_html(table: TableData) -> str:
    """A table with caption; numbers are aligned by class."""
    numeric = [any(isinstance(row[i], int | float) for row in table["rows"]) for i in range(len(table["columns"]))]
    kinds = [" class=number" if is_number else "" for is_number in numeric]
    head = "".join(
        f"<th{kind}>{html.escape(column)}</th>" for kind, column in zip(kinds, table["columns"], strict=True)
    )
    rows = "".join("<tr>" + "".join(cell_html(cell) for cell in row) + "</tr>" for row in table["rows"])
    note = f"<p class=note>{html.escape(table['note'])}</p>" if table["note"] else ""
    caption = f"<caption>{html.escape(table['title'])}</caption>" if table["title"] else ""
    return f"<div class=scroll><table>{caption}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>{note}"


def cell_html(cell: Any) -> str:
    """One escaped cell."""
    kind = " class=number" if isinstance(cell, int | float) else ""
    return f"<td{kind}>{html.escape(text(cell))}</td>"


def to_csv(table: TableData) -> str:
    """Full precision, one header line."""
    target = io.StringIO()
    writer = csv.writer(target)
    writer.writerow(table["columns"])
    writer.writerows(["" if cell is None else cell for cell in row] for row in table["rows"])
    return target.getvalue()


def to_terminal(report: Mapping[str, Any], target: TextIO) -> None:
    """Answer and tables of a result: rich on a terminal, plain text on a pipe or with NO_COLOR."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    width = None if target.isatty() else 200
    console = Console(file=target, width=width, no_color="NO_COLOR" in os.environ, highlight=False)
    for table in report["tables"]:
        shown = Table(
            title=escape(table["title"]),
            title_justify="left",
            caption=escape(table["note"]) or None,
            caption_justify="left",
        )
        for i, column in enumerate(table["columns"]):
            numeric = any(isinstance(row[i], int | float) for row in table["rows"] if i < len(row))
            shown.add_column(escape(column), justify="right" if numeric else "left", overflow="fold")
        for row in table["rows"]:
            shown.add_row(*(escape(text(cell)) for cell in row))
        console.print(shown)
    for note in report["notes"]:
        console.print(f"note: {escape(note)}")
    console.print(escape(report["answer"]))
